import pickle
import time

import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.shape import Shape
from mergeopt.space.space import parse_space
from tests.space.conftest import assert_written_as_meant, document, make_shape, names, space_of

HEAD = "merge_method: task_arithmetic\nbase_model: zoo/base\n"


def one_model(weight: str, head: str = HEAD) -> str:
    return f"{head}models:\n  - model: zoo/a\n    parameters:\n      weight: {weight}\n"


def test_control_points_become_a_gradient_list_and_outer_tensors_are_named() -> None:
    (branch,) = space_of(one_model("{range: [0, 1], depth: 3, init: [0.2, 0.4, 0.9], outer: 0.7}")).branches
    assert names(branch) == ["zoo/a.weight.0", "zoo/a.weight.1", "zoo/a.weight.2"]
    assert branch.init == (0.2, 0.4, 0.9)
    assert branch.recipe((0.11111, 0.5, 1)) == {
        "merge_method": "task_arithmetic",
        "base_model": "zoo/base",
        "models": [
            {
                "model": "zoo/a",
                "parameters": {
                    "weight": [
                        {"filter": "model.embed_tokens.weight", "value": 0.7},
                        {"filter": "model.norm.weight", "value": 0.7},
                        {"filter": "lm_head.weight", "value": 0.7},
                        {"value": [0.1111, 0.5, 1.0]},
                    ]
                },
            }
        ],
    }


@pytest.mark.parametrize(
    ("hole", "outer", "dimensions"),
    [
        ("{range: [0, 1]}", 0.5, 1),  # one number for everything
        ("{range: [0, 1], outer: {range: [0, 1], init: 0.1}}", 0.1, 2),
        ("{range: [0, 1], depth: 2, init: [0.2, 0.6]}", 0.4, 2),  # the mean, fixed
        ("{range: [0, 1], depth: 2, outer: each}", 0.5, 5),
        ("{range: [0, 1], depth: layers, parts: blocks, outer: {range: [0, 1], init: 0.9}}", 0.9, 13),
    ],
)
def test_outer(hole: str, outer: float, dimensions: int) -> None:
    two = HEAD + "".join(
        f"{'models:' if i == 0 else ''}\n  - model: zoo/{name}\n    parameters: {{weight: {hole if i == 0 else 1.0}}}\n"
        for i, name in enumerate("ab")
    )
    (branch,) = space_of(two).branches
    assert branch.intended(branch.init, 0, "weight", "lm_head.weight") == pytest.approx(outer)
    assert len(branch.dimensions) == dimensions
    assert_written_as_meant(branch, branch.init, lambda _: make_shape(4))


def test_init_defaults_to_the_parameters_default_else_one_over_n_and_is_clipped() -> None:
    text = """
merge_method: ties
base_model: zoo/base
models:
  - {model: zoo/base}
  - {model: zoo/a, parameters: {weight: {range: [0, 1]}, density: {range: [0.1, 1]}}}
  - {model: zoo/b, parameters: {weight: {range: [0.5, 1]}, density: {range: [0.1, 0.7]}}}
  - {model: zoo/c, parameters: {weight: 1}}
"""
    (branch,) = space_of(text).branches
    assert dict(zip(names(branch), branch.init, strict=True)) == {
        "zoo/a.weight": 0.3333,
        "zoo/a.density": 1.0,
        "zoo/b.weight": 0.5,
        "zoo/b.density": 0.7,
    }


def test_names_say_model_filter_part_and_layers_never_positions() -> None:
    text = """
merge_method: linear
slices:
  - sources:
      - {model: zoo/a, layer_range: [0, 2], parameters: {weight: {range: [0, 1], depth: 2}}}
      - {model: zoo/b, layer_range: [0, 2], parameters: {weight: 1}}
  - sources:
      - model: zoo/a
        layer_range: [2, 4]
        parameters: {weight: [{filter: mlp, value: {range: [0, 1], parts: [up_proj]}}, {value: 1}]}
      - {model: zoo/c, layer_range: [2, 4], parameters: {weight: {range: [0, 1]}}}
"""
    (branch,) = space_of(text).branches
    assert names(branch) == [
        "zoo/a[0:2].weight.0",
        "zoo/a[0:2].weight.1",
        "zoo/a[2:4].weight[mlp][up_proj]",
        "zoo/a[2:4].weight[mlp][rest]",
        "zoo/c.weight",
    ]


