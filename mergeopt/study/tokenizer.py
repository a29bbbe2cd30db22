"""The donor's tokenizer."""

from pathlib import Path
from typing import Any

from mergeopt.errors import InputError


def load_tokenizer(folder: Path) -> Any:
    """A transformers tokenizer.

    Raises:
        InputError: none there, or one that transformers cannot read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever its readers met
        problem = (
            f"the tokenizer cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0].rstrip(' :')}"
        )
        raise InputError(problem, where=str(folder), remedy="copy the tokenizer files into the folder") from None
