"""Which tensors, with which numbers: the rules that are easily got wrong, each on its own."""

import re
from pathlib import Path

import pytest

from mergeopt.checkpoint.header import StoredTensor
from mergeopt.checkpoint.layout import shape_of
from mergeopt.errors import InputError
from mergeopt.merge.layout import Facts, Input, lay_out
from mergeopt.merge.plan import unmatched_filters
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.recipe import ModelRef
from tests.merge.conftest import facts_of, jobs_of, plan_of, recipe_of

SLERP = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: %s}\n"
LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: %s}\n"
UP = "model.layers.{}.mlp.up_proj.weight"
TWO = {"a": facts_of(), "b": facts_of()}


def t_of(setting: str, tensor: str) -> float:
    return jobs_of(plan_of(SLERP % setting, **TWO))[tensor].coefficients["t"]


def test_every_tensor_is_planned_once_in_the_donors_order():
    plan = plan_of(SLERP % 0.5, **TWO)
    names = [job.tensor for job in plan.jobs]
    assert names[0] == "model.embed_tokens.weight" and names[-2:] == ["model.norm.weight", "lm_head.weight"]
    assert sorted(names) == sorted(TWO["a"].shape.tensors) and plan.left_out == () and plan.picked is None
    job = jobs_of(plan)[UP.format(2)]
    assert job.inputs == (Input(ModelRef("b"), UP.format(2)),) and job.base == Input(ModelRef("a"), UP.format(2))
    assert job.shape == (24, 16) and job.dtype == "float32" and not job.verbatim


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_tensors_of_no_layer_take_the_first_value(name: str):
    assert t_of("[0.1, 0.5, 0.9]", name) == 0.1


def test_layers_take_their_place_in_the_gradient():
    assert [t_of("[0, 3]", UP.format(i)) for i in range(4)] == pytest.approx([0, 1, 2, 3])


def test_depth_restarts_in_each_slice_and_one_layer_takes_the_last_value():
    text = """
    merge_method: slerp
    base_model: a
    parameters: {t: [0, 1]}
    slices:
      - sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]
      - sources: [{model: a, layer_range: [3, 4]}, {model: b, layer_range: [3, 4]}]
    """
    jobs = jobs_of(plan_of(text, **TWO))
    assert [jobs[UP.format(i)].coefficients["t"] for i in range(4)] == [0, 0.5, 1, 1]
    assert jobs["lm_head.weight"].coefficients["t"] == 0


def test_embeddings_ask_the_first_slice_and_the_head_the_last():
    text = """
    merge_method: linear
    slices:
      - sources: [{model: a, layer_range: [0, 2], parameters: {weight: 1}}]
        parameters: {weight: 9}
      - sources: [{model: b, layer_range: [2, 4]}]
        parameters: {weight: 2}
    """
    jobs = jobs_of(plan_of(text, **TWO))
    assert jobs["model.embed_tokens.weight"].coefficients["weight"] == (1,)
    assert [i.model.path for i in jobs["model.embed_tokens.weight"].inputs] == ["a"]
    for name in ("model.norm.weight", "lm_head.weight"):
        assert jobs[name].coefficients["weight"] == (2,) and [i.model.path for i in jobs[name].inputs] == ["b"]


def test_the_nearest_level_that_matches_wins():
    text = """
    merge_method: linear
    parameters: {weight: 4}
    slices:
      - sources:
          - {model: a, layer_range: [0, 4], parameters: {weight: [{filter: q_proj, value: 1}]}}
          - {model: b, layer_range: [0, 4]}
        parameters: {weight: [{filter: self_attn, value: 2}]}
    """
    jobs = jobs_of(plan_of(text, **TWO))
    weights = {
        part: jobs[f"model.layers.1.{part}.weight"].coefficients["weight"]
        for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
    }
    assert weights == {"self_attn.q_proj": (1, 2), "self_attn.k_proj": (2, 2), "mlp.up_proj": (4, 4)}


