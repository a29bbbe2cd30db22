"""`mergeopt search SPACE OUT`"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import typer

from mergeopt.cli.common import check_out, command, say, screen, warn
from mergeopt.errors import visible


@command
def search(
    space: str = typer.Argument(help="A search file, a plain recipe with --free, or the name of a shipped space."),
    out: Path = typer.Argument(help="Folder for the merged model, its recipe and the study."),
    resume: bool = typer.Option(False, "--resume", help="Go on with the study in OUT."),
    force: bool = typer.Option(False, "--force", help="Begin anew in a folder that is not empty."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what it would do and need; touch no weights."),
    set_: list[str] = typer.Option([], "--set", help="Override any key: --set optimize.trials=50"),
    free: str = typer.Option("", "--free", help="Parameters of a plain recipe to search: weight,density"),
    evals: list[str] = typer.Option([], "--eval", help="Evals for a plain recipe."),
    device: str = typer.Option("auto", "--device"),
    dtype: str = typer.Option("auto", "--dtype", help="Of the resident model. auto: the recipe's; on a CPU float32."),
    batch_size: str = typer.Option("auto", "--batch-size"),
    trust_eval_code: bool = typer.Option(False, "--trust-eval-code", help="Let evals run local Python code."),
    allow_benchmark: bool = typer.Option(False, "--allow-benchmark", help="Search on a benchmark's own test items."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
    as_json: bool = typer.Option(False, "--json", help="Print events as lines of JSON, the result as the last."),
) -> None:
    """Learn the merge: best recipe, weights and honest scores in OUT."""
    if not dry_run:
        check_out(out, force=force, resume=resume)

    from mergeopt.files import find_file
    from mergeopt.recipe.document import read_document
    from mergeopt.report.publish import begin_anew, check_room
    from mergeopt.study.job import layers_near, prepare_search
    from mergeopt.study.searchfile import read_search_file
    from mergeopt.study.workbench import Compute

    path = find_file(space, None, "search_spaces")
    parts = [part.strip() for part in free.split(",") if part.strip()]
    layers_of = layers_near(path.parent)
    file = read_search_file(read_document(path), layers_of=layers_of, overrides=set_, free=parts, evals=evals)
    compute = Compute.parse(device, dtype, batch_size)
    job = prepare_search(file, path.parent, trust_eval_code=trust_eval_code, allow_benchmark=allow_benchmark)
    if dry_run:
        from mergeopt.report.dryrun import dry_run_lines

        warn(job.notices)
        for line in dry_run_lines(job, out, compute.device):
            say(line)
        return
    check_room(job, out)
    if force and not resume:
        begin_anew(out)
    _run(job, out, compute, resume=resume, quiet=quiet or as_json, as_json=as_json)


def _note_command(record: Any) -> None:
    """How the study is run, for the report; in search/, which stays here."""
    from mergeopt.merge.lock import machine, versions

    record.note("command", {"argv": ["mergeopt", *sys.argv[1:]], "versions": versions(), "machine": machine()})


def _again() -> str:
    """The command that goes on with this one's study."""
    words = [word for word in sys.argv[1:] if word not in ("--force", "--resume")]
    return shlex.join(["mergeopt", *words, "--resume"])


def _run(job: Any, out: Path, compute: Any, *, resume: bool, quiet: bool, as_json: bool) -> None:
    from mergeopt.cli.study_display import StudyDisplay
    from mergeopt.report.publish import opened_study, publish, result_text
    from mergeopt.report.table import result_table, verdict
    from mergeopt.study.search import run_search

    lines = typer.echo if as_json else None
    try:
        with (
            opened_study(job, out, resume=resume) as record,
            StudyDisplay(job, record, quiet=quiet, lines=lines) as display,
        ):
            _note_command(record)
            found = run_search(job, record, compute, display)
            publish(found, job, out, display)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with: {_again()}") from None
    if as_json:
        typer.echo(json.dumps({"event": "result", **json.loads(result_text(found, job))}))
    elif not quiet:
        console = screen()
        console.print(result_table(found.result, console.width))
        for line in verdict(found.result):
            console.print(visible(line), highlight=False, markup=False)
        for line in (f"wrote {out}", f"how it went: {out / 'search' / 'report.html'}"):
            console.print(visible(line), highlight=False, markup=False, soft_wrap=True)
