"""Levels: coarse to fine, each able to say what the one before said, the last with every dimension alone."""

from itertools import pairwise

import numpy as np
import pytest

from mergeopt.space.branch import Branch
from mergeopt.space.levels import Level
from tests.space.conftest import LLAMA, make_shape, names, space_of


def branch_of(weight: str, layers: int = 4, sources: int = 2, method: str = "task_arithmetic") -> Branch:
    models = "".join(
        f"  - {{model: zoo/{'abc'[i]}, parameters: {{weight: {weight.replace('NAME', 'abc'[i])}}}}}\n"
        for i in range(sources)
    )
    text = f"merge_method: {method}\nbase_model: zoo/base\nmodels:\n{models}"
    return space_of(text, make_shape(layers)).branches[0]


def matrix(level: Level, dimensions: int) -> np.ndarray:
    found = np.zeros((dimensions, len(level.columns)))
    for j, column in enumerate(level.columns):
        for i, share in column:
            found[i, j] = share
    return found


def sizes(branch: Branch) -> dict[str, int]:
    return {level.name: len(level.columns) for level in branch.levels}


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ("{range: [0, 1]}", {"source": 2}),
        ("{range: [0, 1], share: all}", {"source": 1}),
        ("{range: [0, 1], depth: 2}", {"source": 2, "depth": 4}),
        ("{range: [0, 1], depth: 3, outer: {range: [0, 2]}}", {"source": 2, "depth": 8}),
        ("{range: [0, 1], depth: layers}", {"source": 2, "depth": 6, "layers": 10}),
        ("{range: [0, 1], parts: blocks, outer: 0}", {"source": 2, "blocks": 6}),
        # blocks: 3 anchors of three blocks, and outer tensors: the norm, and embeddings with the head
        (
            "{range: [0, 1], depth: layers, parts: modules, outer: each}",
            {"source": 2, "depth": 8, "blocks": 22, "layers": 34, "tensors": 96},
        ),
        ("[0.1, {range: [0, 1]}, {range: [0, 1]}]", {"source": 4}),
        ("0.5", {}),
    ],
)
def test_names_and_sizes(weight: str, expected: dict[str, int]) -> None:
    shared = weight.replace("{range: [0, 1], share: all}", "{share: all}")
    branch = branch_of(weight, layers=5)
    if shared != weight:
        branch = space_of(
            "merge_method: task_arithmetic\nbase_model: zoo/base\nmodels:\n"
            f"  - {{model: zoo/a, parameters: {{weight: {weight}}}}}\n"
            f"  - {{model: zoo/b, parameters: {{weight: {shared}}}}}\n"
        ).branches[0]
    assert sizes(branch) == expected


@pytest.mark.parametrize(
    "weight",
    [
        "{range: [0, 1], depth: layers, parts: modules, outer: each}",
        "{range: [0, 1], depth: layers, parts: [self_attn, mlp.up], outer: {range: [0, 2]}}",
        "[{filter: self_attn, value: {range: [0, 1], depth: 7}}, {value: {range: [0, 1], depth: 4, outer: each}}]",
    ],
)
def test_every_level_says_what_the_one_before_said(weight: str) -> None:
    branch = branch_of(weight, layers=7)
    d = len(branch.dimensions)
    matrices = [matrix(level, d) for level in branch.levels]
    assert (matrices[-1] == np.eye(d)).all()
    for coarse, fine in pairwise(matrices):
        together = np.linalg.matrix_rank(np.hstack([coarse, fine]))
        assert together == np.linalg.matrix_rank(fine) > np.linalg.matrix_rank(coarse)
    for level in matrices:
        np.testing.assert_allclose(level.sum(axis=1), 1.0)  # all directions together move every dimension alike


def test_anchors_are_hats_over_depth_and_tensors_of_no_layer_stand_alone() -> None:
    branch = branch_of("{range: [0, 1], depth: layers, outer: {range: [0, 1]}}", layers=5, sources=1)
    assert names(branch) == [*(f"zoo/a.weight.{i}" for i in range(5)), "zoo/a.weight.outer"]
    level = {level.name: level for level in branch.levels}["depth"]
    assert level.columns == (
        ((0, 1.0), (1, 0.5)),
        ((1, 0.5), (2, 1.0), (3, 0.5)),
        ((3, 0.5), (4, 1.0)),
        ((5, 1.0),),
    )


def test_modules_are_gathered_into_their_blocks() -> None:
    branch = branch_of("{range: [0, 1], parts: modules, outer: 0}", sources=1)
    gathered = {
        frozenset(names(branch)[i].removeprefix("zoo/a.weight[").removesuffix("]") for i, _ in column)
        for column in {level.name: level for level in branch.levels}["blocks"].columns
    }
    assert gathered == {
        frozenset({"q_proj", "k_proj", "v_proj", "o_proj"}),
        frozenset({"gate_proj", "up_proj", "down_proj"}),
        frozenset({"input_layernorm", "post_attention_layernorm"}),
    }
    assert len(branch.dimensions) == len(LLAMA)