def test_filters_per_source_see_the_input_name_and_others_the_output_name():
    text = """
    merge_method: task_arithmetic
    base_model: a
    parameters: {lambda: [{filter: layers.0, value: 7}, {value: 1}]}
    slices:
      - sources: [{model: a, layer_range: [2, 4]},
                  {model: b, layer_range: [2, 4], parameters: {weight: [{filter: layers.2, value: 5}, {value: 1}]}}]
    """
    jobs = jobs_of(plan_of(text, **TWO))
    assert jobs[UP.format(0)].inputs[0].tensor == UP.format(2)
    assert [jobs[UP.format(i)].coefficients["weight"] for i in (0, 1)] == [(5,), (1,)]
    assert [jobs[UP.format(i)].coefficients["lambda"] for i in (0, 1)] == [7, 1]


def test_defaults_fill_what_nobody_gives():
    text = "merge_method: ties\nbase_model: c\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    jobs = jobs_of(plan_of(text, a=facts_of(), b=facts_of(), c=facts_of()))
    assert jobs[UP.format(0)].coefficients == {
        "weight": (1, 1), "density": (1.0, 1.0), "normalize": True, "rescale": False, "lambda": 1.0,
    }  # fmt: skip


def test_an_unlisted_base_is_where_deltas_come_from():
    text = "merge_method: ties\nbase_model: c\nmodels: [{model: a}]\nparameters: {weight: 1}\n"
    job = jobs_of(plan_of(text, a=facts_of(), c=facts_of()))[UP.format(1)]
    assert job.base == Input(ModelRef("c"), UP.format(1)) and len(job.inputs) == 1


def test_a_setting_that_matches_nothing_is_missing():
    with pytest.raises(InputError, match=r"'weight' of a has no value for tensor 'model.embed_tokens.weight'"):
        plan_of(LINEAR % "[{filter: mlp, value: 1}]", **TWO)


def test_filters_that_match_no_tensor_are_named():
    recipe = recipe_of(LINEAR % "[{filter: layers.0-5, value: 1}, {filter: mlp, value: 1}, {value: 2}]")
    models = {ModelRef(name): facts for name, facts in TWO.items()}
    found = unmatched_filters(lay_out(recipe, models, SCHEMAS["linear"]), recipe)
    assert found == [
        "'weight' of the top-level parameters: filter 'layers.0-5' matches no tensor; `mergeopt explain` lists them"
    ]


