"""Every mistake gives one line with file, line, key and remedy; what is said in vain is named; the rest is read."""

from pathlib import Path

import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.settings import Entry
from tests.recipe.conftest import reading, refusal

TIES = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {weight: 0.5, density: 0.6}
  - model: b
    parameters: {weight: 0.5}
dtype: bfloat16
"""
STACK = """\
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: a, layer_range: [1, 3]}]
"""


def test_a_recipe():
    recipe = reading(TIES).recipe
    assert recipe.method == "ties" and recipe.base == ModelRef("base") and recipe.dtype == "bfloat16"
    assert [str(s.model) for s in recipe.slices[0].sources] == ["a", "b"]
    assert recipe.slices[0].sources[0].parameters["density"] == (Entry(None, (0.6,)),)
    assert recipe.whole_models and [str(m) for m in recipe.models] == ["a", "b", "base"]
    assert reading(TIES).notices == ()


def test_slices():
    recipe = reading(STACK).recipe
    assert [s.sources[0].layer_range for s in recipe.slices] == [(0, 2), (1, 3)]
    assert not recipe.whole_models and recipe.donor == ModelRef("a")


@pytest.mark.parametrize(
    "old, new, parts",
    [
        ("ties", "tise", ("r.yml:1 merge_method", "unknown method 'tise'", "did you mean 'ties'")),
        ("merge_method", "merge_methd", ("r.yml:1", "no merge_method", "instead of 'merge_methd'")),
        ("base_model: base\n", "", ("r.yml", "ties needs base_model")),
        ("{weight: 0.5}", "{weight: half}", ("r.yml:7 models[1].parameters.weight", "'half' is not a number")),
        ("{weight: 0.5}", "{density: 1}", ("r.yml:6 models[1]", "ties needs 'weight' for 'b'", "weight: 0.5")),
        ("model: b", "modle: b", ("r.yml:6", "'model' is missing", "'modle'")),
        ("- model: b\n    parameters: {weight: 0.5}", "- b", ("r.yml:6 models[1]", "write - model: b")),
        ("model: b", "model: a", ("r.yml:3 models", "'a' is listed twice")),
        ("bfloat16", "bf16", ("r.yml:8 dtype", "unknown dtype 'bf16'", "did you mean 'bfloat16'")),
        ("bfloat16", "bfloat", ("r.yml:8 dtype", "did you mean 'bfloat16'")),
        ("bfloat16", "bfloat16`", ("r.yml:8 dtype", "did you mean 'bfloat16'")),
        ("models:", "modles:", ("r.yml:3 modles", "names no models", "did you mean models: by 'modles'")),
        ("model: b", "model: {model: b, revison: v}", ("r.yml:6 models[1].model", "'revison' says nothing")),
        (
            "model: b",
            "model: {model: b, override_architecture: 1}",
            ("r.yml:6 models[1].model", "1 is no architecture"),
        ),
        ("model: b", "model: {model: b, lora: [l]}", ("r.yml:6 models[1].model", "is not a model")),
        ("model: b", "model: ''", ("r.yml:6 models[1].model", "is not a model")),
        ("model: b", "model: {MODEL}", ("r.yml:6 models[1].model", "is not a model")),
        ("density: 0.6}", "density: {filter: mlp}}", ("r.yml:5 models[0].parameters.density", "has no value")),
        ("dtype: bfloat16", "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]", ("both models and slices",)),
        ("dtype: bfloat16", "seed: -1", ("r.yml:8 seed", "greater than or equal to 0")),
        ("dtype: bfloat16", "parameters: [1]", ("r.yml:8 parameters", "mapping")),
        ("dtype: bfloat16", "dtype: [1]", ("r.yml:8 dtype", "string")),
    ],
)
def test_mistakes(old: str, new: str, parts: tuple[str, ...]):
    assert old in TIES
    line = refusal(TIES.replace(old, new, 1) if old != "model: b" else TIES.replace("model: b\n", new + "\n"))
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    "old, new, parts",
    [
        ("[1, 3]", "[3, 1]", ("r.yml:4 slices[1].sources[0].layer_range", "holds no layer")),
        ("[1, 3]", "[1]", ("r.yml:4 slices[1].sources[0].layer_range", "")),
        ("[1, 3]", "[a, b]", ("r.yml:4 slices[1].sources[0].layer_range", "integer")),
        (", layer_range: [1, 3]", "", ("r.yml:4 slices[1].sources[0]", "'layer_range' is missing")),
        ("{model: a, layer_range: [1, 3]}", "", ("r.yml:4 slices[1].sources", "at least 1 item")),
        (
            "[1, 3]}",
            "[1, 3]}, {model: b, layer_range: [1, 3]}",
            ("r.yml:4 slices[1]", "passthrough takes 1 model, given 2"),
        ),
    ],
)
def test_mistakes_in_slices(old: str, new: str, parts: tuple[str, ...]):
    line = refusal(STACK.replace(old, new))
    for part in parts:
        assert part in line


def test_sources_of_a_slice_give_the_same_number_of_layers():
    text = """\
    merge_method: linear
    parameters: {weight: 1}
    slices:
      - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]
    """
    assert "r.yml:4 slices[0].sources: sources give 2 and 3 layers" in refusal(text)
    (notice,) = reading(text.replace("[0, 3]", "[1, 3]")).notices
    assert "layer ranges differ" in notice


@pytest.mark.parametrize(
    "text, word",
    [
        ("base_model: a\ngate_mode: hidden\nexperts: []\n", "mergekit-moe"),
        ("genome: {}\ntasks: []\n", "mergekit-evolve"),
        ("method: slerp\nmodels: [a, b]\n", "mlx-lm"),
        ("- a\n- b\n", "is a list, not a recipe"),
        ("hello\n", "is a piece of text, not a recipe"),
        ("3\n", "is a number, not a recipe"),
    ],
)
def test_other_dialects_are_recognised(text: str, word: str):
    assert word in refusal(text)


@pytest.mark.parametrize(
    "extra, parts",
    [
        ("dype: float32", ("r.yml:9 dype", "unknown key 'dype'", "did you mean 'dtype'")),
        ("tokenzer_source: union", ("r.yml:9", "did you mean 'tokenizer_source'")),
        ("normalize: true", ("r.yml:9 normalize", "belongs under parameters:")),
        ("int8_mask: true", ("r.yml:9 int8_mask", "belongs under parameters:")),
        ("t: 0.5", ("r.yml:9 t", "has no effect")),
        ("parameters: {dtype: float32}", ("r.yml:9 parameters.dtype", "belongs at the top level")),
        ("parameters: {t: 0.5}", ("r.yml:9 parameters.t", "ties does not read 't' (it belongs to nearswap, slerp)")),
        ("parameters: {wieght: 0.5}", ("r.yml:9 parameters.wieght", "did you mean 'weight'")),
        ("parameters: {Density: 0.5}", ("r.yml:9 parameters.Density", "did you mean 'density'")),
    ],
)
def test_what_is_said_in_vain_is_named(extra: str, parts: tuple[str, ...]):
    (notice,) = reading(TIES + extra + "\n").notices
    for part in parts:
        assert part in notice


@pytest.mark.parametrize(
    "key, parts",
    [
        ("revision: main", ("r.yml:7 models[1].revision", "write model: name@revision")),
        ("density: 0.5", ("r.yml:7 models[1].density", "belongs under parameters:")),
        ("merge_method: slerp", ("r.yml:7 models[1].merge_method", "belongs at the top level")),
    ],
)
def test_keys_beside_a_model(key: str, parts: tuple[str, ...]):
    (notice,) = reading(TIES.replace("  - model: b\n", f"  - model: b\n    {key}\n")).notices
    for part in parts:
        assert part in notice


def test_a_merge_parameter_beside_one_model_is_named_and_has_no_effect():
    found = reading(TIES.replace("{weight: 0.5}", "{weight: 0.5, normalize: false}"))
    assert "reads 'normalize' for the whole merge" in found.notices[0]
    assert "normalize" not in found.recipe.slices[0].sources[1].parameters


def test_int8_mask_changes_nothing_and_is_not_mentioned():
    assert reading(TIES + "parameters: {int8_mask: true}\n").notices == ()


def test_duplicate_keys_reach_the_reader():
    assert "given twice" in reading(TIES + "dtype: float32\n").notices[0]


@pytest.mark.parametrize("empty", ["parameters:", "parameters: {}", "parameters: {lambda: }", "tokenizer: {}"])
def test_empty_parts_are_no_mistake(empty: str):
    assert reading(TIES + empty + "\n").notices == ()


def test_a_base_counts_as_one_more_source_where_there_are_no_deltas():
    text = "merge_method: linear\nbase_model: c\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    assert [str(s.model) for s in reading(text).recipe.slices[0].sources] == ["a", "b", "c"]
    listed = text.replace("base_model: c", "base_model: a")
    assert [str(s.model) for s in reading(listed).recipe.slices[0].sources] == ["a", "b"]
    assert "'weight' for 'c'" in refusal(
        "merge_method: linear\nbase_model: c\nmodels: [{model: a, parameters: {weight: 1}}]\n"
    )


def test_the_base_needs_no_weight_where_deltas_are_taken_from_it():
    listed = TIES.replace("models:\n", "models:\n  - model: base\n")
    assert reading(listed).notices == ()


def test_slices_of_a_delta_method_list_the_base():
    text = """\
    merge_method: task_arithmetic
    base_model: base
    parameters: {weight: 1}
    slices: [{sources: [{model: a, layer_range: [0, 2]}]}]
    """
    assert "finds base_model 'base' in no source" in refusal(text)


def test_slerp_joins_two():
    text = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.5}\n"
    assert reading(text).notices == ()
    assert reading(text.replace("{model: a}, ", "")).notices == ()
    assert "slerp takes 1 model beside base_model, given 2; slerp joins two models" in refusal(
        text.replace("base_model: a", "base_model: c")
    )
    assert "slerp needs 't'" in refusal(text.replace("parameters: {t: 0.5}", "parameters:"))


@pytest.mark.parametrize(
    ("method", "models", "base", "said"),
    [
        ("nuslerp", 1, None, "nuslerp takes 2 models beside base_model, given 1"),
        ("nuslerp", 3, "x", "nuslerp takes 2 models beside base_model, given 3"),
        ("model_stock", 1, "x", "model_stock takes at least 2 models beside base_model, given 1"),
        ("nearswap", 2, "x", "nearswap takes 1 model beside base_model, given 2"),
        ("arcee_fusion", 2, "x", "arcee_fusion takes 1 model beside base_model, given 2"),
        *((name, 2, None, f"{name} needs base_model") for name in ("model_stock", "sce", "ram", "ramplus_tl")),
        *((name, 1, None, f"{name} needs base_model") for name in ("nearswap", "arcee_fusion")),
    ],
)
def test_what_a_method_demands_of_its_models(method: str, models: int, base: str | None, said: str):
    text = f"merge_method: {method}\nmodels: [{', '.join(f'{{model: m{i}}}' for i in range(models))}]\n"
    text += "parameters: {weight: 1, t: 1}\n" + (f"base_model: {base}\n" if base else "")
    assert said in refusal(text)


@pytest.mark.parametrize("base", ["", "base_model: a\n", "base_model: c\n"])
def test_a_base_that_may_be_missing(base: str):
    """nuslerp and multislerp take deltas where there is one, listed or not."""
    listed = "  - {model: a}\n" if base.endswith("a\n") else ""
    for method in ("nuslerp", "multislerp"):
        text = f"merge_method: {method}\n{base}models:\n{listed}  - {{model: b}}\n  - {{model: d}}\n"
        recipe = reading(text + "parameters: {weight: 1}\n").recipe
        assert (None if recipe.base is None else str(recipe.base)) == (base[-2] if base else None)


def test_a_base_may_stand_in_the_slices():
    text = """\
    merge_method: slerp
    parameters: {t: 0.5}
    slices:
      - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]
        base_model: b
      - sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]
        base_model: b
    """
    found = reading(text)
    assert found.recipe.base == ModelRef("b") and found.notices == ()
    assert [part.base for part in found.recipe.slices] == [None, None]
    other = text.replace("[1, 2]}]\n        base_model: b", "[1, 2]}]\n        base_model: a")
    recipe = reading(other).recipe
    assert (recipe.base, [str(recipe.base_of(part)) for part in recipe.slices]) == (None, ["b", "a"])
    assert recipe.donor == ModelRef("b")
    top = reading(other.replace("merge_method", "base_model: a\n    merge_method")).recipe
    assert (top.base, [part.base for part in top.slices]) == (ModelRef("a"), [ModelRef("b"), None])
    assert "r.yml:6 slices[1]: slerp finds base_model 'c' in no source" in refusal(
        other.replace("base_model: a", "base_model: c")
    )


def test_model_references():
    text = "merge_method: passthrough\nmodels: [{model: MODEL}]\n"

    def ref(model: str) -> ModelRef:
        return reading(text.replace("MODEL", model)).recipe.slices[0].sources[0].model

    assert ref("org/name@rev+org/lora") == ModelRef("org/name", "rev", "org/lora")
    assert ref("'  with space '") == ModelRef("with space")
    assert ref("{model: {path: 'a+b', revision: v1}}") == ModelRef("a+b", "v1")
    with pytest.raises(InputError, match=r"revision 123 is not text; quote it"):
        ref("{model: {path: a, revision: 123}}")
    assert ref("{model: {path: a}, lora: {path: l}}") == ModelRef("a", None, "l")
    assert ref("{model: a, lora: {path: l, revision: r}}") == ref("a+l@r") == ModelRef("a", None, "l", None, "r")
    assert ref("{model: a, override_architecture: X}") == ModelRef("a", architecture="X")


@pytest.mark.parametrize("name", ["a+b+c", "a@1@2", "a+", "+b", "a@", "/models/x+y/z@1+2"])
def test_text_that_cannot_be_split_is_a_name(name: str):
    assert ModelRef.parse(name, "") == ModelRef(name)


def test_a_reference_knows_its_parts():
    ref = ModelRef("a", "v", "l", "X", "r")
    assert str(ref) == "a@v+l@r" and ref.adapter == ModelRef("l", "r") and ref.bare == ModelRef("a", "v", None, "X")
    assert ModelRef("a").adapter is None


MODULES = """\
merge_method: ties
base_model: base
modules:
  default:
    models:
      - model: a
        parameters: {weight: 0.5}
      - model: b
        parameters: {weight: half}
    parameters: {density: [{filter: mlp, value: 0.3}]}
