"""What is written reads back as the same recipe, for any recipe."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef, ModelToken, Recipe, Slice, Source, TokenizerRequest, TokenRule
from mergeopt.recipe.settings import Entry, Setting
from mergeopt.recipe.write import recipe_data, to_yaml

names = st.text("abAB01-_./", min_size=1, max_size=8).filter(lambda s: s.strip() == s)
awkward = st.sampled_from(["a+b", "x@y", "1e-5", "true", "a b", "~/m", "# not a comment", "ünï", "null", "- x"])
refs = st.builds(
    ModelRef,
    st.one_of(names, awkward),
    st.none() | st.sampled_from(["main", "v1+2", "1", "x: "]),
    st.none() | st.just("org/lora"),
    st.none(),
)
numbers = st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: float(f"{x:.4g}"))
entries = st.builds(
    Entry, st.none() | st.sampled_from(["mlp", "*", "1e-5"]), st.lists(numbers, min_size=1, max_size=4).map(tuple)
)
setting: st.SearchStrategy[Setting] = st.lists(entries, min_size=1, max_size=3).map(tuple)
tokens = st.sampled_from(["<|im_start|>", "a b", "1", "true", "- x", "ünï", "{", "null"])
sources = st.one_of(st.none(), st.just("zero"), st.builds(ModelToken, refs, tokens | st.integers(0, 9)))
requests = st.builds(
    TokenizerRequest,
    st.sampled_from(["union", "base", ModelRef("union"), ModelRef("model:x")]) | refs,
    st.lists(st.builds(TokenRule, tokens, sources, st.booleans()), max_size=2, unique_by=lambda r: r.token).map(tuple),
    st.none() | st.integers(1, 128),
    st.lists(refs, min_size=1, max_size=2).map(tuple),
    st.none() | refs,
)
requests |= st.sampled_from([TokenizerRequest(), TokenizerRequest("base"), TokenizerRequest(ModelRef("base"))])


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    models = draw(st.lists(refs, min_size=2, max_size=4, unique_by=str))
    stacked = draw(st.booleans())
    parts = []
    for start in range(draw(st.integers(1, 3)) if stacked else 1):
        layers = (start, start + 2) if stacked else None
        sources = [Source(m, layers, {"weight": draw(setting), "density": draw(setting)}) for m in models]
        parts.append(Slice(tuple(sources), draw(st.sampled_from([{}, {"density": draw(setting)}])) if stacked else {}))
    return Recipe(
        method="dare_ties",
        slices=tuple(parts),
        base=models[0],
        parameters=draw(st.sampled_from([{}, {"lambda": draw(setting), "normalize": (Entry(None, (True, False)),)}])),
        dtype=draw(st.sampled_from([None, "bfloat16"])),
        out_dtype=draw(st.sampled_from([None, "float32"])),
        tokenizer=draw(st.none() | requests),
        seed=draw(st.integers(0, 2**63 - 1)),
        refinement=draw(st.sampled_from([None, "recipe.refinement.safetensors", "other/1e-5"])),
    )


@given(recipes())
@settings(max_examples=60, deadline=None)
def test_round_trip(recipe: Recipe):
    text = to_yaml(recipe_data(recipe))
    reading = read_recipe(parse_document(text, "r.yml"), SCHEMAS)
    assert reading.recipe == recipe
    asked = recipe.tokenizer
    forced = [r for r in asked.rules if r.force and r.source is None] if asked else []
    assert len([text for text in reading.notices if "are two models here" not in text]) == len(forced)


def test_numbers_stay_numbers_for_every_reader_of_yaml():
    data = {"tol": 1e-05, "list": [1e-10, 1e22, 0.1, 3], "word": "1e-5"}
    assert yaml.safe_load(to_yaml(data)) == data


def test_a_recipe_reads_well():
    recipe = Recipe(
        "linear",
        (Slice((Source(ModelRef("a"), None, {"weight": (Entry("mlp", (0.0, 1.0)), Entry(None, (0.5,)))}),)),),
        dtype="bfloat16",
    )
    assert to_yaml(recipe_data(recipe)) == (
        "merge_method: linear\nmodels:\n- model: a\n  parameters:\n    weight:\n    - filter: mlp\n"
        "      value: [0.0, 1.0]\n    - value: 0.5\ndtype: bfloat16\n"
    )
