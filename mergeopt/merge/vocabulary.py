"""Whose tokenizer the output carries, and whether rows of the embeddings may be merged by number.

Embeddings are merged row by row, which is right where every model gives a token the same id. A recipe that asks for
another vocabulary (`tokenizer_source: union`) is honoured where the vocabularies are the same, so that nothing would
change, and refused where they are not.
"""

import filecmp
from collections.abc import Mapping
from dataclasses import dataclass

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.checkpoint.tokenizer import special_token_difference, vocabulary_difference
from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.recipe import ModelRef, Recipe

TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`donor` gives the tokenizer files; `chat_template` is written over its own where it is not None."""

    donor: ModelRef
    chat_template: str | None
    notices: tuple[str, ...]


def choose_vocabulary(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> Vocabulary:
    """Settles `tokenizer_source` and `chat_template`.

    Raises:
        InputError: the recipe asks for a vocabulary or a template that would have to be made.
    """
    donor = _donor(recipe)
    notices = []
    for ref in recipe.models:
        if ref == donor or _same_files(checkpoints[donor], checkpoints[ref]):
            continue
        vocabulary = vocabulary_difference(checkpoints[donor], checkpoints[ref])
        if vocabulary and recipe.tokenizer_source:
            raise InputError(
                f"tokenizer_source {recipe.tokenizer_source!r} cannot be applied yet: the tokenizers of "
                f"{str(donor)!r} and {str(ref)!r} differ ({vocabulary})",
                remedy="bring the models to one tokenizer first, or drop the key to merge rows by their number",
            )
        special = special_token_difference(checkpoints[donor], checkpoints[ref])
        if vocabulary or special:
            notices.append(
                f"the tokenizers of {str(donor)!r} and {str(ref)!r} differ ({vocabulary or special}); "
                f"the output carries that of {str(donor)!r}"
            )
    return Vocabulary(donor, _template(recipe, checkpoints), tuple(notices))


def _donor(recipe: Recipe) -> ModelRef:
    asked = recipe.tokenizer_source
    if asked in (None, "base", "union"):
        return recipe.donor
    named = ModelRef.parse(asked, "tokenizer_source")
    if named in recipe.models:
        return named
    raise InputError(
        f"tokenizer_source names {asked!r}, which is no model of this recipe",
        remedy=did_you_mean(str(asked), ("base", "union", *map(str, recipe.models))),
    )


def _same_files(a: Checkpoint, b: Checkpoint) -> bool:
    """Are the tokenizers the same bytes? Spares parsing them, which takes long for large vocabularies."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        first, second = a.folder / name, b.folder / name
        if not (first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False)) and (
            name == "tokenizer.json" or first.is_file() or second.is_file()
        ):
            return False
    return True


def _template(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> str | None:
    """The text to write; None where the tokenizer's own files already say it."""
    asked = recipe.chat_template
    if asked is None:
        return None
    if asked != "auto":
        if "{" in asked and len(asked) >= 20:
            return asked
        raise InputError(
            f"chat_template {asked!r} is neither 'auto' nor a Jinja text", remedy="give the text of the template"
        )
    found = {text: ref for ref in reversed(recipe.models) if (text := chat_template(checkpoints[ref])) is not None}
    if len(found) > 1:
        raise InputError(
            f"chat_template 'auto': the models have {len(found)} different templates "
            f"({', '.join(repr(str(ref)) for ref in found.values())})",
            remedy="give the text of the one you mean",
        )
    return next(iter(found), None)


def chat_template(checkpoint: Checkpoint) -> str | None:
    """A model's own chat template, or None."""
    file = checkpoint.folder / TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = checkpoint.folder / "tokenizer_config.json"
    text = read_json_object(config).get("chat_template") if config.is_file() else None
    return text if isinstance(text, str) else None
