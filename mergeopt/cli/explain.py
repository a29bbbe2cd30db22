"""`mergeopt explain RECIPE`"""

import json
from pathlib import Path
from typing import Any

import typer

from mergeopt.cli.common import command, say, warn


@command
def explain(
    recipes: list[Path] = typer.Argument(metavar="RECIPE...", help="A recipe; of a chain all its files."),
    tensor: str = typer.Option("", "--tensor", "-t", help="Only tensors whose name contains this."),
    as_json: bool = typer.Option(False, "--json", help="JSON instead of a table."),
) -> None:
    """Print what will be computed for every tensor: inputs and the resolved value of every setting."""
    from mergeopt.merge.stages import prepare_stages
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.document import read_documents
    from mergeopt.recipe.stages import read_stages

    stages = read_stages([document for path in recipes for document in read_documents(path)], SCHEMAS)
    warn(stages.notices)
    chain = prepare_stages(stages)
    warn(chain.notices)
    data = [
        _data(each.prepared, tensor) | ({"name": each.stage.name} if each.stage.name else {}) for each in chain.stages
    ]
    if as_json:  # the output's plan, and those of the stages before it
        typer.echo(json.dumps(data[-1] | ({"stages": data[:-1]} if data[:-1] else {})))
        return
    for each, rows in zip(chain.stages, data, strict=True):
        if len(data) > 1:
            say(f"stage {each.stage.name!r}" if each is not chain.stages[-1] else "output")
        _print(each.prepared, rows["tensors"])


def _data(prepared: Any, tensor: str) -> dict[str, Any]:
    rows = [_row(job) for job in prepared.plan.jobs if tensor in job.tensor]
    return {"method": prepared.plan.method, "seed": prepared.plan.seed, "tensors": rows}


def _print(prepared: Any, rows: list[dict[str, Any]]) -> None:
    say(f"{prepared.plan.method}, {len(prepared.plan.jobs)} tensors, base {prepared.recipe.base or 'none'}")
    if prepared.refinement is not None:
        refined = {key.tensor for key in prepared.refinement.values}
        say(f"refined below the tensor: {len(refined)} tensors, by {prepared.recipe.refinement}")
    for row in rows:
        settings = "  ".join(f"{key}={_short(value)}" for key, value in row["settings"].items())
        say(f"{row['tensor']}  {'×'.join(map(str, row['shape']))} {row['dtype']}  {settings}")
        for source in row["sources"]:
            values = "  ".join(f"{key}={_short(value)}" for key, value in source["settings"].items())
            renamed = "" if source["tensor"] == row["tensor"] else f"  from {source['tensor']}"
            say(f"    {source['model']}{renamed}  {values}")


def _row(job: Any) -> dict[str, Any]:
    per_source = {k: v for k, v in job.coefficients.items() if isinstance(v, tuple)}
    return {
        "tensor": job.tensor,
        "shape": list(job.shape),
        "dtype": job.dtype,
        "base": str(job.base.model) if job.base else None,
        "copied": job.verbatim,
        "settings": {k: v for k, v in job.coefficients.items() if not isinstance(v, tuple)},
        "sources": [
            {"model": str(item.model), "tensor": item.tensor, "settings": {k: v[i] for k, v in per_source.items()}}
            for i, item in enumerate(job.inputs)
        ],
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
