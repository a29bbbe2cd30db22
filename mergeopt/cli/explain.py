"""`mergeopt explain RECIPE`"""

import json
from pathlib import Path
from typing import Any

import typer

from mergeopt.cli.common import command, say, warn
from mergeopt.errors import placed


@command
def explain(
    recipe: Path = typer.Argument(help="A recipe."),
    tensor: str = typer.Option("", "--tensor", "-t", help="Only tensors whose name contains this."),
    as_json: bool = typer.Option(False, "--json", help="JSON instead of a table."),
) -> None:
    """Print what will be computed for every tensor: inputs and the resolved value of every setting."""
    from mergeopt.merge.folder import prepare
    from mergeopt.merge.sources import open_models
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.document import read_document
    from mergeopt.recipe.read import read_recipe

    reading = read_recipe(read_document(recipe), SCHEMAS)
    warn(reading.notices)
    with placed(str(recipe)):
        prepared = prepare(reading.recipe, open_models(reading.recipe.named, recipe.parent, reading.recipe.base))
    warn(prepared.notices)
    rows = [_row(job) for job in prepared.plan.jobs if tensor in job.tensor]
    if as_json:
        typer.echo(json.dumps({"method": prepared.plan.method, "seed": prepared.plan.seed, "tensors": rows}))
        return
    say(f"{prepared.plan.method}, {len(prepared.plan.jobs)} tensors, base {reading.recipe.base or 'none'}")
    if prepared.refinement is not None:
        refined = {key.tensor for key in prepared.refinement.values}
        say(f"refined below the tensor: {len(refined)} tensors, by {reading.recipe.refinement}")
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
