"""Messages to prompt text by a tokenizer's chat template, as lm-eval's Hugging Face model does it."""

from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from mergeopt.errors import InputError


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    """The prompt; where the template refuses a system role, the prompt without it.

    Raises:
        InputError: The tokenizer has no chat template.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError("the tokenizer has no chat template", remedy="leave `chat_template` out where it is asked for")
    settings: dict[str, Any] = {
        "tokenize": False,
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": not add_generation_prompt,
    }
    try:
        return str(tokenizer.apply_chat_template(messages, **settings))
    except jinja2.exceptions.TemplateError:
        without_system = [message for message in messages if message["role"] != "system"]
        return str(tokenizer.apply_chat_template(without_system, **settings))