def test_a_shared_hole_is_one_dimension_under_its_name() -> None:
    text = HEAD + (
        "models:\n  - {model: zoo/a, parameters: {weight: {share: both}}}\n"
        "  - {model: zoo/b, parameters: {weight: {range: [0, 1], share: both}}}\n"
    )
    (branch,) = space_of(text).branches
    assert names(branch) == ["both"]
    models = branch.recipe((0.25,))["models"]
    assert [model["parameters"]["weight"] for model in models] == [0.25, 0.25]


def test_choices_are_branches_and_leave_out_what_their_method_does_not_read() -> None:
    text = """
merge_method: {choice: [task_arithmetic, ties]}
base_model: {choice: [zoo/base, zoo/other]}
models:
  - {model: zoo/a, parameters: {weight: {range: [0, 1]}, density: {range: [0.1, 1]}}}
parameters: {normalize: {choice: [true, false]}}
"""
    space = space_of(text)
    assert len(space.branches) == 8
    assert space.branches[0].name == "merge_method=task_arithmetic, base_model=zoo/base, normalize=true"
    assert names(space.branches[0]) == ["zoo/a.weight"]
    assert names(space.branches[-1]) == ["zoo/a.weight", "zoo/a.density"]
    assert space.branches[0].recipe((0.5,))["models"][0]["parameters"] == {"weight": 0.5}
    assert space.branches[-1].recipe((0.5, 0.5))["parameters"] == {"normalize": False}
    assert any("task_arithmetic does not read 'density'" in notice for notice in space.notices)


def test_too_many_branches_are_refused_with_their_number() -> None:
    options = ", ".join(f"{i}" for i in range(9))
    text = one_model("1") + f"parameters: {{lambda: {{choice: [{options}]}}}}\nseed: {{choice: [{options}]}}\n"
    with pytest.raises(InputError, match="81 combinations"):
        space_of(text)


def test_a_branch_that_is_no_recipe_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"slerp .*\(with merge_method=slerp\)"):
        space_of(one_model("{range: [0, 1]}", HEAD.replace("task_arithmetic", "{choice: [ties, slerp]}")))


@pytest.mark.parametrize(
    ("weight", "kept", "notice"),
    [
        ("[{filter: nowhere, value: {range: [0, 1]}}, {value: 1}]", 0, "no tensor takes its value from it"),
        ("[{value: 1}, {filter: mlp, value: {range: [0, 1]}}]", 0, "no tensor takes its value from it"),
        ("[{filter: mlp, value: {range: [0, 1], outer: {range: [0, 1]}}}, {value: 1}]", 1, "outside the layers"),
        ("{range: [0, 1], parts: [mlp, nowhere]}", 2, "part 'nowhere' has no effect"),
        ("{range: [0, 1], depth: 9, init: 0.5}", 6, None),  # of 9 points over 4 layers, 6 touch a layer
        ("[{filter: layers.1., value: {range: [0, 1], depth: layers}}, {value: 1}]", 1, None),
    ],
)
def test_dimensions_without_effect_are_dropped(weight: str, kept: int, notice: str | None) -> None:
    space = space_of(one_model(weight))
    (branch,) = space.branches
    assert len(branch.dimensions) == kept
    assert any(notice in each for each in space.notices) if notice else not space.notices
    assert_written_as_meant(branch, branch.init, lambda _: make_shape(4))


