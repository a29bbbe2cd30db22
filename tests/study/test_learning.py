"""Searches that learn by gradient, from file to winner, on a family of real models."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mergeopt.cli.main import app
from mergeopt.errors import InputError
from mergeopt.merge.refinement import SIDECAR
from mergeopt.study.evaluation import evaluate_models
from mergeopt.study.events import Phase, StepDone
from mergeopt.study.reading import read_study
from mergeopt.study.workbench import Compute
from tests.conftest import read_weights
from tests.study.family import hole, recipe, search_data, write_yaml
from tests.study.test_interrupted import start, wait_for
from tests.study.test_search import Outcome, history, result_data, search

CPU = Compute(torch.device("cpu"))
FINE = hole(0, 1, init=0.5, depth="layers", parts="modules", outer="each")


def learning(recipe_: Any = None, *, learn: Any = None, **options: Any) -> Any:
    """A search file that learns in a few steps."""
    data = search_data(recipe_ or recipe(FINE), **{"method": "gradient", "batch": 4, "trials": 9} | options)
    return data | {"learn": {"steps": 25, "size": 8} | (learn or {})}


def below(**learn: Any) -> Any:
    return learning(recipe(), portable=False, trials=9, learn={"steps": 8, "refine_steps": 45} | learn)


def everything(outcome: Outcome, folder: Path) -> tuple[Any, ...]:
    """What a search found, without its seconds."""
    events = [json.loads(line) for line in (folder / "out" / "search" / "log.jsonl").read_text().splitlines()]
    steps = {e["number"]: {k: v for k, v in e.items() if k != "seconds"} for e in events if e["event"] == "step"}
    return history(outcome), steps, result_data(outcome)


@pytest.mark.parametrize("method", ["gradient", "auto"])
def test_a_search_by_gradient(method: str, work: Path, tmp_path: Path) -> None:
    outcome = search(learning(method=method), tmp_path, write=True)
    result = outcome.found.result
    assert [e.name for e in outcome.events if isinstance(e, Phase)] == [
        "references", "lessons", "search", "select", "report", "write",
    ]  # fmt: skip
    gradients = [e for e in outcome.events if isinstance(e, StepDone) and e.gradient]
    assert result.steps == len(gradients) == 25 and result.failed == 0
    assert result.trials == (9 if method == "auto" else len(outcome.trials)) <= 9
    losses = [e.value for e in outcome.events if isinstance(e, StepDone) and not e.gradient]
    assert losses[0] is not None and max(v for v in losses if v is not None) > losses[0]  # minus the loss rises
    values = [trial.value for trial in outcome.trials]
    init = next(trial for trial in outcome.trials if set(trial.params.values()) == {0.5})
    assert init.value is not None and max(v for v in values if v is not None) > init.value
    assert sum(one.share for one in result.importance) == pytest.approx(1.0)
    assert {one.name for one in result.importance} == {d.name for d in outcome.job.space.branches[0].dimensions}
    for info in outcome.job.suite.evals:  # what is learned from is not what is scored on
        sides = [set(info.hashes[split]) for split in ("calibrate", "search", "select", "report")]
        assert all(sides) and sum(map(len, sides)) == len(set.union(*sides))
    assert "25 gradient steps" in (outcome.out / "README.md").read_text()
    rows, _ = evaluate_models([str(outcome.out)], [], CPU)
    assert rows[0].evals == result.row(result.winner).evals
    searched, _ = evaluate_models([str(outcome.out)], [], CPU, split="search")
    claimed = {trial.value: trial.scores for trial in outcome.trials}
    if result.search_value is not None:
        found = {name: cell.value for name, cell in searched[0].evals.items()}
        assert found == pytest.approx(claimed[result.search_value], rel=1e-5)


@pytest.mark.parametrize("method", ["gradient", "auto"])
def test_the_same_seed_learns_the_same(method: str, work: Path, tmp_path: Path) -> None:
    space = recipe() | {"merge_method": {"choice": ["task_arithmetic", "ties"]}}
    data = learning(space, method=method, trials=12)
    first, second = search(data, tmp_path / "a"), search(data, tmp_path / "b")
    assert everything(first, tmp_path / "a") == everything(second, tmp_path / "b")
    steps = everything(first, tmp_path / "a")[1].values()
    assert {step["branch"] for step in steps} == {branch.name for branch in first.job.space.branches}


def test_a_finished_search_resumes_without_learning(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(learning(), tmp_path)
    before = everything(first, tmp_path)

    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("mergeopt.study.learner.Learner.measure", measured)
    monkeypatch.setattr("mergeopt.study.workbench.Workbench.measure", measured)
    assert everything(search(learning(), tmp_path, resume=True), tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradient", "auto"])
def test_kill_minus_nine_between_steps(method: str, work: Path, tmp_path: Path) -> None:
    data = learning(method=method, trials=10, learn={"steps": 40})
    whole = search(data, tmp_path / "whole")
    cut = tmp_path / "cut"
    cut.mkdir()
    write_yaml(cut / "s.yml", data)
    with start(cut, cut / "out") as process:
        wait_for(process, cut / "out", '"event":"step"', 15)
        process.send_signal(signal.SIGKILL)
    steps = (cut / "out" / "search" / "log.jsonl").read_text().count('"event":"step"')
    assert process.returncode == -signal.SIGKILL and 15 <= steps < 42
    with (cut / "out" / "search" / "log.jsonl").open("a") as file:
        file.write('{"event":"step","num')
    resumed = search(data, cut, resume=True, write=True)
    assert everything(resumed, cut) == everything(whole, tmp_path / "whole")
    assert json.loads((cut / "out" / "result.json").read_text())["steps"] == 40


def test_too_few_answers_for_many_numbers(work: Path, tmp_path: Path) -> None:
    data = learning(evals=("upper_whole",))
    data["objective"][0]["limit"] = 20
    outcome = search(data, tmp_path)
    (said,) = [text for text in outcome.said if "answer tokens are too few" in text]
    found = re.fullmatch(
        r"(\d+) answer tokens are too few for (\d+) numbers \((\w+)\): learned by (\w+), (\d+) numbers; "
        r"give more items or prompts",
        said,
    )
    assert found is not None
    tokens, many, few = (int(found[i]) for i in (1, 2, 5))
    sizes = {level.name: len(level.columns) for level in outcome.job.space.branches[0].levels}
    assert few <= tokens < many and (sizes[found[3]], sizes[found[4]]) == (many, few)
    coarse = next(level for level in outcome.job.space.branches[0].levels if level.name == found[4])
    column = max(coarse.columns, key=len)
    assert len(column) > 1
    last = list(outcome.trials[-1].params.values())
    assert len({round(last[index], 2) for index, share in column if share == 1}) == 1  # they moved together


def test_nothing_to_learn_from(work: Path, tmp_path: Path) -> None:
    """Without a calibrate split there is no loss: `gradient` has nothing to go by, `auto` goes without."""
    splits = {"calibrate": 0, "search": 2, "select": 1, "report": 1}
    with pytest.raises(InputError, match=r"nothing to take a gradient of.*or use method auto"):
        search(learning(splits=splits), tmp_path / "a")
    outcome = search(learning(recipe(), method="auto", splits=splits, trials=4), tmp_path / "b")
    assert (outcome.found.result.steps, outcome.found.result.trials) == (0, 4)
    assert len([text for text in outcome.said if text.endswith("the gradient does not see it, the trials do")]) == 2


def test_steps_that_fail_are_survived(work: Path, tmp_path: Path) -> None:
    """Weights beyond float16: the loss falls where it can."""
    made = recipe(hole(0.0, 3e38, init=0.5)) | {"dtype": "float16"}
    outcome = search(learning(made), tmp_path)
    failed = [e for e in outcome.events if isinstance(e, StepDone) and e.value is None]
    assert failed and [text for text in outcome.said if "not finite; back to the best point with half the st" in text]
    result = outcome.found.result
    assert np.isfinite(result.row(result.winner).objective) and outcome.trials[0].state == "complete"


def test_learn_is_said_to_have_no_effect_elsewhere(work: Path, tmp_path: Path) -> None:
    outcome = search(learning(recipe(), method="random", trials=2), tmp_path)
    assert "learn: has no effect on method random" in outcome.said


@pytest.fixture
def refined(work: Path, tmp_path: Path) -> Outcome:
    outcome = search(below(), tmp_path, write=True)
    assert outcome.found.result.winner == "refined"
    return outcome


def test_below_the_tensor(refined: Outcome, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, result = refined.out, refined.found.result
    assert "refine" in [e.name for e in refined.events if isinstance(e, Phase)]
    assert result.steps == 8 + 45 and result.row("refined").kind == "learned"
    assert (out / SIDECAR).is_file() and not (out / "mergekit_config.yml").exists()
    held_out = {note["step"]: note["loss"] for note in read_study(out / "search").notes("refinement")}
    assert list(held_out) == [0, 40, 45] and held_out[40] < held_out[0]
    assert f"refinement: {SIDECAR}" in (out / "recipe.yaml").read_text()
    lock = json.loads((out / "recipe.lock.json").read_text())
    assert lock["portability"] == "mergeopt only" and lock["refinement"].startswith("xxh3-128:")
    rows, _ = evaluate_models([str(out)], [], CPU)
    assert rows[0].evals == result.row("refined").evals  # the written model is the refined one
    again = CliRunner().invoke(app, ["merge", str(out / "recipe.yaml"), str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    first, second = read_weights(out), read_weights(tmp_path / "again")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    (out / SIDECAR).rename(tmp_path / SIDECAR)
    plain = CliRunner().invoke(app, ["merge", str(out / "recipe.yaml"), str(tmp_path / "plain")])
    assert plain.exit_code == 2 and "no such file" in plain.output


def test_below_the_tensor_again(refined: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the beginning; from the state; and from where it was killed."""
    expected, sidecar = result_data(refined), (refined.out / SIDECAR).read_bytes()
    resumed = search(below(), tmp_path, resume=True)
    assert result_data(resumed) == expected
    assert not [e for e in resumed.events if isinstance(e, StepDone)]
    (refined.out / "search" / "refinement.safetensors").unlink()
    shutil.rmtree(refined.out / "search", ignore_errors=False)
    anew = search(below(), tmp_path, write=True)
    assert result_data(anew) == expected and (anew.out / SIDECAR).read_bytes() == sidecar


