"""What people write into recipes, and what becomes of it: planned, named as idle, or refused with the way out.

Every recipe here was written for these tests; each shows one habit of published ones.
"""

from pathlib import Path
from textwrap import dedent

import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_document, parse_documents
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.settings import Entry
from mergeopt.recipe.stages import read_stages
from tests.recipe.conftest import reading, refusal

TIES = """\
merge_method: ties
base_model: river/base
models:
  - model: river/poems
    parameters: {weight: 0.5, density: 0.6}
  - model: river/maths
    parameters: {weight: 0.3}
dtype: bfloat16
"""
PAIR = """\
merge_method: slerp
base_model: river/poems
slices:
  - sources:
      - {model: river/poems, layer_range: [0, 4]}
      - {model: river/maths, layer_range: [0, 4]}
parameters: {t: 0.4}
"""


def notice(text: str) -> str:
    """The one thing that `text` says in vain."""
    (line,) = reading(text).notices
    return line


def broken(text: str) -> str:
    """Why `text` is no YAML, in one line."""
    with pytest.raises(InputError) as caught:
        parse_document(text, "r.yml")
    line = str(caught.value)
    assert "\n" not in line and line.startswith("r.yml:")
    return line


# A: keys without effect ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "right"), [("dtyp", "dtype"), ("tokenizer_sorce", "tokenizer_source")])
def test_01_misspelt_keys(wrong: str, right: str) -> None:
    line = notice(f"{TIES}{wrong}: base\n")
    assert line.startswith(f"r.yml:9 {wrong}: ") and f"did you mean {right!r}?" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TIES + "normalize: true\n", "r.yml:9 normalize: 'normalize' has no effect here; it belongs under parameters:"),
        (TIES + "int8_mask: true\n", "r.yml:9 int8_mask: 'int8_mask' has no effect here; it belongs under parameters:"),
        (TIES + "pad_to_multiple_of: 64\n", "r.yml:9 pad_to_multiple_of: 'pad_to_multiple_of' has no effect here"),
        (TIES + "t: 0.5\n", "r.yml:9 t: 't' has no effect; ties does not read it (it is a parameter of"),
        (PAIR + "t: 0.5\n", "r.yml:8 t: 't' has no effect here; it belongs under parameters:"),
        (TIES + "parameters: {dtype: float32}\n", "r.yml:9 parameters.dtype: 'dtype' has no effect under parameters:"),
        (
            PAIR.replace("parameters", "    merge_method: slerp\nparameters"),
            "r.yml:7 slices[0].merge_method: 'merge_method' has no effect here; it belongs at the top level",
        ),
        (TIES.replace("maths\n", "maths\n    density: 0.2\n"), "r.yml:7 models[1].density: 'density' has no effect"),
        (TIES.replace("maths\n", "maths\n    weight: 0.2\n"), "it belongs under parameters:"),
    ],
)
def test_02_the_right_key_on_the_wrong_level(text: str, says: str) -> None:
    assert says in notice(text)


@pytest.mark.parametrize(("key", "way"), [("revision", "model: name@revision"), ("lora", "model: name+adapter")])
def test_03_what_belongs_into_the_models_name_beside_it(key: str, way: str) -> None:
    line = notice(TIES.replace("maths\n", f"maths\n    {key}: other\n"))
    assert line == f"r.yml:7 models[1].{key}: {key!r} has no effect here; write {way}"
    assert str(reading(TIES.replace("maths", "maths@v2")).recipe.models[1]) == "river/maths@v2"


def test_04_capital_letters() -> None:
    found = reading(TIES.replace("density", "Density"))
    assert (
        "did you mean 'density'?" in found.notices[0] and "density" not in found.recipe.slices[0].sources[0].parameters
    )
    assert "write 'normalize' under parameters:" in notice(TIES + "Normalize: true\n")
    assert refusal(TIES.replace("merge_method", "Merge_Method")).startswith(
        "r.yml:1 Merge_Method: no merge_method; did you"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PAIR.replace("{t: 0.4}", "{t: 0.4, normalize: true}"), "slerp does not read 'normalize' (it belongs to"),
        (PAIR.replace("[0, 4]}\n      -", "[0, 4], parameters: {weight: 1}}\n      -"), "slerp does not read 'weight'"),
        (PAIR.replace("{t: 0.4}", "{t: 0.4, embed_slerp: true}"), "mergekit reads it no longer"),
        (TIES + "parameters: {t: 0.4}\n", "ties does not read 't'"),
        (TIES + "parameters: {weights: [1, 2]}\n", "unknown parameter 'weights' has no effect; did you mean 'weight'?"),
        (TIES.replace("0.3}", "0.3, lambda: 1}"), "ties reads 'lambda' for the whole merge, not per model"),
    ],
)
def test_05_parameters_that_the_method_does_not_read(text: str, says: str) -> None:
    assert says in notice(text)


