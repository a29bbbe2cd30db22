"""`mergeopt eval MODEL… EVAL…`"""

import json
from dataclasses import asdict
from pathlib import Path

import typer

from mergeopt.cli.common import command, screen, warn
from mergeopt.errors import InputError


@command
def evaluate(
    things: list[str] = typer.Argument(help="Model folders or Hub ids, and evals (YAML files or names), in any order."),
    limit: float = typer.Option(0, "--limit", help="Items per eval; 0 means all."),
    device: str = typer.Option("auto", "--device"),
    dtype: str = typer.Option("auto", "--dtype", help="auto: the model's own; on a CPU float32."),
    batch_size: str = typer.Option("auto", "--batch-size"),
    split: str = typer.Option("", "--split", help="On the output of a search: report (default), select or search."),
    trust_eval_code: bool = typer.Option(False, "--trust-eval-code", help="Let evals run local Python code."),
    as_json: bool = typer.Option(False, "--json"),
) -> None:
    """Score models side by side, with intervals and paired differences to the first."""
    models, evals = divide(things)
    if limit < 0:
        raise InputError(f"--limit {limit:g}", remedy="give a number of items, or 0 for all")

    from mergeopt.cli.display import working
    from mergeopt.report.table import eval_table
    from mergeopt.study.evaluation import evaluate_models
    from mergeopt.study.log import plain
    from mergeopt.study.workbench import Compute

    compute = Compute.parse(device, dtype, batch_size)
    with working("evaluating", quiet=as_json):
        rows, notices = evaluate_models(
            models, evals, compute, limit=limit or None, split=split or None, trust_eval_code=trust_eval_code
        )
    warn(notices)
    if as_json:
        typer.echo(json.dumps([plain(asdict(row)) for row in rows]))
    else:
        screen().print(eval_table(rows))


def divide(things: list[str]) -> tuple[list[str], list[str]]:
    """Which of the words are models, which evals: files are evals, folders models, shipped names evals."""
    from mergeopt.files import shipped

    known = {path.stem for path in shipped("evals").glob("*.yaml")}
    models: list[str] = []
    evals: list[str] = []
    for thing in things:
        is_eval = (
            thing.endswith((".yaml", ".yml"))
            or thing.startswith("python:")
            or (not Path(thing).is_dir() and (thing in known or "/" not in thing))
        )
        (evals if is_eval else models).append(thing)
    if not models:
        raise InputError("no model given", remedy="mergeopt eval MODEL EVAL, e.g. mergeopt eval runs/zoo/base reverse")
    if not evals and not any((Path(model) / "search" / "log.jsonl").exists() for model in models):
        raise InputError("no eval given", remedy="mergeopt eval MODEL EVAL, e.g. mergeopt eval runs/zoo/base reverse")
    return models, evals
