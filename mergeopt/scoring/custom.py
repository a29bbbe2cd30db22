"""An own scorer: a Python function as an eval, ``python:package.module.function``.

``function(model, tokenizer, items) -> Sequence[float]``, one number per item, their mean the score. The function
carries two attributes: `items`, a sequence of JSON-able mappings, and `higher_is_better`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mergeopt.errors import InputError
from mergeopt.scoring.base import Items, NonFiniteError
from mergeopt.scoring.entry import ObjectiveEntry

PREFIX = "python:"


class CustomEval:
    """A user's function with its items."""

    metric_key = "score,none"
    notices: tuple[str, ...] = ()

    def __init__(self, entry: ObjectiveEntry, *, trust_code: bool) -> None:
        self.entry, self.where = entry, entry.eval
        target = entry.eval.removeprefix(PREFIX)
        if not trust_code:
            raise InputError("an own scorer runs your Python code", where=self.where, remedy="--trust-eval-code")
        module, _, self.name = target.rpartition(".")
        try:
            self._function: Any = getattr(import_module(module), self.name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"cannot import the scorer: {error}", where=self.where) from error
        for attribute in ("items", "higher_is_better"):
            if not hasattr(self._function, attribute):
                raise InputError(
                    f"the scorer has no attribute {attribute!r}",
                    where=self.where,
                    remedy=f"set `{self.name}.{attribute} = ...` after the function",
                )

    @property
    def higher_is_better(self) -> bool:
        """The entry's direction, else the function's."""
        if self.entry.direction is not None:
            return self.entry.direction == "maximize"
        return bool(self._function.higher_is_better)

    def docs(self) -> list[Mapping[str, Any]]:
        """All items, in the function's order."""
        return list(cast(Sequence[Mapping[str, Any]], self._function.items))

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, docs: Sequence[Mapping[str, Any]]
    ) -> Items:
        """The function's number for each item.

        Raises:
            InputError: Not one number per item.
            NonFiniteError: A number is NaN or infinite.
        """
        items = np.asarray(self._function(model, tokenizer, docs), dtype=np.float64)
        if items.shape != (len(docs),):
            raise InputError(f"the scorer gave {items.shape} numbers for {len(docs)} items", where=self.where)
        if not np.isfinite(items).all():
            raise NonFiniteError(f"{self.where} gave NaN or Inf")
        return items