STACK = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 4]}]
"""


def test_stacking_renumbers_layers_and_names_what_is_left_out():
    plan = plan_of(STACK, **TWO)
    jobs = jobs_of(plan)
    assert [jobs[UP.format(i)].inputs[0] for i in range(5)] == [
        Input(ModelRef(m), UP.format(i)) for m, i in (("a", 0), ("a", 1), ("b", 1), ("b", 2), ("b", 3))
    ]
    assert plan.picked == (0, 1, 1, 2, 3)
    left = {(item.input.model.path, item.input.tensor): item.why for item in plan.left_out}
    assert left["a", UP.format(3)] == "in no slice" and left["b", UP.format(0)] == "in no slice"
    assert left["a", "lm_head.weight"] == "only the first and last slice give it"
    read = {item for job in plan.jobs for item in job.reads}
    everything = {Input(ModelRef(m), name) for m in "ab" for name in TWO[m].shape.tensors}
    assert read | {item.input for item in plan.left_out} == everything
    assert not read & {item.input for item in plan.left_out}


@pytest.mark.parametrize(
    "text, models, words",
    [
        (SLERP % 1, {"a": facts_of(4), "b": facts_of(3)}, "a has 4, b has 3 layers; use slices:"),
        (STACK.replace("[1, 4]", "[1, 5]"), TWO, "[1, 5] goes beyond 'b', which has 4 layers"),
        (
            SLERP % 1,
            {"a": facts_of(), "b": facts_of(model__embed_tokens__weight=("float32", (33, 16)))},
            "'model.embed_tokens.weight' is [32, 16] in 'a' and [33, 16] in 'b'; the vocabularies differ",
        ),
        (
            SLERP % 1,
            {"a": facts_of(), "b": facts_of(model__norm__weight=("float32", (17,)))},
            "'model.norm.weight' is [16] in 'a' and [17] in 'b'; merge fine-tunes of one base model",
        ),
        (
            SLERP % 1,
            {"a": facts_of(), "b": facts_of(model__norm__weight=("float32", ()))},
            "model 'b' lacks tensor 'model.norm.weight', which 'a' has",
        ),
        (
            SLERP % 1,
            {"a": facts_of(), "b": facts_of(model__norm__bias=("float32", (16,)))},
            "model 'a' lacks tensor 'model.norm.bias', which 'b' has",
        ),
        (
            SLERP % 1,
            {"a": facts_of(), "b": facts_of(model__embed_tokens__weight=("float32", ()))},
            "model 'b' lacks tensor 'model.embed_tokens.weight', which 'a' has",
        ),
        (
            SLERP % 1,
            {"a": facts_of(), "b": facts_of(lm_head__weight=("float8_e4m3fn", (32, 16)))},
            "'lm_head.weight' is float32 and float8_e4m3fn; merge models stored in one way",
        ),
        (
            SLERP % 1,
            {n: facts_of(lm_head__weight=("float8_e4m3fn", (32, 16))) for n in "ab"},
            "'lm_head.weight' is float8_e4m3fn, which is merged only when widened; dequantise the models first",
        ),
        (
            SLERP % 1,
            {"a": facts_of(), "b": facts_of(model__norm__weight=("float8_e4m3fn", (16,)))},
            "'model.norm.weight' is float32 and float8_e4m3fn",
        ),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_are_refused(text: str, models: dict, words: str):
    with pytest.raises(InputError, match=re.escape(words)):
        plan_of(text, **models)


def test_a_tied_model_lends_its_embeddings_to_a_head_that_another_has():
    plan = plan_of(SLERP % 1, a=facts_of(tied=True, head=False), b=facts_of())
    job = jobs_of(plan)["lm_head.weight"]
    assert job.base == Input(ModelRef("a"), "model.embed_tokens.weight")
    assert job.inputs == (Input(ModelRef("b"), "lm_head.weight"),)
    assert plan.untied


def test_tied_models_stay_tied():
    plan = plan_of(SLERP % 1, a=facts_of(tied=True, head=False), b=facts_of(tied=True, head=False))
    assert "lm_head.weight" not in jobs_of(plan) and not plan.untied


def test_a_written_head_is_never_tied():
    assert plan_of(SLERP % 1, a=facts_of(tied=True), b=facts_of(tied=True)).untied
    assert not plan_of(SLERP % 1, a=facts_of(), b=facts_of(tied=True, head=False)).untied


SCORE = {"score__weight": ("float32", (3, 16))}
TASK = "merge_method: task_arithmetic\nbase_model: c\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"


def classifiers(*names: str) -> dict[str, Facts]:
    """Language models `a`, `b` and base `c`, of which the named ones have a classifier instead of a head."""
    return {n: facts_of(head=n not in names, **(SCORE if n in names else {})) for n in "abc"}


def lacking(plan_text: str, models: dict[str, Facts]) -> list[tuple[str, str, str]]:
    recipe = recipe_of(plan_text)
    layout = lay_out(recipe, {ModelRef(n): f for n, f in models.items()}, SCHEMAS[recipe.method])
    return [(item.input.model.path, item.input.tensor, item.so) for item in layout.lacking]


def test_a_head_that_only_some_have_is_merged_among_them():
    models = classifiers("a", "b")
    del models["c"]
    models["b"] = facts_of()
    jobs = jobs_of(plan_of(LINEAR % 0.5, **models))
    assert [item.model.path for item in jobs["score.weight"].inputs] == ["a"]
    assert jobs["score.weight"].coefficients["weight"] == (0.5,) and not jobs["score.weight"].verbatim
    assert lacking(LINEAR % 0.5, models) == [
        ("b", "score.weight", "merged from a"),
        ("a", "lm_head.weight", "merged from b; the output's config.json is this model's and may not know it"),
    ]


def test_what_only_the_base_or_only_one_model_has_is_copied():
    jobs = jobs_of(plan_of(TASK, **classifiers("a")))
    assert jobs["score.weight"].verbatim and [i.model.path for i in jobs["score.weight"].inputs] == ["a"]
    assert [i.model.path for i in jobs["lm_head.weight"].inputs] == ["b"] and jobs["lm_head.weight"].base is not None
    only_base = {"a": facts_of(head=False), "b": facts_of(head=False), "c": facts_of()}
    head = jobs_of(plan_of(TASK, **only_base))["lm_head.weight"]
    assert head.verbatim and head.base is None and [i.model.path for i in head.inputs] == ["c"]
    assert lacking(TASK, only_base) == [(n, "lm_head.weight", "copied from c") for n in "ab"]


def test_a_delta_needs_the_base():
    words = "base_model 'c' lacks tensor 'score.weight', which a and b have: there is no delta; give a base_model that"
    with pytest.raises(InputError, match=re.escape(words)):
        plan_of(TASK, **classifiers("a", "b"))


def test_the_first_slice_gives_the_embeddings_and_the_last_its_own_head():
    text = STACK.replace("[1, 4]", "[2, 4]")
    plan = plan_of(text, a=facts_of(), b=facts_of(head=False, **SCORE))
    assert "score.weight" in jobs_of(plan) and "lm_head.weight" not in jobs_of(plan)
    left = {(item.input.model.path, item.input.tensor): item.why for item in plan.left_out}
    assert left["a", "lm_head.weight"] == "only the first and last slice give it"


def test_prediction_layers_stay_behind_the_last_layer():
    def deep(predicts: bool) -> Facts:
        extra = {"model__layers__4__eh_proj__weight": ("float32", (16, 16))} if predicts else {}
        facts = facts_of(5 if predicts else 4)
        sizes = {n: t for n, t in facts.shape.tensors.items() if not n.startswith("model.layers.4.mlp")}
        stored = {n: StoredTensor(n, t.dtype, t.shape, Path("x"), 0, 0) for n, t in sizes.items()}
        for name, (dtype, shape) in extra.items():
            stored[name.replace("__", ".")] = StoredTensor(name.replace("__", "."), dtype, shape, Path("x"), 0, 0)
        return Facts(shape_of(stored, {"num_hidden_layers": 4, "num_nextn_predict_layers": 1}), False)

    jobs = jobs_of(plan_of(STACK, a=deep(True), b=deep(True)))
    predicting = jobs["model.layers.5.eh_proj.weight"]
    assert predicting.inputs == (Input(ModelRef("b"), "model.layers.4.eh_proj.weight"),)
    assert jobs[UP.format(4)].inputs == (Input(ModelRef("b"), UP.format(3)),)
    tuned = plan_of(TASK, a=deep(False), b=deep(True), c=deep(True))  # fine-tuning often drops them
    assert [i.model.path for i in jobs_of(tuned)["model.layers.4.eh_proj.weight"].inputs] == ["b"]


@pytest.mark.parametrize("kind", ["gptq", "fp8"])
def test_quantised_models_are_copied_or_refused(kind: str):
    codes = facts_of(model__layers__0__mlp__up_proj__qweight=("int32", (2, 16)))
    models = {n: Facts(codes.shape, False, kind) for n in "ab"}
    with pytest.raises(InputError, match=rf"model 'a' is quantised \({kind}\): .* dequantise it first"):
        plan_of(LINEAR % 1, **models)
    copy = "merge_method: passthrough\nmodels: [{model: a}]\n"
    assert jobs_of(plan_of(copy, a=models["a"]))["model.layers.0.mlp.up_proj.qweight"].dtype == "int32"
    for touching in ("dtype: bfloat16\n", "parameters: {scale: 0.5}\n"):
        with pytest.raises(InputError, match="quantised"):
            plan_of(copy + touching, a=models["a"])


def test_each_stack_has_its_own_depth_and_the_longer_tower_is_not_the_main_one():
    names = {f"visual.blocks.{i}.attn.weight": (16, 16) for i in range(5)}
    names |= {f"model.layers.{i}.attn.weight": (16, 16) for i in range(3)}
    names |= {"visual.merger.mlp.0.weight": (16, 16), "model.embed_tokens.weight": (40, 16), "model.norm.weight": (16,)}
    stored = {n: StoredTensor(n, "float32", shape, Path("x"), 0, 0) for n, shape in names.items()}
    seeing = Facts(shape_of(stored, {"text_config": {"num_hidden_layers": 3}}), True)
    jobs = jobs_of(plan_of(SLERP % "[0, 1]", a=seeing, b=seeing))
    assert [jobs[f"visual.blocks.{i}.attn.weight"].coefficients["t"] for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert [jobs[f"model.layers.{i}.attn.weight"].coefficients["t"] for i in range(3)] == [0, 0.5, 1]
    stacked = jobs_of(plan_of(STACK.replace("[1, 4]", "[1, 3]"), a=seeing, b=seeing))
    assert [stacked[f"model.layers.{i}.attn.weight"].inputs[0].model.path for i in range(4)] == ["a", "a", "b", "b"]
    assert {stacked[n].inputs[0].model.path for n in names if n.startswith("visual")} == {"a"}
    assert stacked["model.norm.weight"].inputs[0].model.path == "b"


def test_buffers_are_left_out_by_name():
    old = facts_of(
        model__layers__0__self_attn__rotary_emb__inv_freq=("float32", (4,)),
        model__layers__0__attention__bias=("uint8", (1, 1, 8, 8)),
        model__layers__1__attention__bias=("float32", (16,)),
    )
    new = facts_of(model__layers__1__attention__bias=("float32", (16,)))
    for models in ({"a": old, "b": old}, {"a": new, "b": old}):
        plan = plan_of(SLERP % 1, **models)
        assert {item.input.tensor for item in plan.left_out} == {
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.layers.0.attention.bias",
        }
        assert "model.layers.1.attention.bias" in jobs_of(plan)


def test_dtypes():
    half, full = (facts_of(model__norm__weight=(d, (16,))) for d in ("float16", "float32"))
    name = "model.norm.weight"
    brain = facts_of(model__norm__weight=("bfloat16", (16,)))
    assert jobs_of(plan_of(SLERP % 1, a=half, b=half))[name].dtype == "float16"
    assert jobs_of(plan_of(SLERP % 1, a=half, b=brain))[name].dtype == "float32"
    assert jobs_of(plan_of(SLERP % 1 + "dtype: float16\n", a=full, b=brain))[name].dtype == "float16"
    both = SLERP % 1 + "dtype: float32\nout_dtype: bfloat16\n"
    assert jobs_of(plan_of(both, a=half, b=half))[name].dtype == "bfloat16"


def test_integers_are_copied():
    counted = facts_of(model__steps=("int64", (1,)))
    job = jobs_of(plan_of(SLERP % 1 + "dtype: float16\n", a=counted, b=counted))["model.steps"]
    assert job.verbatim and job.dtype == "int64"


def test_planning_is_linear_in_the_number_of_tensors():
    from time import perf_counter

    def seconds(layers: int) -> float:
        models = {"a": facts_of(layers), "b": facts_of(layers)}
        begin = perf_counter()
        plan_of(LINEAR % "[0, 1, 0.5]", **models)
        return perf_counter() - begin

    assert min(seconds(64) for _ in range(3)) < 16 * min(seconds(16) for _ in range(3))