# B: values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("1e-10", 1e-10), ("2E-3", 2e-3), (".5", 0.5), ("'0.5'", 0.5), ("1", 1.0)])
def test_06_numbers_that_yaml_takes_for_text(text: str, value: float) -> None:
    assert reading(TIES + f"parameters: {{lambda: {text}}}\n").recipe.parameters["lambda"] == (Entry(None, (value,)),)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("0.3}", "0.3`}", "'0.3`' is not a number; remove the stray character"),
        ("0.3}", "'0,3'}", "'0,3' is not a number; write a decimal point"),
        ("0.3}", "1/3}", "'1/3' is not a number; write the quotient"),
        ("0.3}", "30%}", "'30%' is not a number; write a fraction of 1"),
        ("bfloat16", "bfloat16`", "did you mean 'bfloat16'?"),
        ("bfloat16", "bfloat", "did you mean 'bfloat16'?"),
        ("bfloat16", "bf16", "did you mean 'bfloat16'?"),
        ("bfloat16", "fp16", "did you mean 'float16'?"),
        ("merge_method: ties", "merge_method: ties`", "did you mean 'ties'?"),
        ("merge_method: ties", "merge_method: TIES", "did you mean 'ties'?"),
    ],
)
def test_07_stray_characters_and_short_names(old: str, new: str, says: str) -> None:
    line = refusal(TIES.replace(old, new))
    assert line.startswith("r.yml:") and says in line


def test_08_empty_parts_lists_of_one_and_long_or_negative_gradients() -> None:
    for extra in (
        "parameters:",
        "tokenizer: {}",
        "tokenizer_source:",
        "chat_template:",
        "parameters: {normalize: 1.0}",
    ):
        assert reading(f"{TIES}{extra}\n").notices == ()
    long = "[" + ", ".join(str(i / 40 - 0.5) for i in range(40)) + "]"
    weights = reading(TIES.replace("0.3}", f"{long}}}")).recipe.slices[0].sources[1].parameters["weight"]
    assert len(weights[0].values) == 40 and weights[0].values[0] == -0.5
    assert reading(PAIR.replace("0.4", "[0.4]")).recipe.parameters["t"] == (Entry(None, (0.4,)),)
    assert reading(PAIR.replace("0.4", "[{value: 0.4}]")).recipe.parameters["t"] == (Entry(None, (0.4,)),)


def test_09_filters() -> None:
    words = "[{filter: lm_head, value: 1}, {filter: embed_tokens, value: 0}, {filter: modelnorm, value: 0.5}]"
    assert reading(TIES.replace("0.3}", f"0.3, density: {words}}}")).notices == ()
    for guess in ("layers.0-5", "layers.*.mlp", "^model", "layers.[0-9]"):
        text = TIES.replace("0.6}", f"[{{filter: '{guess}', value: 0.5}}]}}")
        assert f"filter {guess!r} is searched for as it stands" in notice(text)
    assert reading(TIES.replace("0.6}", "[{filter: '*', value: 0.5}]}")).notices == ()
    assert "filter must be text" in refusal(TIES.replace("0.6}", "[{filter: [mlp, attn], value: 0.5}]}"))


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("two words", "two words"),
        ("river/maths   ", "river/maths"),
        ("river/maths # the good one", "river/maths"),
        ('"river/maths"', "river/maths"),
        ("D:\\models\\maths", "D:\\models\\maths"),
        ("D:/models/maths", "D:/models/maths"),
        ("'D:\\models\\maths'", "D:\\models\\maths"),
        ("./maths", "./maths"),
        ("/data//models/maths/", "/data//models/maths/"),
        ("river/maths -", "river/maths -"),
        ("placeholder", "placeholder"),
        ("river/maths (not out yet)", "river/maths (not out yet)"),
    ],
)
def test_10_names_of_models(written: str, path: str) -> None:
    assert reading(TIES.replace("river/maths", written)).recipe.models[1] == ModelRef(path)


def test_10_a_windows_path_in_double_quotes() -> None:
    assert "use single quotes, or forward slashes" in broken(TIES.replace("river/maths", '"D:\\models\\maths"'))


def test_11_template_braces() -> None:
    line = refusal(TIES.replace("river/maths", "{MATHS}"))
    assert line.startswith("r.yml:6 models[1].model: ") and "a template that nobody has filled in" in line
    assert "is not a number; fill in the template" in refusal(TIES.replace("0.3}", "'{WEIGHT}'}"))


