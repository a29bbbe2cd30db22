"""Searches from file to winner, on a family of real models."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mergeopt.errors import InputError
from mergeopt.recipe.document import read_document
from mergeopt.recipe.recipe import ModelRef
from mergeopt.report.publish import publish
from mergeopt.study.evaluation import evaluate_models
from mergeopt.study.events import Event, Notice, Phase, Scored, TrialDone
from mergeopt.study.job import SearchJob, open_record, prepare_search
from mergeopt.study.record import Trial
from mergeopt.study.search import Found, run_search
from mergeopt.study.searchfile import read_search_file
from mergeopt.study.workbench import Compute
from tests.study.family import hole, recipe, search_data, write_yaml

CPU = Compute(torch.device("cpu"))


@dataclass
class Outcome:
    job: SearchJob
    found: Found
    trials: list[Trial]
    events: list[Event]
    out: Path

    @property
    def said(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


def prepare(data: Any, folder: Path) -> SearchJob:
    folder.mkdir(parents=True, exist_ok=True)
    path = write_yaml(folder / "s.yml", data)
    return prepare_search(read_search_file(read_document(path), layers_of=lambda ref: 2), folder)


def search(data: Any, folder: Path, *, resume: bool = False, write: bool = False) -> Outcome:
    job, events = prepare(data, folder), list[Event]()
    with open_record(job, folder / "out" / "search", resume=resume) as record:
        found = run_search(job, record, CPU, events.append)
        if write:
            publish(found, job, folder / "out", events.append)
        return Outcome(job, found, record.trials, events, folder / "out")


def refusal(data: Any, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        prepare(data, folder)
    return str(caught.value)


def history(outcome: Outcome) -> list[Any]:
    return [(t.number, t.branch, t.params, t.value, t.violation, t.items, t.state, t.tokens) for t in outcome.trials]


def result_data(outcome: Outcome) -> dict[str, Any]:
    data = outcome.found.result.data()
    del data["seconds"]
    return data


@pytest.fixture
def searched(work: Path, tmp_path: Path) -> Outcome:
    return search(search_data(evals=("upper_lines", "sort_lines", "upper_first")), tmp_path, write=True)


def test_a_search_from_file_to_folder(searched: Outcome, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, job = searched.found.result, searched.job
    names = [row.name for row in result.rows]
    assert {"zoo/base", "zoo/upper", "zoo/sort", "uniform", "ties 0.5/0.5", "dare_ties 0.5/0.5"} < set(names)
    assert result.winner in names and len(set(names)) == len(names)
    assert (result.trials, result.failed) == (10, 0)
    for info in job.suite.evals:  # no item on two sides
        sides = [set(info.hashes[split]) for split in ("search", "select", "report")]
        assert all(not a & b for i, a in enumerate(sides) for b in sides[i + 1 :])
        assert all(sides) and set(info.hashes) <= {"search", "select", "report", "calibrate"}
    order = [event.name for event in searched.events if isinstance(event, Phase)]
    assert order == ["references", "search", "select", "report", "write"]
    reports = [event.name for event in searched.events if isinstance(event, Scored) and event.split == "report"]
    assert sorted(reports) == sorted(names)  # each once, after everything else
    assert json.loads((searched.out / "result.json").read_text())["winner"] == result.winner

    rows, _ = evaluate_models([str(searched.out)], [], CPU)
    assert rows[0].evals == result.row(result.winner).evals  # the written model is the searched one

    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(work / "evals")  # lm-eval looks for data in the working folder
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(searched.out), "dtype": "float32"},
        tasks=["upper_lines"],
        task_manager=TaskManager(include_path=str(work / "evals"), include_defaults=False),
        device="cpu",
        batch_size=8,
        log_samples=False,
        bootstrap_iters=0,
    )
    theirs = found["results"]["upper_lines"]["bits_per_byte,none"]
    assert theirs == pytest.approx(result.row(result.winner).evals["upper_lines"].value, rel=1e-6)


def test_paired_differences_are_those_of_the_items(searched: Outcome) -> None:
    result = searched.found.result
    log = [json.loads(line) for line in (searched.out / "search" / "log.jsonl").read_text().splitlines()]
    notes = {
        e["payload"]["name"]: e["payload"]["evals"]
        for e in log
        if e.get("kind") == "score" and e["payload"]["split"] == "report"
    }
    base = [e["payload"] for e in log if e.get("kind") == "score" and e["payload"]["split"] == "search"]
    origin = next(n for n in base if n["name"] == "zoo/base")["evals"]
    parents = [n["evals"] for n in base if n["name"] in ("zoo/upper", "zoo/sort")]
    ways = {}
    for name, sign in (("upper_lines", -1), ("sort_lines", -1), ("upper_first", 1)):
        best = max(parents, key=lambda evals: sign * evals[name]["value"])[name]
        d = np.array(best["items"]) - np.array(origin[name]["items"])
        ways[name] = sign * max(sign * d.mean(), 10 * d.std(ddof=1) / np.sqrt(len(d)))
        assert sign * d.mean() > 2 * d.std(ddof=1) / np.sqrt(len(d))
    for row in result.rows:
        if row.against is None:
            continue
        mean = variance = 0.0
        for name, won in notes[result.winner].items():
            d = np.array(won["items"]) - np.array(notes[row.name][name]["items"])
            d = d / ways[name] / 3
            mean, variance = mean + d.mean(), variance + d.var(ddof=1) / len(d)
        assert row.against.mean == pytest.approx(mean, abs=1e-9)
        assert row.against.stderr == pytest.approx(np.sqrt(variance), abs=1e-9)


def test_the_same_seed_gives_the_same_history(work: Path, tmp_path: Path) -> None:
    data = search_data(recipe(method="dare_ties", parameters={"density": 0.5}), method="cmaes", trials=8)
    first, second = search(data, tmp_path / "a"), search(data, tmp_path / "b")
    assert history(first) == history(second) and result_data(first) == result_data(second)
    data["optimize"]["seed"] = 1
    assert [t.params for t in search(data, tmp_path / "c").trials] != [t.params for t in first.trials]


def test_a_finished_study_resumes_without_measuring(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(search_data(), tmp_path)

    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("mergeopt.study.workbench.Workbench.measure", measured)
    again = search(search_data(), tmp_path, resume=True)
    assert history(again) == history(first)
    assert again.found.result.rows == first.found.result.rows
    assert not [n for n in again.found.result.notices if "were read" in n]  # nothing was decided anew


def test_a_resumed_study_may_go_on_longer(work: Path, tmp_path: Path) -> None:
    data = search_data(chosen(), method="auto", trials=6)
    short = search(data, tmp_path)
    data["optimize"]["trials"] = 14
    longer = search(data, tmp_path, resume=True)
    assert history(longer)[:6] == history(short) and len(longer.trials) == 14


def test_another_study_is_not_resumed(work: Path, tmp_path: Path) -> None:
    search(search_data(trials=1), tmp_path)
    with pytest.raises(InputError, match=r"begun with another optimize"):
        search(search_data(trials=1, seed=1), tmp_path, resume=True)
    with pytest.raises(InputError, match="there is a study already"):
        search(search_data(trials=1), tmp_path)


def test_candidates_that_compute_nan_are_failed_trials(work: Path, tmp_path: Path) -> None:
    outcome = search(search_data(recipe(hole(0.5, 3e38, init=0.5)) | {"dtype": "float16"}, trials=6), tmp_path)
    states = [trial.state for trial in outcome.trials]
    assert "failed" in states and states[0] == "complete" and len(states) == 6
    result = outcome.found.result
    assert result.failed == states.count("failed") and np.isfinite(result.row(result.winner).objective)
    done = [event for event in outcome.events if isinstance(event, TrialDone)]
    assert [event.value is None for event in done] == [state == "failed" for state in states]


def test_constraints_hold_for_the_winner(work: Path, tmp_path: Path) -> None:
    data = search_data(evals=("upper_lines", "sort_lines"), trials=12)
    data["objective"][1]["at_most"] = {"best_parent": 1.05}
    outcome = search(data, tmp_path)
    result = outcome.found.result
    winner = result.row(result.winner)
    assert winner.violation == 0
    assert {row.violation > 0 for row in result.rows} == {True, False}
    assert result.row("zoo/base").violation > 0
    assert [trial for trial in outcome.trials if trial.violation > 0]


def test_known_recipes_are_points_of_the_space(work: Path, tmp_path: Path) -> None:
    known = recipe()
    known["models"][0]["parameters"] = {"weight": [0.2, 0.6]}
    known["models"][1]["parameters"] = {"weight": [{"filter": "mlp", "value": 0.3}, {"value": 0.9}]}
    write_yaml(tmp_path / "known.yaml", known)
    write_yaml(tmp_path / "finer.yaml", recipe([0.1, 0.7]))
    space = recipe()
    space["models"][0]["parameters"] = {"weight": hole(depth=2, outer=hole())}
    space["models"][1]["parameters"] = {"weight": hole(parts=["mlp", "self_attn"], outer=hole(), init=0.4)}
    space["parameters"] = {"lambda": hole(0.5, 2.0, init=1.0)}
    outcome = search(search_data(space, trials=4, start=["known.yaml", "finer.yaml"]), tmp_path)
    first = outcome.trials[0].params
    assert {round(v, 4) for v in first.values()} >= {0.2, 0.6, 0.3, 0.9, 1.0}
    kept = {row.name: row for row in outcome.found.result.rows}
    assert kept["known"].kind == "start"
    assert not [text for text in outcome.said if "'known'" in text]
    assert [
        text for text in outcome.said if "start 'finer' is no point of the space; the search begins at the near" in text
    ]
    # what is scored as a trial is what the recipe says
    scored = next(e for e in outcome.events if isinstance(e, Scored) and (e.name, e.split) == ("known", "search"))
    assert outcome.trials[0].scores["upper_lines"] == pytest.approx(scored.scores["upper_lines"].value, rel=1e-4)


def test_compared_recipes_and_models_are_never_returned(work: Path, tmp_path: Path) -> None:
    write_yaml(tmp_path / "published.yaml", recipe(0.7))
    write_yaml(tmp_path / "uniform.yaml", recipe(0.1))
    outcome = search(search_data(trials=2, compare=["published.yaml", "zoo/multitask", "uniform.yaml"]), tmp_path)
    kinds = {row.name: row.kind for row in outcome.found.result.rows}
    assert kinds["published"] == kinds["zoo/multitask"] == kinds["uniform (compare)"] == "compare"
    assert kinds["uniform"] == "fixed"
    assert outcome.found.winner.kind != "compare"


def interpolated(**more: Any) -> dict[str, Any]:
    models = [{"model": "zoo/upper"}, {"model": "zoo/sort"}]
    return {
        "merge_method": "slerp",
        "base_model": "zoo/upper",
        "models": models,
        "parameters": {"t": [{"filter": "mlp", "value": hole(0, 1, depth="layers")}, {"value": hole(0, 1)}]},
    } | more


def sliced() -> dict[str, Any]:
    def part(first: int, last: int) -> dict[str, Any]:
        sources = [
            {"model": f"zoo/{task}", "layer_range": [first, last], "parameters": {"weight": hole(0.1, 1)}}
            for task in ("upper", "sort")
        ]
        return {"sources": sources}

    return {"merge_method": "linear", "slices": [part(0, 1), part(0, 2)], "dtype": "bfloat16"}


def chosen() -> dict[str, Any]:
    return recipe(parameters={"density": hole(0.2, 0.9)}) | {"merge_method": {"choice": ["task_arithmetic", "ties"]}}


def stacked() -> dict[str, Any]:
    def part(task: str, last: int) -> dict[str, Any]:
        scale = [{"filter": "o_proj", "value": hole(0.5, 1)}, {"value": 1.0}]
        return {"sources": [{"model": f"zoo/{task}", "layer_range": [0, last], "parameters": {"scale": scale}}]}

    return {"merge_method": "passthrough", "slices": [part("upper", 2), part("sort", 1)], "dtype": "float16"}


@pytest.mark.parametrize(
    "make",
    [interpolated, sliced, stacked, chosen],
    ids=["slerp", "slices", "passthrough", "choice"],
)
def test_spaces_of_every_kind(make: Callable[[], Any], work: Path, tmp_path: Path) -> None:
    outcome = search(search_data(make(), trials=6), tmp_path, write=True)
    result = outcome.found.result
    assert (result.trials, result.failed) == (6, 0)
    rows, _ = evaluate_models([str(outcome.out)], [], CPU)
    assert rows[0].evals == result.row(result.winner).evals
    yaml.safe_load((outcome.out / "recipe.yaml").read_text())


def test_the_candidate_is_the_written_model(work: Path, tmp_path: Path) -> None:
    """Whatever wins: the recipe of a trial, merged to a folder, scores as the trial did; bf16 and fp16 rounding too."""
    from mergeopt.merge.folder import merge_to_folder
    from mergeopt.merge.folder import prepare as plan

    for dtype in ("bfloat16", "float16"):
        space = recipe(method="ties", parameters={"density": hole(0.2, 0.9)}) | {"dtype": dtype}
        outcome = search(search_data(space, trials=3), tmp_path / dtype)
        trial, job = outcome.trials[2], outcome.job
        made = job.recipe_at(0, tuple(trial.params.values()))
        merge_to_folder(plan(made, job.checkpoints), tmp_path / dtype / "made")
        from mergeopt.merge.sources import open_models
        from mergeopt.study.references import alone
        from mergeopt.study.workbench import Workbench

        ref = ModelRef(str(tmp_path / dtype / "made"))
        bench = Workbench(open_models([ref], None), job.suite, CPU)
        scores = bench.measure(alone(ref, made), "search")
        assert {name: tuple(s.items) for name, s in scores.evals.items()} == trial.items


def test_models_are_scored_with_their_own_config(work: Path, tmp_path: Path) -> None:
    """A parent with another rope base is another model, even where its weights are equal."""
    import shutil

    shutil.copytree(work / "zoo" / "upper", tmp_path / "turned")
    config = json.loads((tmp_path / "turned" / "config.json").read_text())
    key = "rope_parameters" if "rope_parameters" in config else None
    (config[key] if key else config)["rope_theta"] = 50.0
    (tmp_path / "turned" / "config.json").write_text(json.dumps(config))
    space = recipe()
    space["models"].append({"model": "turned", "parameters": {"weight": 0.0}})
    outcome = search(search_data(space, trials=2), tmp_path)
    result = outcome.found.result
    assert result.row("turned").evals["upper_lines"].value > result.row("zoo/upper").evals["upper_lines"].value + 0.01
    rows, _ = evaluate_models([str(tmp_path / "turned"), "zoo/upper"], ["evals/upper_lines.yaml"], CPU)
    assert rows[0].evals["upper_lines"].value == pytest.approx(
        result.row("turned").evals["upper_lines"].value, rel=1e-5
    )


def test_a_model_may_have_any_name(work: Path, tmp_path: Path) -> None:
    """Also one of those that the table uses itself."""
    import shutil

    for name in ("uniform", "consensus", "trial 0"):
        shutil.copytree(work / "zoo" / "upper", tmp_path / name)
    space = recipe()
    space["models"] = [
        {"model": n, "parameters": {"weight": hole()}} for n in ("uniform", "consensus", "trial 0", "zoo/sort")
    ]
    outcome = search(search_data(space, trials=3), tmp_path)
    names = [row.name for row in outcome.found.result.rows]
    assert {"uniform", "uniform (fixed)", "consensus (parent)", "trial 0 (parent)"} <= set(names)
    assert len(set(names)) == len(names)


def set_in(data: Any, path: Sequence[str | int], value: Any) -> Any:
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return data


WEIGHT = ("recipe", "models", 0, "parameters", "weight")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("recipe", "merge_method"), "tiess", "s.yml:2 merge_method: unknown method 'tiess'; did you mean 'ties'?"),
        ((*WEIGHT[:-1], "wieght"), 1, "models[0].parameters.wieght: unknown parameter 'wieght' has no effect; did you"),
        (
            (*WEIGHT[:-1],),
            {},
            "models[0]: task_arithmetic needs 'weight' for 'zoo/upper'; add it under its parameters:",
        ),
        (("recipe", "foo"), 1, "foo: unknown key 'foo' has no effect"),
        (("recipe", "models", 0, "model"), "zoo/uper", "s.yml: zoo/uper is not on disk; did you mean 'upper'?"),
        (
            WEIGHT,
            [{"filter": "self_atn", "value": hole()}, {"value": 0.5}],
            "s.yml:9 models[0].parameters.weight[0].value: this hole has no effect: no tensor takes its value from it",
        ),
        (WEIGHT, [{"filter": "self_atn", "value": 1}, {"value": 0.5}], "filter 'self_atn' matches no tensor"),
        (WEIGHT, {"range": [1, 0]}, "weight.range: range [1, 0] is empty; write the lower number first"),
        (WEIGHT, hole(intit=1), "weight.intit: a hole has no key 'intit'; did you mean 'init'?"),
        (
            ("objective", 0, "eval"),
            "evals/uper_lines.yaml",
            "no such file: evals/uper_lines.yaml; did you mean 'upper_l",
        ),
        (("objective", 0, "metric"), "acc", "has no metric 'acc'; known: bits_per_byte"),
        (
            ("objective", 0, "limit"),
            2,
            "s.yml upper_lines: 0 items in the select split of upper_lines; give more items",
        ),
        (("optimize", "start"), ["nope.yaml"], "s.yml: no such file: nope.yaml"),
        (
            ("optimize", "splits"),
            {"search": 0, "select": 0, "report": 0, "calibrate": 0},
            "optimize.splits.search: input should be greater than 0",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_read(
    path: tuple[str | int, ...], value: Any, said: str, work: Path, tmp_path: Path
) -> None:
    text = refusal(set_in(search_data(), path, value), tmp_path)
    assert said in text and "\n" not in text and text.count("s.yml") <= 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.yml"]


def test_shipped_evals_are_found_by_name(work: Path, tmp_path: Path) -> None:
    data = search_data(trials=1)
    data["objective"] = [{"eval": "upper", "limit": 20}]
    job = prepare(data, tmp_path)
    assert [info.name for info in job.suite.evals] == ["upper"]


def test_a_token_budget_is_planned_with(work: Path, tmp_path: Path) -> None:
    """A tournament between choices needs to know how many trials there will be."""
    outcome = search(search_data(chosen(), trials=None, tokens="30k"), tmp_path)
    each = outcome.trials[0].tokens
    assert abs(len(outcome.trials) - 30_000 / each) <= 4  # to the end of the generation
    counts = [sum(t.branch == branch.name for t in outcome.trials) for branch in outcome.job.space.branches]
    assert min(counts) < max(counts)


def test_a_recipe_without_holes_is_one_trial(work: Path, tmp_path: Path) -> None:
    outcome = search(search_data(recipe(0.5), trials=5), tmp_path)
    assert len(outcome.trials) == 1 and outcome.trials[0].params == {}


def test_without_trials_the_best_known_is_returned(work: Path, tmp_path: Path) -> None:
    result = search(search_data(trials=0), tmp_path).found.result
    assert (result.trials, result.learned, result.search_value) == (0, False, None)


def test_models_that_have_no_average(work: Path, tmp_path: Path) -> None:
    """A stack over models of different depth, without a base: the first parent is what scores are measured from."""
    from mergeopt.merge.folder import merge_to_folder
    from mergeopt.merge.folder import prepare as plan
    from mergeopt.merge.sources import open_models
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.read import read_recipe

    def part(model: str, first: int, last: int, **more: Any) -> dict[str, Any]:
        return {"sources": [{"model": model, "layer_range": [first, last], **more}]}

    data = {"merge_method": "passthrough", "slices": [part("zoo/sort", 0, 2), part("zoo/sort", 1, 2)]}
    deep = read_recipe(read_document(write_yaml(tmp_path / "deep.yml", data)), SCHEMAS).recipe
    merge_to_folder(plan(deep, open_models(deep.models, None)), tmp_path / "deep")
    scale = {"scale": [{"filter": "o_proj", "value": hole(0.5, 1)}, {"value": 1}]}
    data["slices"] = [part("zoo/upper", 0, 2), part("deep", 2, 3, parameters=scale)]
    outcome = search(search_data(data, trials=2), tmp_path)
    assert [row.name for row in outcome.found.result.rows if row.kind != "learned"] == ["zoo/upper", "deep"]
    assert [text for text in outcome.said if text.startswith("'uniform' is not in the comparison")]


def test_an_own_scorer(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownscorer.py").write_text(
        "def norm(model, tokenizer, items):\n"
        "    size = float(model.get_input_embeddings().weight.norm())\n"
        "    return [size + item['add'] for item in items]\n"
        "norm.items = [{'add': i / 100} for i in range(60)]\n"
        "norm.higher_is_better = False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = search_data(trials=3)
    data["objective"] = [{"eval": "python:ownscorer.norm"}]
    path = write_yaml(tmp_path / "s.yml", data)
    file = read_search_file(read_document(path), layers_of=lambda ref: 2)
    with pytest.raises(InputError, match="--trust-eval-code"):
        prepare_search(file, tmp_path)
    job = prepare_search(file, tmp_path, trust_eval_code=True)
    with open_record(job, tmp_path / "search", resume=False) as record:
        result = run_search(job, record, CPU, lambda event: None).result
    assert result.row(result.winner).evals["norm"].value <= min(row.evals["norm"].value for row in result.rows)
