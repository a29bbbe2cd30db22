"""Which chat template the output carries: the models' own, one of the common formats by name, or a text.

The formats are written here from their public descriptions, in Jinja as transformers renders it.
"""

from collections import Counter
from collections.abc import Mapping

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.checkpoint.tokens import CONFIG_FILE
from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.recipe import ModelRef, Recipe

TEMPLATE_FILE = "chat_template.jinja"
_SHORTEST = 20  # mergekit takes a shorter text for a misspelt name

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# A system text stands before the first user's text, in the same turn.
_MISTRAL = (
    "{{ bos_token }}"
    "{% set said = namespace(system='') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set said.system = message['content'] + '\n\n' %}"
    "{% elif message['role'] == 'user' %}"
    "{{ '[INST] ' + said.system + message['content'] + ' [/INST]' }}{% set said.system = '' %}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
_ALPACA = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
# Every conversation begins with a system turn, if only an empty one; a user's turn ends with the line.
_EXAONE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '[|system|][|endofturn|]\n' }}{% endif %}"
    "{{ '[|' + message['role'] + '|]' + message['content'] }}"
    "{{ '\n' if message['role'] == 'user' else '[|endofturn|]\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
)
FORMATS = {"alpaca": _ALPACA, "chatml": _CHATML, "exaone": _EXAONE, "llama3": _LLAMA3, "mistral": _MISTRAL}


def choose_template(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> tuple[str | None, list[str]]:
    """The text to write, None where the tokenizer's own files already say it; and what is to be known about it.

    Raises:
        InputError: neither a word nor a template.
    """
    asked = recipe.chat_template
    if asked is None:
        return None, []
    if asked == "auto":
        return _most_frequent(recipe, checkpoints)
    if asked in FORMATS:
        return FORMATS[asked], []
    if "{" in asked and len(asked) >= _SHORTEST:
        return asked, []
    words = ("auto", *FORMATS)
    raise InputError(
        f"chat_template {asked!r} is neither a known format nor a Jinja text of {_SHORTEST} characters or more",
        remedy=did_you_mean(asked, words) or f"known: {', '.join(words)}",
    )


def chat_template(checkpoint: Checkpoint) -> str | None:
    """A model's own chat template, or None."""
    file = checkpoint.folder / TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = checkpoint.folder / CONFIG_FILE
    text = read_json_object(config).get("chat_template") if config.is_file() else None
    if isinstance(text, list):  # several, by name
        texts = {entry.get("name"): entry.get("template") for entry in text if isinstance(entry, dict)}
        text = texts.get("default")
    return text if isinstance(text, str) else None


def _most_frequent(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> tuple[str | None, list[str]]:
    """The template of most models; of equally frequent ones the first listed."""
    texts = {ref: text for ref in recipe.models if (text := chat_template(checkpoints[ref])) is not None}
    if not texts:
        return None, ["chat_template 'auto': no model has a chat template"]
    counts = Counter(texts.values())
    chosen, votes = counts.most_common(1)[0]  # in the order of first sight
    if len(counts) == 1:
        return chosen, []
    whose = next(ref for ref, text in texts.items() if text == chosen)
    return chosen, [
        f"chat_template 'auto': the models have {len(counts)} different templates; "
        f"the output carries that of {str(whose)!r}, which {votes} of {len(texts)} have"
    ]