# C: the base ---------------------------------------------------------------------------------------------------------


def test_12_a_base_listed_bare_with_parameters_or_not_at_all() -> None:
    for listed in ("  - model: river/base\n", "  - model: river/base\n    parameters: {weight: 1, density: 1}\n"):
        assert reading(TIES.replace("models:\n", f"models:\n{listed}")).notices == ()
    assert "ties needs base_model; add base_model:" in refusal(TIES.replace("base_model: river/base\n", ""))
    assert "river/base" in map(str, reading(TIES).recipe.models)


def test_13_a_third_model_as_base_of_a_pair() -> None:
    line = refusal(PAIR.replace("base_model: river/poems", "base_model: river/base"))
    assert line.startswith("r.yml:4 slices[0]: slerp finds base_model 'river/base' in no source")
    assert "recipes from before 2024 mean the second one: base_model: river/maths" in line


def test_14_a_pair_with_one_listed_model_and_the_base_in_either_place() -> None:
    text = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nmodels: [{model: b}]\n"
    for models in ("[{model: b}]", "[{model: a}, {model: b}]", "[{model: b}, {model: a}]"):
        recipe = reading(text.replace("[{model: b}]", models)).recipe
        assert recipe.base == ModelRef("a") and len(recipe.models) == 2


@pytest.mark.parametrize("spelt", ["river//base", "river/base/", "River/Base", "./river/base", "river\\base"])
def test_15_one_path_spelt_in_two_ways_is_two_models(spelt: str) -> None:
    line = notice(TIES.replace("river/maths", spelt))
    assert "are two models here; if they are one, spell it in one way" in line
    pair = refusal(PAIR.replace("base_model: river/poems", "base_model: RIVER/poems"))
    assert "the source 'river/poems' has nearly its name: spell it in one way" in pair


def test_16_one_model_twice() -> None:
    stack = "merge_method: passthrough\nslices:\n" + 2 * "  - sources: [{model: a, layer_range: [0, 2]}]\n"
    assert reading(stack).notices == ()
    assert "'river/poems' is listed twice; give it one weight" in refusal(TIES.replace("maths", "poems"))


# D: shape ------------------------------------------------------------------------------------------------------------


def test_17_several_recipes_in_one_file() -> None:
    text = TIES + "name: first\n---\n" + TIES.replace("river/maths", "first")
    chain = read_stages(parse_documents(text, "r.yml"), SCHEMAS)
    assert [stage.name for stage in chain.stages] == ["first", ""]
    indented = "".join(f"  {line}\n" for line in text.splitlines())
    assert "must begin at the left edge" in broken(indented)
    unseparated = parse_document(TIES + TIES.replace("ties", "dare_ties"), "r.yml")
    assert unseparated.notices[0] == (
        "r.yml:9 merge_method: given twice (first on line 1); the last one counts; "
        "two recipes need a line --- between them"
    )


def test_18_keys_in_any_order_and_ranges_over_several_lines() -> None:
    text = """\
    dtype: float16
    name: mine
    base_model: a
    parameters: {t: 0.5}
    modules:
      default:
        slices:
          - sources:
              - layer_range:
                - 0
                - 4
                model: a
              - model: b
                layer_range: [0, 4]
    merge_method: slerp
    """
    found = reading(text)
    assert found.notices == () and found.recipe.slices[0].sources[0].layer_range == (0, 4)


def test_19_ranges_of_one_length_that_differ_and_sources_of_no_weight() -> None:
    text = """\
    merge_method: linear
    slices:
      - sources:
          - {model: a, layer_range: [0, 4], parameters: {weight: 1}}
          - {model: b, layer_range: [2, 6], parameters: {weight: 0}}
    """
    assert "layer n of one is merged with another layer" in notice(text)
    assert reading(text.replace("[2, 6]", "[0, 4]")).notices == ()
    assert "layers are not counted from the end" in refusal(text.replace("[2, 6]", "[0, -1]"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f"# Mine\n\nMade so:\n\n```yaml\n{TIES}```\nEnjoy: it!\n- or: {{\n",
            "keep lines 6 to 13 only, the recipe between",
        ),
        (f"```yaml\n{TIES}", "it is Markdown: remove the fence on line 1"),
        (f" {PAIR}", "line 1 (merge_method:) is indented by 1 and line 2 by 0: make them equal"),
        ("- model: a\n- model: b\nmerge_method: linear\n", "the list above has no key: put it under models:"),
        ("- model: a\n  layer_range: [0, 2]\nmerge_method: passthrough\n", "put it under slices:"),
        ("merge_method: ties\n\n  - model: a\n  - model: b\n", "a list needs a key of its own above it"),
        (TIES.replace("  - model: river/maths", "\t- model: river/maths"), "the line holds a tab"),
        (TIES.replace("base_model:", "\u00a0base_model:"), "a non-breaking space"),
        (TIES.replace("bfloat16", "`bfloat16`"), "text cannot begin with `; remove or quote it"),
        (TIES.replace("models:", "models: use: these"), "one key per line"),
        (TIES.replace("  - model: river/maths", "  ...\n  - model: river/maths"), "write it out"),
    ],
)
def test_20_what_cards_and_web_pages_do_to_a_recipe(text: str, says: str) -> None:
    assert says in broken(text)


