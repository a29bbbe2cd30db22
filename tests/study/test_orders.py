"""A search over the orders of a chain: earlier steps are made while they are read, and the best order is returned."""

import json
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.merge.reproduce import reproduce
from mergeopt.merge.stages import merge_stages, prepare_stages
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document, read_documents
from mergeopt.recipe.stages import read_stages
from mergeopt.study.evaluation import evaluate_models
from mergeopt.study.events import Event, TrialDone
from mergeopt.study.job import open_record
from mergeopt.study.search import run_search
from mergeopt.study.workbench import Workbench
from tests.conftest import read_weights
from tests.study.family import hole, search_data
from tests.study.test_search import CPU, Outcome, history, prepare, refusal, result_data, search

MODELS = ["zoo/upper", "zoo/sort", "zoo/base"]


def chained(chain: Any = None, **more: Any) -> dict[str, Any]:
    return {"merge_method": "slerp", "chain": chain or {"order": MODELS}, "parameters": {"t": 0.4}} | more


def merged(recipe: Any, out: Path) -> dict[str, torch.Tensor]:
    """What `mergeopt merge` makes of a recipe's data."""
    chain = prepare_stages(read_stages([Document(recipe, "r.yml")], SCHEMAS))
    merge_stages(chain, out, folder=out.with_name(f"{out.name}.stages"), keep=False)
    return read_weights(out)


