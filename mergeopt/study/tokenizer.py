"""The tokenizer of a search: one for all candidates, since their scores are compared token for token."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergeopt.errors import InputError
from mergeopt.merge.vocabulary import Vocabulary, carry_files
from mergeopt.recipe.recipe import ModelRef, Recipe


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


def output_tokenizer(vocabulary: Vocabulary) -> Any:
    """The tokenizer that the merged model will carry, loaded as its users will load it.

    Raises:
        InputError: one that transformers cannot read.
    """
    donor = vocabulary.checkpoints[vocabulary.donor].folder
    if not vocabulary.files:
        return load_tokenizer(donor)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_bytes((donor / "config.json").read_bytes())  # names the kind of tokenizer
        carry_files(vocabulary, folder)
        return load_tokenizer(folder)


def check_one_vocabulary(recipes: Sequence[Recipe]) -> None:
    """All branches of a search must speak the same tokens.

    Raises:
        InputError: they ask for different vocabularies, or for one made of different models.
    """
    first = recipes[0]
    for recipe in recipes[1:]:
        if recipe.tokenizer != first.tokenizer:
            raise InputError("a search has one vocabulary", where="tokenizer", remedy="choose it before the search")
        made_of_models = first.tokenizer is not None and not first.tokenizer.among
        if made_of_models and _vocabulary_of(recipe) != _vocabulary_of(first):
            raise InputError(
                "the choices merge different models, so their vocabularies differ",
                where="tokenizer",
                remedy="list all models under tokenizer: among:",
            )


def check_models_spoken(recipe: Recipe, others: Sequence[Recipe], teachers: Sequence[ModelRef]) -> None:
    """What stands beside the search must be in its vocabulary.

    Raises:
        InputError: a recipe asks for another vocabulary; a model that the search's was not made for.
    """
    known = set(recipe.named)
    for other in others:
        if other.tokenizer not in (None, recipe.tokenizer):
            raise InputError(
                f"a recipe to start from or compare with has {_asked(other)}, the search {_asked(recipe)}",
                where="optimize",
                remedy="ask for the same vocabulary in both",
            )
    strangers = [ref for ref in (*teachers, *(r for other in others for r in other.models)) if ref not in known]
    if recipe.tokenizer is not None and strangers:
        raise InputError(
            f"{str(strangers[0])!r} is no model of the recipe, so it is not brought to its vocabulary",
            where="tokenizer",
            remedy="list all models under tokenizer: among:",
        )


def in_vocabulary_of(recipe: Recipe, other: Recipe) -> Recipe:
    """`other` with the vocabulary of `recipe`, also where it merges fewer of the models."""
    request = recipe.tokenizer
    if request is not None and not request.among and _vocabulary_of(other) != _vocabulary_of(recipe):
        request = replace(request, among=recipe.models, base=recipe.base)
    return replace(other, tokenizer=request)


def _vocabulary_of(recipe: Recipe) -> tuple[object, ...]:
    """What a vocabulary depends on, beside the request."""
    return recipe.models, recipe.base


def _asked(recipe: Recipe) -> str:
    request = recipe.tokenizer
    return "no tokenizer request" if request is None else f"tokenizer source {str(request.source)!r}"