def test_20_parameters_as_a_list() -> None:
    line = refusal(TIES + "parameters:\n  - lambda: 1.0\n")
    assert line.startswith("r.yml:9 parameters: ") and "write the entries of parameters: without their dashes" in line


# E: what changed with time -------------------------------------------------------------------------------------------


def test_21_the_old_way_to_name_a_tokenizer() -> None:
    found = reading(TIES + "tokenizer_source: model:river/maths\n")
    asked = found.recipe.tokenizer
    assert asked is not None and asked.source == ModelRef("river/maths")
    assert found.notices[0].startswith("r.yml:9 tokenizer_source: 'model:' is not needed before the model")


def test_22_a_forgotten_weight_and_the_defaults_of_each_method() -> None:
    line = refusal(TIES.replace("{weight: 0.3}", "{density: 0.3}"))
    assert line.startswith("r.yml:6 models[1]: ties needs 'weight' for 'river/maths'; add it")
    defaults = {
        name: SCHEMAS[name].parameters["normalize"].default for name in ("ties", "dare_ties", "task_arithmetic")
    }
    assert defaults == {"ties": True, "dare_ties": False, "task_arithmetic": False}


def test_23_keys_of_old_versions() -> None:
    text = PAIR.replace("parameters", "    residual_weight: 0.3\nparameters")
    assert notice(text) == "r.yml:7 slices[0].residual_weight: 'residual_weight' has no effect"
    assert "mergekit reads it no longer; write parameters:" in notice(TIES + "input_model_parameters: {}\n")


# F: other dialects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("method: slerp\nmodels: [a, b]\n", "an mlx-lm recipe"),
        ("base_model: a\ngate_mode: random\nexperts: []\n", "a mergekit-moe recipe"),
        ("models: [{model: a}]\nmetric_method: all\n", "a mergekit-metrics file"),
        ("_target_: some.Algorithm\n", "a fusion_bench configuration"),
        ("pop_size: 4\nmodels: {one: a}\n", "a mergenetic configuration"),
        ("license: mit\ntags: [merge]\n", "the header of a model card"),
        ("tokenizer: {source: union}\n", "the tokenizer part of a recipe"),
    ],
)
def test_24_other_tools_files(text: str, what: str) -> None:
    line = refusal(text)
    assert f"is {what}" in line and line.startswith("r.yml:")


@pytest.mark.parametrize(
    "method", ["cabs", "core_space", "lrp", "ota", "encoder_decoder_weighted", "zipit", "geodesic"]
)
def test_24_methods_of_forks(method: str) -> None:
    text = dedent(f"""\
    models: [{{model: {{PLACE}}}}]
    merge_method: {method}
    """)
    assert f"r.yml:2 merge_method: {method!r} is the method of a fork or a pull request" in refusal(text)


@pytest.mark.parametrize(
    ("said", "meant"), [("frankenmerge", "passthrough"), ("average", "linear"), ("dare-ties", "dare_ties")]
)
def test_24_what_people_call_methods(said: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in refusal(TIES.replace("ties", said, 1))


def test_24_a_mapping_that_no_version_reads() -> None:
    line = refusal(TIES.replace("0.3}", "0.3, dare: {drop: 0.9}}"))
    assert line.startswith("r.yml:7 models[1].parameters.dare: 'dare' is no parameter")


def test_a_model_without_deltas_is_the_base_itself() -> None:
    text = "merge_method: task_arithmetic\nbase_model: a\nslices: [{sources: [{model: a, layer_range: [0, 2]}]}]\n"
    assert notice(text) == "r.yml:2 base_model: a is the only model: nothing is added to it, it is copied"


def test_reading_asks_for_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_recipe(parse_document(TIES, "nowhere/r.yml"), SCHEMAS).notices == ()
