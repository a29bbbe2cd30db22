"""What every search is compared with: the parents, and the recipes that people use without searching.

They are ordinary recipes over the same models. A learned merge that does not beat the best of them is not returned.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mergeopt.errors import InputError
from mergeopt.files import find_file
from mergeopt.merge.closed_form import layer_weights, norm_weights, overlaps
from mergeopt.merge.layout import lay_out
from mergeopt.merge.refinement import Refinement
from mergeopt.merge.sources import Checkpoints, facts
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.recipe.settings import Entry, Setting
from mergeopt.study.tokenizer import in_vocabulary_of

Kind = Literal["base", "parent", "fixed", "start", "compare", "learned"]


@dataclass(frozen=True)
class Contender:
    """A recipe, perhaps refined below the tensor, under the name that tables show.

    `eligible`: it may be what the search returns.
    """

    name: str
    kind: Kind
    recipe: Recipe
    refinement: Refinement | None = None

    @property
    def eligible(self) -> bool:
        return self.kind != "compare"


def parents(recipe: Recipe) -> list[Contender]:
    """The base, if any, and every source, each as it is."""
    found = []
    if recipe.base is not None:
        found.append(Contender(str(recipe.base), "base", alone(recipe.base, recipe)))
    for ref in tuned(recipe):
        found.append(Contender(str(ref), "parent", alone(ref, recipe)))
    return found


def fixed(recipe: Recipe) -> list[Contender]:
    """The uniform average, and with a base task arithmetic, TIES and DARE-TIES as usually advised, and closed forms."""
    refs = tuned(recipe)
    if len(refs) < 2 and recipe.base is not None:
        refs = (*refs, recipe.base)
    uniform = _merge("linear", refs, recipe, {"weight": 1 / len(refs)}, base=None)
    found = [Contender("uniform", "fixed", uniform)]
    if recipe.base is not None:
        usual: Mapping[str, Mapping[str, float]] = {
            "task_arithmetic 0.4": {"weight": 0.4},
            "ties 0.5/0.5": {"weight": 0.5, "density": 0.5},
            "dare_ties 0.5/0.5": {"weight": 0.5, "density": 0.5},
        }
        for name, parameters in usual.items():
            found.append(
                Contender(name, "fixed", _merge(name.split()[0], tuned(recipe), recipe, parameters, base=recipe.base))
            )
    return found


def closed_forms(recipe: Recipe, checkpoints: Checkpoints) -> list[Contender]:
    """Recipes whose coefficients follow from the weights alone, which are read once for it.

    None without a base, with fewer than two sources, or for models that do not fit together, which others will say.
    """
    if recipe.base is None or not recipe.whole_models or len(tuned(recipe)) < 2:
        return []
    plain = _merge("task_arithmetic", tuned(recipe), recipe, {}, base=recipe.base)
    try:
        measured = overlaps(plain, checkpoints)
    except InputError:
        return []
    settings: Mapping[str, Sequence[Setting]] = {
        "metagpt": [(Entry(None, (weight,)),) for weight in norm_weights(measured)],
        "least squares": layer_weights(measured),
    }
    found = []
    for name, weights in settings.items():
        sources = tuple(
            replace(source, parameters={"weight": weight})
            for source, weight in zip(plain.slices[0].sources, weights, strict=True)
        )
        found.append(Contender(name, "fixed", in_vocabulary_of(recipe, replace(plain, slices=(Slice(sources),)))))
    return found


def tuned(recipe: Recipe) -> tuple[ModelRef, ...]:
    """The models that are merged, without the base."""
    return tuple(ref for ref in recipe.models if ref != recipe.base)


def alone(ref: ModelRef, like: Recipe) -> Recipe:
    """One model as it is, in the recipe's dtype."""
    return replace(like, method="passthrough", slices=(Slice((Source(ref),)),), base=None, parameters={})


def side_by_side(refs: Sequence[ModelRef], like: Recipe, base: ModelRef | None) -> Recipe:
    """One plain merge of the models of a chain, as `like` in all but its arithmetic: what stands for them together."""
    refs = tuple(ref for ref in refs if ref != base)
    method = "linear" if base is None else "task_arithmetic"
    return _merge(method, refs, like, {"weight": 1 / len(refs)}, base=base)


def _merge(
    method: str, refs: tuple[ModelRef, ...], like: Recipe, parameters: Mapping[str, float], *, base: ModelRef | None
) -> Recipe:
    settings: dict[str, Setting] = {name: (Entry(None, (value,)),) for name, value in parameters.items()}
    sources = tuple(Source(ref, None, settings) for ref in refs)
    return replace(like, method=method, slices=(Slice(sources),), base=base, parameters={})


def _is_model(name: str, near: Path | None) -> bool:
    """Is this entry of `compare` a model folder instead of a recipe?"""
    model = ModelRef.parse(name, "optimize.compare").path
    return any((folder / model / "config.json").is_file() for folder in (Path(), near or Path()))


def named(start: Sequence[str], compare: Sequence[str], near: Path | None, like: Recipe) -> list[Contender]:
    """The recipes of `start` and `compare`, published habits and all; `compare` may also name models."""
    found = []
    kinds: dict[Kind, Sequence[str]] = {"start": start, "compare": compare}
    for kind, name in [(kind, name) for kind, names in kinds.items() for name in names]:
        if kind == "compare" and _is_model(name, near):
            found.append(Contender(name, kind, alone(ModelRef.parse(name, "optimize.compare"), like)))
        else:
            path = find_file(name, near, "search_spaces")
            found.append(Contender(path.stem, kind, read_recipe(read_document(path), SCHEMAS).recipe))
    return found


def contenders(
    recipe: Recipe, listed: Sequence[Contender], checkpoints: Checkpoints
) -> tuple[tuple[Contender, ...], list[str]]:
    """Parents, fixed and listed recipes that can be made from these models; what cannot, in words."""
    found: list[Contender] = []
    left = []
    known = facts(checkpoints)
    for contender in [*parents(recipe), *fixed(recipe), *listed]:
        spoken = in_vocabulary_of(recipe, contender.recipe)
        try:
            lay_out(spoken, known, SCHEMAS[spoken.method])
        except InputError as error:
            if contender.kind in ("start", "compare"):
                raise
            left.append(f"{contender.name!r} is not in the comparison: {error}")
        else:
            found.append(replace(contender, name=_free_name(contender, {c.name for c in found}), recipe=spoken))
    return tuple(found), left


def _free_name(contender: Contender, taken: Set[str]) -> str:
    """Names tell contenders apart, also from what the search will call its own."""
    candidates = (f"{contender.name} ({contender.kind}{count})" for count in ("", *(f" {n}" for n in range(2, 1000))))
    ours = contender.name == "consensus" or contender.name.startswith("trial ")
    return contender.name if not ours and contender.name not in taken else next(n for n in candidates if n not in taken)
