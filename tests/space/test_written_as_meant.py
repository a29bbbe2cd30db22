"""The promise of the grammar: the written recipe, resolved by mergekit's rules, gives every tensor the value meant."""

from typing import Any

from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document
from mergeopt.recipe.shape import Shape
from mergeopt.space.space import parse_space
from tests.space.conftest import assert_written_as_meant, make_shape

# Names in which an outer tensor is part of a layer's, and one module's name part of another's.
COLLIDING = (
    "attention_norm.weight",
    "attention.wq.weight",
    "attention.wqkv.weight",
    "feed_forward.up_proj.weight",
    "feed_forward.gate_up_proj.weight",
    "feed_forward.gate_up_proj.bias",
)


def shapes() -> list[Shape]:
    two = make_shape(3)
    encoder = make_shape(2, ("attn.q.weight", "mlp.up_proj.weight"), (), "encoder.layers")
    return [
        make_shape(1),
        make_shape(2),
        make_shape(5),
        make_shape(4, COLLIDING, ("tok_embeddings.weight", "norm.weight", "output.weight"), "layers"),
        Shape({**two.tensors, **encoder.tensors}, {**two.stacks, **encoder.stacks}),
    ]


SHAPES = shapes()
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking a recipe takes minutes
FILTERS = ("self_attn", "mlp", "norm", "proj", "layers.1", "embed", "up_proj", "nowhere", "*")
METHODS = {
    "linear": (("weight",), ()),
    "task_arithmetic": (("weight",), ("lambda",)),
    "ties": (("weight", "density"), ("lambda",)),
    "dare_ties": (("weight", "density"), ("lambda",)),
    "slerp": ((), ("t",)),
}


@st.composite
def holes(draw: st.DrawFn, layers: int, share: bool = True) -> dict[str, Any]:
    if share and draw(st.integers(0, 9)) == 0:
        return {"range": [0.0, 1.0], "share": "common", "depth": 2}
    low = draw(st.sampled_from([0.0, 0.1, -1.0]))
    hole: dict[str, Any] = {"range": [low, draw(st.sampled_from([1.0, 1.5]))]}
    depth = draw(st.sampled_from([None, None, 1, 2, 3, 7, "layers"]))
    if depth is not None:
        hole["depth"] = depth
    count = layers if depth == "layers" else depth or 1
    init = draw(st.sampled_from(["none", "number", "list"]))
    if init == "number" or (init == "list" and depth is None):
        hole["init"] = 0.5
    elif init == "list":
        hole["init"] = [0.2 + 0.7 * i / count for i in range(count)]
    outer = draw(st.sampled_from([None, None, 0.25, "each", {"range": [0.0, 2.0]}]))
    if outer is not None:
        hole["outer"] = outer
    parts = draw(st.sampled_from([None, None, "blocks", "modules", ["attn", "mlp"], ["proj", "up_proj", "w"]]))
    if parts is not None:
        hole["parts"] = parts
    return hole


@st.composite
def values(draw: st.DrawFn, layers: int) -> Any:
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return draw(st.sampled_from([0.3, 1.0]))
    if kind == 1:
        return [0.1, 0.9, 0.4]
    if kind == 2:
        return [0.1, {"range": [0.2, 0.8]}, {"range": [0.2, 0.8], "init": 0.3}]
    return draw(holes(layers))


@st.composite
def settings_of(draw: st.DrawFn, layers: int, fallback: bool) -> Any:
    if draw(st.booleans()):
        return draw(values(layers))
    words = draw(st.lists(st.sampled_from(FILTERS), min_size=1, max_size=3))
    entries: list[dict[str, Any]] = [{"filter": word, "value": draw(values(layers))} for word in words]
    if fallback or draw(st.booleans()):
        entries.append({"value": draw(values(layers))})
    return entries


@st.composite
def recipes(draw: st.DrawFn) -> tuple[Any, int]:
    shape = draw(st.integers(0, len(SHAPES) - 1))
    layers = SHAPES[shape].layers
    method = draw(st.sampled_from(sorted(METHODS)))
    per_source, whole = METHODS[method]
    models = ["zoo/a"] if method == "slerp" else ["zoo/a", "zoo/b"]
    sliced = layers > 1 and draw(st.booleans())
    total = layers
    cuts: list[tuple[int, int]] = [(0, layers)]
    if sliced:
        cut = draw(st.integers(1, layers - 1))
        cuts = draw(st.sampled_from([[(0, cut), (cut, layers)], [(0, layers), (cut, layers)], [(0, cut)]]))
        total = sum(b - a for a, b in cuts)
    data: dict[str, Any] = {"merge_method": method}
    if method != "linear":
        data["base_model"] = "zoo/base"

    def some(keys: tuple[str, ...], chance: int, fallback: bool) -> dict[str, Any]:
        return {key: draw(settings_of(total, fallback)) for key in keys if draw(st.integers(0, 3)) < chance}

    def source(name: str) -> dict[str, Any]:
        parameters = some(per_source, 3, False)
        return {"model": name} | ({"parameters": parameters} if parameters else {})

    if sliced:
        data["slices"] = []
        for a, b in cuts:
            shift = draw(st.integers(0, layers - b))
            bases = [{"model": "zoo/base", "layer_range": [a, b]}] if method != "linear" else []
            sources = [source(name) | {"layer_range": [a + shift, b + shift]} for name in models]
            part = {"sources": bases + sources, "parameters": some((*per_source, *whole), 1, False)}
            data["slices"].append({key: value for key, value in part.items() if value})
    else:
        data["models"] = [source(name) for name in models]
    data["parameters"] = some((*per_source, *whole), 4, True)
    return data, shape


@settings(max_examples=80, deadline=None, phases=QUICK)
@given(recipes(), st.data())
def test_every_tensor_gets_the_value_that_was_meant(case: tuple[Any, int], data: st.DataObject) -> None:
    raw, shape = case[0], SHAPES[case[1]]
    try:
        (branch,) = parse_space(Document(raw, "space.yml"), schemas=SCHEMAS, shape_of=lambda _: shape).branches
    except InputError as error:
        assume("no filter can" not in error.problem)
        raise
    point = [data.draw(st.floats(d.low, d.high)) for d in branch.dimensions]
    assert assert_written_as_meant(branch, point, lambda _: shape) > 0
    assert len({d.name for d in branch.dimensions}) == len(branch.dimensions)


@settings(max_examples=40, deadline=None, phases=QUICK)
@given(recipes())
def test_every_dimension_has_an_effect(case: tuple[Any, int]) -> None:
    raw, shape = case[0], SHAPES[case[1]]
    try:
        (branch,) = parse_space(Document(raw, "space.yml"), schemas=SCHEMAS, shape_of=lambda _: shape).branches
    except InputError as error:
        assume("no filter can" not in error.problem)
        raise
    low = [d.low for d in branch.dimensions]
    for i, dimension in enumerate(branch.dimensions):
        moved = [dimension.high if j == i else value for j, value in enumerate(low)]
        assert branch.recipe(moved) != branch.recipe(low), dimension.name
