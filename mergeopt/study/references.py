"""What every search is compared with: the parents, and the recipes that people use without searching.

They are ordinary recipes over the same models. A learned merge that does not beat the best of them is not returned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.recipe.settings import Entry, Setting

Kind = Literal["base", "parent", "fixed", "start", "compare", "learned"]


@dataclass(frozen=True)
class Contender:
    """A recipe under the name that tables show. `eligible`: it may be what the search returns."""

    name: str
    kind: Kind
    recipe: Recipe

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
    """The uniform average, and with a base task arithmetic, TIES and DARE-TIES as usually advised."""
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


def tuned(recipe: Recipe) -> tuple[ModelRef, ...]:
    """The models that are merged, without the base."""
    return tuple(ref for ref in recipe.models if ref != recipe.base)


def alone(ref: ModelRef, like: Recipe) -> Recipe:
    """One model as it is, in the recipe's dtype."""
    return replace(like, method="passthrough", slices=(Slice((Source(ref),)),), base=None, parameters={})


def _merge(
    method: str, refs: tuple[ModelRef, ...], like: Recipe, parameters: Mapping[str, float], *, base: ModelRef | None
) -> Recipe:
    settings: dict[str, Setting] = {name: (Entry(None, (value,)),) for name, value in parameters.items()}
    sources = tuple(Source(ref, None, settings) for ref in refs)
    return replace(like, method=method, slices=(Slice(sources),), base=base, parameters={})
