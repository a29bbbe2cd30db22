from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.header import StoredTensor
from mergeopt.checkpoint.layout import shape_of
from mergeopt.merge.folder import Prepared, merge_to_folder, prepare
from mergeopt.merge.layout import Facts
from mergeopt.merge.plan import Job, Plan, make_plan
from mergeopt.merge.sources import open_models
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef, Recipe
from tests.conftest import Weights, llama_weights, read_weights


def recipe_of(text: str) -> Recipe:
    return read_recipe(parse_document(dedent(text), "r.yml"), SCHEMAS).recipe


def facts_of(
    layers: int = 4, *, head: bool = True, tied: bool = False, **changed: tuple[str, tuple[int, ...]]
) -> Facts:
    """What planning sees of a small Llama; `changed` maps a name (dots as __) to another dtype and shape."""
    sizes = {name: ("float32", tuple(t.shape)) for name, t in llama_weights(layers, head=head).items()}
    sizes |= {name.replace("__", "."): value for name, value in changed.items()}
    tensors = {n: StoredTensor(n, dtype, shape, Path("x"), 0, 0) for n, (dtype, shape) in sizes.items() if shape}
    return Facts(shape_of(tensors, {"num_hidden_layers": layers}), tied)


def plan_of(text: str, **models: Facts) -> Plan:
    """The plan of a recipe whose models are given by name."""
    recipe = recipe_of(text)
    return make_plan(recipe, {ModelRef(name): facts for name, facts in models.items()}, SCHEMAS[recipe.method])


def jobs_of(plan: Plan) -> dict[str, Job]:
    return {job.tensor: job for job in plan.jobs}


def prepared(text: str) -> Prepared:
    """A recipe with models in the working folder."""
    recipe = recipe_of(text)
    return prepare(recipe, open_models(recipe.named, None, recipe.base))


def merged(text: str, out: Path, **options: Any) -> Weights:
    """The weights of a merge, read from its folder."""
    merge_to_folder(prepared(text), out, **options)
    return read_weights(out)


def opened(folder: Path) -> Mapping[str, Any]:
    """The config of a model folder, by our own reader."""
    return Checkpoint.open(folder).config