parameters: {density: 0.6, lambda: 0.9}
"""


def test_one_module_is_read_as_if_its_content_stood_at_the_top():
    recipe = reading(MODULES.replace("half", "0.5")).recipe
    assert recipe.parameters["density"] == (Entry("mlp", (0.3,)), Entry(None, (0.6,)))
    assert recipe.parameters["lambda"] == (Entry(None, (0.9,)),)
    assert [str(m) for m in recipe.models] == ["a", "b", "base"]


def test_a_module_keeps_its_lines():
    assert refusal(MODULES).startswith("r.yml:9 models[1].parameters.weight")
    empty = "merge_method: linear\nmodules:\n  a: {models: []}\n"
    assert refusal(empty).startswith("r.yml:3 models: names no models; models: is empty")
    assert "is no module" in refusal(MODULES.split("modules:", maxsplit=1)[0] + "modules: {default: 3}\n")
    assert "stands at the top level too" in refusal(MODULES.replace("half", "1") + "models: [{model: c}]\n")


def test_a_refinement_lies_beside_the_recipe_or_else_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    folder = Path("recipes")
    folder.mkdir()
    file = folder / "r.yml"
    file.write_text("merge_method: passthrough\nmodels: [{model: a}]\nrefinement: fine\n")
    for made, found in ((Path("fine"), "fine"), (folder / "fine", "recipes/fine")):
        made.touch()
        reading = read_recipe(read_document(file), SCHEMAS)
        assert (reading.recipe.refinement, reading.notices) == (found, ())
    file.write_text("merge_method: passthrough\nmodels: [{model: a}]\nparameters: {refinement: fine}\n")
    assert "belongs at the top level" in read_recipe(read_document(file), SCHEMAS).notices[0]


def test_a_base_by_itself_is_copied():
    text = "merge_method: task_arithmetic\nbase_model: b+l\n" + (
        "slices: [{sources: [{model: b+l, layer_range: [0, 2], parameters: {weight: 1}}]}]\n"
    )
    found = reading(text)
    assert found.recipe.method == "passthrough" and found.recipe.donor == ModelRef("b", lora="l")
    assert found.notices == ("r.yml:2 base_model: b+l is the only model: nothing is added to it, it is copied",)
    assert "slerp takes 1 model" in refusal(
        "merge_method: slerp\nbase_model: b\nmodels: [{model: b}]\nparameters: {t: 0}\n"
    )