@pytest.mark.slow
def test_kill_minus_nine_below_the_tensor(refined: Outcome, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    write_yaml(cut / "s.yml", below())
    state = cut / "out" / "search" / "refinement.safetensors"
    with start(cut, cut / "out") as process:
        wait_for(process, cut / "out", "", 0, also=state.exists)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (cut / "out" / "config.json").exists()
    resumed = search(below(), cut, resume=True, write=True)
    assert (resumed.out / SIDECAR).read_bytes() == (refined.out / SIDECAR).read_bytes()
    assert result_data(resumed) == result_data(refined)


def test_what_breaks_a_constraint_is_turned_down_and_named(work: Path, tmp_path: Path) -> None:
    """Learning to sort below the tensor makes a model forget more than the base may."""
    data = below(retain=0)
    data["objective"] = [
        {"eval": "evals/sort_lines.yaml", "teacher": "zoo/sort"},
        {"eval": "evals/upper_lines.yaml", "at_most": {"base": 0.5}},
    ]
    outcome = search(data, tmp_path)
    assert outcome.found.result.winner != "refined"
    (said,) = [text for text in outcome.said if "breaks a constraint" in text]
    assert "upper_lines (" in said and said.endswith("a higher learn.retain keeps it closer to the base")


def test_where_nothing_below_the_tensor_is_better(work: Path, tmp_path: Path) -> None:
    """One specialist that teaches itself: its own weight of 1 is the answer."""
    one = {
        "merge_method": "task_arithmetic",
        "base_model": "zoo/base",
        "models": [{"model": "zoo/sort", "parameters": {"weight": hole(0.9, 1.0, init=1.0)}}],
        "dtype": "float32",
    }
    data = learning(one, evals=("sort_lines",), portable=False, trials=9, learn={"steps": 1, "refine_steps": 60})
    outcome = search(data, tmp_path, write=True)
    assert [text for text in outcome.said if text.startswith("below the tensor nothing is better than 'trial ")]
    assert not (outcome.out / SIDECAR).exists() and (outcome.out / "mergekit_config.yml").exists()