TIES = {"merge_method": "ties", "base_model": "zoo/base", "parameters": {"weight": 1, "density": 0.5}}
LATE = chained({"order": [*MODELS[:2], "zoo/multitask"]}, parameters={"t": 0.8}, dtype="bfloat16")
CASES = {
    "slerp": chained(dtype="bfloat16"),
    "ties": chained({"order": [*MODELS[:2], "zoo/multitask"]}) | TIES,
    "dare": chained({"order": [*MODELS[:2], "zoo/multitask"]}) | TIES | {"merge_method": "dare_ties", "seed": 3},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("resident", [True, False])
def test_a_candidate_is_the_merge_of_its_chain_bit_for_bit(
    name: str, resident: bool, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = CASES[name]
    if not resident:
        monkeypatch.setattr("mergeopt.study.workbench._free_bytes", lambda device: 0)
    job = prepare(search_data(recipe, method="grid"), tmp_path)
    bench = Workbench(job.checkpoints, job.suite, CPU, speaker=job.speaker)
    orders = list(permutations(recipe["chain"]["order"]))
    assert [branch.name for branch in job.space.branches] == [f"order={' > '.join(order)}" for order in orders]
    different = set()
    for index, order in enumerate(orders):
        live = bench.become(job.recipe_at(index, ())).live
        written = merged(recipe | {"chain": list(order)}, tmp_path / f"merged-{index}")
        assert all(torch.equal(live.view(tensor), weight.float()) for tensor, weight in written.items())
        different.add(written["model.layers.1.mlp.up_proj.weight"].float().sum().item())
    assert len(different) > 2


@pytest.mark.parametrize("method", ["grid", "random", "auto", "gradient", "cmaes", "tpe", "gp", "nsga2"])
def test_every_order_is_tried_once_and_the_best_is_chosen(method: str, work: Path, tmp_path: Path) -> None:
    outcome = search(search_data(chained(), method=method, trials=20, finalists=6), tmp_path)
    branches = [branch.name for branch in outcome.job.space.branches]
    assert sorted(trial.branch for trial in outcome.trials) == sorted(branches) and len(branches) == 6
    values = {trial.branch: trial.value for trial in outcome.trials}
    assert len(set(values.values())) > 2
    assert outcome.trials[0].branch == branches[0]


@pytest.fixture
def searched(work: Path, tmp_path: Path) -> Outcome:
    """Slerp in which the last one in counts most: a chain that ends in the useless model is a bad one."""
    return search(search_data(LATE, method="grid", trials=6, finalists=6), tmp_path, write=True)


def test_the_best_order_is_returned_and_written_as_the_whole_chain(searched: Outcome, tmp_path: Path) -> None:
    job, found, out = searched.job, searched.found, searched.out
    best = max(searched.trials, key=lambda trial: trial.value or 0.0)
    assert best.branch == "order=zoo/multitask > zoo/sort > zoo/upper" and found.winner.name == f"trial {best.number}"
    again = read_stages(read_documents(out / "recipe.yaml"), SCHEMAS)
    assert again.final.recipe == found.winner.recipe
    assert [str(ref) for ref in again.models] == ["zoo/multitask", "zoo/sort", "zoo/upper"]
    merge_stages(prepare_stages(again), tmp_path / "again", folder=tmp_path / "stages", keep=False)
    written, remade = read_weights(out), read_weights(tmp_path / "again")
    bench = Workbench(job.checkpoints, job.suite, CPU, speaker=job.speaker)
    live = bench.become(found.winner.recipe).live
    assert written.keys() == remade.keys() and written["lm_head.weight"].dtype is torch.bfloat16
    for name, weight in written.items():
        assert torch.equal(weight, remade[name]) and torch.equal(weight.float(), live.view(name))
    lock, lock_again = (json.loads((folder / "recipe.lock.json").read_text()) for folder in (out, tmp_path / "again"))
    assert (lock["stages"].keys(), lock["outputs"]) == (lock_again["stages"].keys(), lock_again["outputs"])
    assert lock["items"].keys() == {"upper_lines", "sort_lines"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"search"}
    assert not list((out / "search").glob("**/*.safetensors"))  # no step is left behind
    rows, _ = evaluate_models([str(out)], [], CPU)
    assert rows[0].evals == found.result.row(found.winner.name).evals


def test_the_comparison_is_with_the_models_themselves(searched: Outcome) -> None:
    kinds = {row.name: row.kind for row in searched.found.result.rows if row.kind != "learned"}
    assert kinds == dict.fromkeys(["zoo/upper", "zoo/sort", "zoo/multitask"], "parent") | {"uniform": "fixed"}
    card = (searched.out / "README.md").read_text()
    assert ", a chain of 2 merges." in card and "the same model but for rounding" in card
    assert "* local:multitask\n* local:sort\n* local:upper\n" in card
    assert card.count("merge_method: slerp") == 2 and "name: step-" in card


def test_a_written_chain_is_not_remade_in_silence(searched: Outcome) -> None:
    with pytest.raises(InputError, match="holds 2 documents"):
        reproduce(searched.out, {}, lambda *_: nullcontext(lambda _: None))


def test_a_killed_search_goes_on_to_the_same_end(work: Path, tmp_path: Path) -> None:
    data = search_data(LATE, method="grid", trials=6, batch=2)
    whole = search(data, tmp_path / "whole")

    def killed(event: Event) -> None:
        if isinstance(event, TrialDone) and event.number == 2:
            raise KeyboardInterrupt

    job = prepare(data, tmp_path / "cut")
    with open_record(job, tmp_path / "cut" / "out" / "search", resume=False) as record:
        with pytest.raises(KeyboardInterrupt):
            run_search(job, record, CPU, killed)
        assert len(record.trials) == 3
    resumed = search(data, tmp_path / "cut", resume=True)
    assert history(resumed) == history(whole) and result_data(resumed) == result_data(whole)
    assert len(whole.said) == len(set(whole.said))


def test_the_last_step_has_numbers_to_search_and_choices_may_stand_anywhere(work: Path, tmp_path: Path) -> None:
    def last(model: str) -> dict[str, Any]:
        return {"model": model, "parameters": {"t": hole(0.0, 1.0, depth=2)}}

    orders = [["zoo/base", "zoo/sort", last("zoo/upper")], ["zoo/base", "zoo/upper", last("zoo/sort")]]
    recipe = chained({"choice": orders}) | {"parameters": {"t": {"choice": [0.5, 0.9]}}}
    data = search_data(recipe, method="auto", trials=12) | {"learn": {"steps": 8, "size": 8}}
    outcome = search(data, tmp_path)
    assert len(outcome.job.space.branches) == 4 and outcome.found.result.steps > 0
    assert {tuple(trial.params) for trial in outcome.trials} == {("t.0", "t.1")}
    done = next(trial for trial in outcome.trials if trial.branch == "order=zoo/base > zoo/upper > zoo/sort, t=0.9")
    index = [branch.name for branch in outcome.job.space.branches].index(done.branch)
    made = outcome.job.recipe_at(index, tuple(done.params.values()))
    stages = outcome.job.steps.chain(made, None)
    assert stages.earlier[0].recipe.parameters["t"][0].values == (0.9,)
    live = Workbench(outcome.job.checkpoints, outcome.job.suite, CPU).become(made).live
    merge_stages(prepare_stages(stages), tmp_path / "out", folder=tmp_path / "steps", keep=False)
    assert all(torch.equal(live.view(name), weight) for name, weight in read_weights(tmp_path / "out").items())


def test_orders_that_the_trials_cannot_pay_for_are_counted(work: Path, tmp_path: Path) -> None:
    said = prepare(search_data(chained(), trials=5), tmp_path).notices
    assert "6 branches and 5 trials: not every one is tried" in said


def test_four_models_stand_on_steps_of_steps(work: Path, tmp_path: Path) -> None:
    """A step's own steps are no sources of a candidate: they are computed on the way and not kept."""
    job = prepare(search_data(chained({"order": [*MODELS, "zoo/multitask"]}), method="grid"), tmp_path)
    assert len(job.space.branches) == 24 and len(job.steps.stages) == 12 + 24
    assert sum(str(ref).startswith("step-") for ref in job.checkpoints) == 24
    order = ["zoo/multitask", "zoo/base", "zoo/sort", "zoo/upper"]
    index = [branch.name for branch in job.space.branches].index(f"order={' > '.join(order)}")
    live = Workbench(job.checkpoints, job.suite, CPU).become(job.recipe_at(index, ())).live
    written = merged(chained(order), tmp_path / "merged")
    assert all(torch.equal(live.view(name), weight) for name, weight in written.items())


@pytest.mark.parametrize(
    ("recipe", "optimize", "says"),
    [
        ({"tokenizer_source": "union"}, {}, "a chain with a vocabulary of its own cannot be searched"),
        ({}, {"portable": False}, "optimize.portable: numbers below the tensor cannot be learned on a chain"),
        ({"chain": {"order": ["zoo/upper", "zoo/sort", "zoo/nobody"]}}, {}, "zoo/nobody"),
    ],
)
def test_what_cannot_be_searched_is_said(
    recipe: dict[str, Any], optimize: dict[str, Any], says: str, work: Path, tmp_path: Path
) -> None:
    assert says in refusal(search_data(chained() | recipe, **optimize), tmp_path)