def test_parameters_of_the_base_and_whole_parameters_of_a_model_have_no_effect() -> None:
    text = HEAD + (
        "models:\n  - {model: zoo/base, parameters: {weight: {range: [0, 1]}}}\n"
        "  - {model: zoo/a, parameters: {weight: 1, lambda: {range: [0, 1]}}}\n"
    )
    space = space_of(text)
    assert space.branches[0].dimensions == () and len(space.notices) == 2
    assert space.branches[0].recipe(())["models"][0] == {"model": "zoo/base"}


def test_holes_that_no_method_or_no_range_can_fill_are_refused() -> None:
    with pytest.raises(InputError, match="no method reads 'wieght'; did you mean 'weight'"):
        space_of(one_model("1").replace("weight", "wieght: {range: [0, 1]}\n      weight"))
    with pytest.raises(InputError, match=r"use normalize: \{choice: \[true, false\]\}"):
        space_of(one_model("1") + "parameters: {normalize: {range: [0, 1]}}")
    with pytest.raises(InputError, match="init has 3 values, the output 4 layers"):
        space_of(one_model("{range: [0, 1], depth: layers, init: [0.1, 0.2, 0.3]}"))


def test_the_same_layers_twice_are_told_apart_by_where_they_go() -> None:
    layers = "- sources: [{model: zoo/a, layer_range: [1, 3], parameters: {scale: {range: [0, 1]}}}]\n"
    (branch,) = space_of(f"merge_method: passthrough\nslices:\n  {layers}  {layers}").branches
    assert names(branch) == ["zoo/a[1:3]@0.scale", "zoo/a[1:3]@2.scale"]


def test_names_that_would_meet_are_refused() -> None:
    with pytest.raises(InputError, match=r"two dimensions would have the name 'lambda'"):
        space_of(one_model("{range: [0, 1], share: lambda}") + "parameters: {lambda: {range: [0, 1]}}")


def test_a_hole_over_slices_is_written_slice_by_slice() -> None:
    text = """
merge_method: slerp
base_model: zoo/base
slices:
  - sources: [{model: zoo/base, layer_range: [0, 3]}, {model: zoo/a, layer_range: [0, 3]}]
  - sources: [{model: zoo/base, layer_range: [3, 4]}, {model: zoo/a, layer_range: [3, 4]}]
    parameters: {t: [{filter: mlp, value: 0.9}]}
parameters: {t: {range: [0, 1], depth: 2, outer: 0.5}}
"""
    (branch,) = space_of(text).branches
    recipe = branch.recipe((0.0, 0.3))
    assert "parameters" not in recipe
    assert recipe["slices"][0]["parameters"]["t"][-1] == {"value": [0.0, 0.1, 0.2]}
    assert recipe["slices"][1]["parameters"]["t"] == [
        {"filter": "mlp", "value": 0.9},
        {"filter": "model.norm.weight", "value": 0.5},
        {"filter": "lm_head.weight", "value": 0.5},
        {"value": 0.3},
    ]
    assert_written_as_meant(branch, (0.0, 0.3), lambda _: make_shape(4))


def test_an_outer_name_inside_a_layers_name_is_arranged_around() -> None:
    shape = make_shape(3, ("attention_norm.weight", "wq.weight"), ("tok_embeddings.weight", "norm.weight"), "layers")
    (branch,) = space_of(one_model("{range: [0, 1], depth: 3, outer: 0.9}"), shape).branches
    assert branch.intended(branch.init, 0, "weight", "norm.weight") == 0.9
    assert_written_as_meant(branch, (0.1, 0.2, 0.3), lambda _: shape)


def test_a_tied_head_follows_the_embeddings_that_stand_for_it() -> None:
    tied = make_shape(2, outer=("model.embed_tokens.weight", "model.norm.weight"))

    def shape_of(ref: ModelRef) -> Shape:
        return tied if ref.path == "zoo/a" else make_shape(2)

    text = one_model("{range: [0, 1], outer: each}")
    (branch,) = parse_space(document(text), schemas=SCHEMAS, shape_of=shape_of).branches
    assert names(branch)[1:] == [
        "zoo/a.weight.outer[model.embed_tokens.weight]",
        "zoo/a.weight.outer[model.norm.weight]",
    ]
    assert branch.intended((0.1, 0.2, 0.3), 0, "weight", "lm_head.weight") == 0.2
    assert_written_as_meant(branch, (0.1, 0.2, 0.3), shape_of)


