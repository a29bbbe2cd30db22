"""`mergeopt submit DIR`"""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from mergeopt.cli.common import command, fail, say, warn
from mergeopt.errors import InputError, MergeoptError

CLOSED = "the Open LLM Leaderboard takes no models since 2025; its points are for comparison with published merges"
MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@command
def submit(
    folder: Path = typer.Argument(metavar="DIR", help="A model folder, of `merge` or `search`."),
    out: Path = typer.Option(None, "--out", help="The bundle's folder; by default DIR/submission."),
    tasks: str = typer.Option("", "--tasks", help="Run lm-eval: leaderboard, or any tasks, groups, YAML files: a,b"),
    results: Path = typer.Option(None, "--results", help="Attach what lm_eval --output_path wrote."),
    benchmarks: list[str] = typer.Option(
        [], "--benchmark", help="A score as a Hub benchmark: TASK,METRIC=DATASET:TASK_ID (*1 at the end: 0 to 1)."
    ),
    limit: int = typer.Option(0, "--limit", min=0, help="Items per task, for a try; 0 means all."),
    chat_template: bool = typer.Option(False, "--chat-template", help="Ask in the model's chat template."),
    texts: bool = typer.Option(False, "--with-texts", help="Send the items' texts with the samples."),
    push: str = typer.Option("", "--push", help="Upload to this repository, owner/name; private by default."),
    public: bool = typer.Option(False, "--public", help="Upload for all to see."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check, and say what would be done."),
    device: str = typer.Option("auto", "--device"),
    dtype: str = typer.Option("auto", "--dtype", help="auto: the model's own."),
    batch_size: str = typer.Option("auto", "--batch-size"),
    trust_eval_code: bool = typer.Option(False, "--trust-eval-code", help="Let tasks run local Python code."),
    as_json: bool = typer.Option(False, "--json"),
) -> None:
    """Check a model, gather its results, and make (and send) the bundle that leaderboards and the Hub take."""
    if tasks and results:
        raise InputError("--tasks and --results at once", remedy="run the tasks, or attach results, not both")

    from mergeopt.cli.display import byte_bar
    from mergeopt.report.submit.bundle import write_bundle
    from mergeopt.report.submit.checks import Subject, checks
    from mergeopt.report.submit.evidence import Evidence, keep_evidence, read_evidence
    from mergeopt.report.submit.hub import Benchmark

    asked = [Benchmark.parse(text) for text in benchmarks]
    evidence = None if results is None else read_evidence(results)
    subject, place = Subject.open(folder), out or folder / "submission"
    with byte_bar("reading the weights", subject.checkpoint.nbytes, quiet=as_json) as progress:
        found = list(checks(subject, progress))
    report: dict[str, Any] = {"folder": str(folder), "checks": [asdict(each) for each in found]}
    if not as_json:
        for each in found:
            say(f"{MARKS[each.state]}  {each.what}: {each.text}{f'; {each.remedy}' if each.remedy else ''}")
    bad = [each.what for each in found if each.state == "fail"]
    if dry_run or bad:
        _end(report, bad, as_json=as_json)
        if not as_json and not bad:
            say(_plan(place, tasks, results, push, public=public))
        return
    if tasks:
        with lm_eval_bars(shown=not as_json):
            measured = _run(folder, tasks, device, dtype, batch_size, limit, chat_template, trust_eval_code)
        evidence = Evidence(measured, measured.pop("samples", {}))
        keep_evidence(evidence, folder / "lm_eval")
    name = folder.resolve().name
    bundle = write_bundle(subject, place, name=name, evidence=evidence, benchmarks=asked, texts=texts)
    report |= {"bundle": str(place), "files": dict(bundle.files)} | _scores(evidence, as_json=as_json)
    if not as_json:
        _told(bundle, evidence)
    if push:
        report["pushed"] = _push(place, push, report, public=public, as_json=as_json)
    _end(report, bad, as_json=as_json)


@contextmanager
def lm_eval_bars(*, shown: bool) -> Iterator[None]:
    """lm-eval shows its own progress, whatever it is told: on a terminal it may."""
    if shown and sys.stderr.isatty():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield


def _run(
    folder: Path, tasks: str, device: str, dtype: str, batch_size: str, limit: int, chat: bool, trust: bool
) -> dict[str, Any]:
    from mergeopt.scoring.harness import load_tasks, run_harness
    from mergeopt.scoring.suite import find_task_file
    from mergeopt.study.evals import find_eval
    from mergeopt.study.workbench import Compute

    compute = Compute.parse(device, dtype, batch_size)
    names = [find_eval(name.strip(), None) for name in tasks.split(",") if name.strip()]
    loaded = load_tasks([(name, find_task_file(name, None)) for name in names], trust_eval_code=trust)
    for name, problem in loaded.problems.items():
        elsewhere = f"or run `lm_eval run --tasks {name}` where its data is, with --log_samples, and give --results"
        raise InputError(
            problem.problem, where=problem.where, remedy="; ".join(filter(None, (problem.remedy, elsewhere)))
        )
    return run_harness(
        folder,
        loaded,
        device=compute.device,
        dtype=compute.dtype,
        batch_size=compute.batch_size,
        limit=limit or None,
        chat_template=chat,
        trust_eval_code=trust,
    )


def _scores(evidence: Any, *, as_json: bool) -> dict[str, Any]:
    """The leaderboard's points, shown and for the JSON."""
    from mergeopt.report.submit.leaderboard import average, leaderboard_points

    points = {} if evidence is None else leaderboard_points(evidence.scores)
    if points and not as_json:
        whole = average(points)
        for task, each in points.items():
            say(f"      {task:<10} {each.points:6.2f}  (raw {each.raw:.4f})")
        say(f"      average    {whole:6.2f}" if whole is not None else "      no average: not all six were measured")
        say(f"      {CLOSED}")
    return {"leaderboard_v2": {task: asdict(each) for task, each in points.items()}} if points else {}


def _told(bundle: Any, evidence: Any) -> None:
    from mergeopt.files import size_text

    if evidence is None:
        warn(["no results of lm-eval in the bundle: run some with --tasks, or attach yours with --results"])
    boards = [name for name in bundle.files if name.startswith(".eval_results/")]
    if evidence is not None and not boards:
        warn(["none of these scores is of a benchmark that the Hub collects: name it with --benchmark, if it is"])
    say(f"wrote {bundle.folder}: {len(bundle.files)} files, {size_text(sum(bundle.files.values()))}")


def _push(bundle: Path, repository: str, report: dict[str, Any], *, public: bool, as_json: bool) -> str:
    from mergeopt.report.submit.push import push

    try:
        where = push(bundle, repository, public=public)
    except MergeoptError as error:
        if as_json:
            typer.echo(json.dumps(report | {"pushed": None, "error": str(error)}))
        raise
    if not as_json:
        say(f"pushed to {where}{'' if public else ' (private)'}")
    return where


def _plan(place: Path, tasks: str, results: Path | None, push: str, *, public: bool) -> str:
    from_where = f"lm-eval {tasks}" if tasks else f"the results in {results}" if results else "no lm-eval results"
    sent = f", then push to {push} ({'public' if public else 'private'})" if push else ""
    return f"would write {place} with {from_where}{sent}"


def _end(report: dict[str, Any], bad: list[str], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report))
    if bad:
        fail(f"nothing was written: {', '.join(bad)} must be mended first")
        raise typer.Exit(1)
