"""What can be told of `--match mergekit` without mergekit; tests/golden/test_match.py compares the bits."""

import json
from pathlib import Path

import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.merge.folder import merge_to_folder
from mergeopt.merge.mergekit_mode import MergekitExecution, as_mergekit, lock_entries
from mergeopt.methods import METHODS
from mergeopt.methods.as_mergekit import ARITHMETIC
from tests.conftest import Weights, llama_weights, read_weights, write_model
from tests.merge.conftest import jobs_of, prepared

DARE = "merge_method: dare_linear\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
DARE += "parameters: {weight: 0.5, density: 0.6}\n"


def matched(text: str, out: Path, seed: int | None) -> Weights:
    of = as_mergekit(prepared(text), seed)
    merge_to_folder(of, out, execute=MergekitExecution(of.recipe.dtype, seed), lock_also=lock_entries(seed))
    return read_weights(out)


def test_every_method_of_mergekit_has_its_arithmetic():
    assert set(METHODS) - set(ARITHMETIC) == {"tsv"}  # which mergekit does not have


def test_a_seed_is_all_that_random_numbers_depend_on(models: Path):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (matched(DARE, models / f"out{i}", seed) for i, seed in enumerate((3, 3, 4)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_draws_need_a_seed(models: Path):
    with pytest.raises(InputError, match=r"dare_linear draws random numbers.*give --random-seed N"):
        as_mergekit(prepared(DARE), None)
    whole = prepared(DARE.replace("0.6", "1"))
    assert as_mergekit(whole, None) == whole


def test_the_lock_says_what_was_matched(models: Path):
    matched(DARE, models / "out", 3)
    lock = json.loads((models / "out" / "recipe.lock.json").read_text())
    assert lock["match"] == {"mergekit": "0.1.5", "random_seed": 3, "threads": torch.get_num_threads()}
    assert lock["portability"] == "exact"


def test_results_that_mergekit_makes_float32_are_planned_so(models: Path):
    text = "merge_method: arcee_fusion\nbase_model: base\nmodels: [{model: a}]\ndtype: bfloat16\n"
    assert {job.dtype for job in as_mergekit(prepared(text), None).plan.jobs} == {"float32"}
    assert {job.dtype for job in prepared(text).plan.jobs} == {"bfloat16"}
    told = as_mergekit(prepared(text + "out_dtype: float16\n"), None)
    assert {job.dtype for job in told.plan.jobs} == {"float16"}


def test_what_cannot_be_matched_is_named(models: Path, tmp_path: Path):
    part = "  - sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [0, 2]}]\n"
    twice = f"merge_method: dare_ties\nbase_model: base\nparameters: {{weight: 1, density: 0.5}}\nslices:\n{part}{part}"
    (said,) = as_mergekit(prepared(twice), 0).notices
    assert "slices read a layer more than once" in said
    assert (
        as_mergekit(prepared(twice.replace("dare_ties", "task_arithmetic").replace(", density: 0.5", "")), 0).notices
        == ()
    )
    experts = {f"model.layers.0.mlp.experts.{i}.w1.weight": torch.ones(4, 4) for i in range(2)}
    for name in ("x", "y"):
        write_model(tmp_path / name, llama_weights(1) | experts)
    of = as_mergekit(
        prepared("merge_method: linear\nmodels: [{model: x}, {model: y}]\nparameters: {weight: 1}\n"), None
    )
    assert "fuses the experts of a layer" in of.notices[-1]


def test_integers_are_copied(models: Path):
    for name in ("x", "y"):
        write_model(models / name, llama_weights(1) | {"model.steps": torch.arange(5)})
    text = "merge_method: linear\nmodels: [{model: x}, {model: y}]\nparameters: {weight: 1}\n"
    assert jobs_of(prepared(text).plan)["model.steps"].verbatim
    assert matched(text, models / "out", None)["model.steps"].tolist() == [0, 1, 2, 3, 4]