def test_affine_gives_the_chain_rule_of_every_coefficient() -> None:
    (branch,) = space_of(one_model("{range: [0, 1], depth: 2, outer: 0.9}")).branches
    affine = branch.affine(0, "weight", "model.layers.1.mlp.up_proj.weight")
    assert affine.constant == 0.0
    assert dict(affine.slopes) == pytest.approx({0: 2 / 3, 1: 1 / 3})
    assert branch.affine(None, "lambda", "lm_head.weight") == 1.0


def test_a_recipe_without_holes_is_one_branch_of_no_dimensions() -> None:
    (branch,) = space_of(one_model("[0.1, 0.9]")).branches
    assert (branch.name, branch.dimensions, branch.init) == ("", (), ())
    assert branch.recipe(())["models"][0]["parameters"]["weight"] == [0.1, 0.9]


def test_a_branch_travels_to_another_process() -> None:
    (branch,) = space_of(one_model("{range: [0, 1], depth: layers, parts: modules, outer: each}")).branches
    copy = pickle.loads(pickle.dumps(branch))
    assert copy.recipe(branch.init) == branch.recipe(branch.init)


def test_the_finest_recipe_of_five_models_takes_about_a_millisecond() -> None:
    hole = "{range: [0, 1], depth: layers, parts: modules, outer: each}"
    text = HEAD + "models:\n" + "".join(f"  - {{model: m{i}, parameters: {{weight: {hole}}}}}\n" for i in range(5))
    shape: Shape = make_shape(30)
    (branch,) = parse_space(document(text), schemas=SCHEMAS, shape_of=lambda _: shape).branches
    assert len(branch.dimensions) == 5 * (30 * 9 + 3)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        branch.recipe(branch.init)
        best = min(best, time.perf_counter() - began)
    assert best < 0.01, f"{best * 1e3:.1f} ms"  # about 1 ms; ten times that on a loaded machine


def test_methods_without_numbers_are_choices_only() -> None:
    text = """\
    merge_method: {choice: [karcher, model_stock, arcee_fusion, ram]}
    base_model: base
    models: [{model: a}, {model: b}]
    """
    space = space_of(text.replace(", arcee_fusion", ""))
    assert [(branch.name, branch.dimensions) for branch in space.branches] == [
        (f"merge_method={name}", ()) for name in ("karcher", "model_stock", "ram")
    ]
    with pytest.raises(InputError, match=r"arcee_fusion takes 1 model .* \(with merge_method=arcee_fusion\)"):
        space_of(text)


def test_no_gradient_moves_a_threshold() -> None:
    (branch,) = space_of(
        """\
        merge_method: ramplus_tl
        base_model: base
        models: [{model: a}, {model: b}]
        parameters: {r: {range: [0, 1]}, epsilon: {range: [1.0e-6, 1.0e-2], log: true}}
        """
    ).branches
    assert names(branch) == ["r", "epsilon"] and branch.thresholds == ("epsilon",)


def test_a_whole_number_is_chosen_not_ranged_over() -> None:
    text = "merge_method: karcher\nmodels: [{model: a}, {model: b}]\nparameters: {max_iter: {range: [1, 9]}}\n"
    with pytest.raises(InputError, match=r"use max_iter: \{choice: \[1, 2\]\}"):
        space_of(text)


@pytest.mark.parametrize(
    "text",
    ["choice: [ties, linear]", "merge_method: ties\nbase_model: x\nmodels: [{model: a, parameters: {choice: [1, 2]}}]"],
)
def test_a_choice_of_what_is_no_word_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        space_of(text)
