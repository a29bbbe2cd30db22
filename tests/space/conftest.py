"""Made-up models as shapes, and the check that every space must pass: what is written is what was meant."""

from collections.abc import Callable, Sequence

import pytest

from mergeopt.merge.layout import Facts, lay_out
from mergeopt.merge.plan import fill
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document, parse_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.shape import Shape, TensorInfo
from mergeopt.recipe.write import to_yaml
from mergeopt.space.branch import Branch
from mergeopt.space.space import Space, parse_space

LLAMA = (
    "input_layernorm.weight",
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    "post_attention_layernorm.weight",
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
)
OUTER = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def make_shape(
    layers: int, parts: Sequence[str] = LLAMA, outer: Sequence[str] = OUTER, stack: str = "model.layers"
) -> Shape:
    infos = [TensorInfo(name, (8, 8), "float32", "", None, name) for name in outer]
    infos += [
        TensorInfo(f"{stack}.{i}.{part}", (8, 8), "float32", stack, i, part) for i in range(layers) for part in parts
    ]
    return Shape({info.name: info for info in infos}, {stack: layers})


def document(text: str) -> Document:
    return parse_document(text, "space.yml")


def space_of(text: str, shape: Shape | None = None) -> Space:
    shape = shape or make_shape(4)
    return parse_space(document(text), schemas=SCHEMAS, shape_of=lambda _: shape)


def names(branch: Branch) -> list[str]:
    return [dimension.name for dimension in branch.dimensions]


def assert_written_as_meant(branch: Branch, point: Sequence[float], shape_of: Callable[[ModelRef], Shape]) -> int:
    """Resolves the written recipe by mergekit's rules and compares every coefficient; returns how many."""
    text = to_yaml(branch.recipe(point))
    recipe = read_recipe(parse_document(text, "written.yml"), SCHEMAS).recipe
    schema = SCHEMAS[recipe.method]
    shapes = {ref: shape_of(ref) for ref in recipe.models}
    facts = {ref: Facts(shape, "lm_head.weight" not in shape.tensors) for ref, shape in shapes.items()}
    layout = lay_out(recipe, facts, schema)
    plan = fill(layout, recipe, schema)
    compared = 0
    for slot, job in zip(layout.slots, plan.jobs, strict=True):
        for key, value in job.coefficients.items():
            if schema.parameters[key].per_source:
                pairs = [(i, v) for (i, _), v in zip(slot.sources, value, strict=True)]
            else:
                pairs = [(None, value)]
            for source, found in pairs:
                meant = branch.intended(point, source, key, slot.tensor)
                assert found == pytest.approx(meant, rel=6e-6, abs=1e-9), f"{source} {key} {slot.tensor}\n{text}"
                compared += 1
    return compared
