"""`mergeopt validate FILE…`"""

import json
from pathlib import Path
from typing import Any

import typer

from mergeopt.cli.common import command, fail, say, warn
from mergeopt.errors import InputError, placed
from mergeopt.files import find_file


@command
def validate(
    files: list[Path] = typer.Argument(help="Recipes or search files; of shipped spaces the name."),
    strict: bool = typer.Option(False, "--strict", help="Keys without effect are errors."),
    models: bool = typer.Option(False, "--models", help="Also open the models' headers and plan every tensor."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object per file."),
) -> None:
    """Check files without touching weights: errors with line and key, and what is said in vain."""
    failed = False
    for path in files:
        try:
            notices, what = check(path if path.exists() else find_file(str(path), None, "search_spaces"), models)
            if strict and notices:
                raise InputError(notices[0])
            row: dict[str, Any] = {"file": str(path), "ok": True, "what": what, "notices": notices}
        except InputError as error:
            failed = True
            row = {"file": str(path), "ok": False, "error": str(error)}
        if as_json:
            typer.echo(json.dumps(row))
        elif row["ok"]:
            warn(row["notices"])
            say(f"{path}: {row['what']}")
        else:
            fail(row["error"])
    if failed:
        raise typer.Exit(2)


def check(path: Path, models: bool) -> tuple[list[str], str]:
    """Notices, and in a few words what the file is."""
    from mergeopt.recipe.document import read_document
    from mergeopt.space.genome import is_genome

    document = read_document(path)
    data = document.data
    if isinstance(data, dict) and ("recipe" in data or is_genome(document)):
        return _check_search(path, models)
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.read import read_recipe

    reading = read_recipe(document, SCHEMAS)
    notices, recipe = list(reading.notices), reading.recipe
    what = f"a {recipe.method} recipe over {len(recipe.models)} models"
    if models:
        from mergeopt.merge.folder import prepare
        from mergeopt.merge.sources import open_models

        with placed(str(path)):
            prepared = prepare(recipe, open_models(recipe.named, path.parent, recipe.base))
        notices += prepared.notices
        what += f", {len(prepared.plan.jobs)} tensors"
    return notices, what


def _check_search(path: Path, models: bool) -> tuple[list[str], str]:
    from mergeopt.recipe.document import read_document
    from mergeopt.study.job import layers_near, prepare_search
    from mergeopt.study.searchfile import read_search_file

    file = read_search_file(read_document(path), layers_of=layers_near(path.parent))
    if not models:
        return list(file.notices), f"a search file with {len(file.objective)} evals (--models checks the holes too)"
    job = prepare_search(file, path.parent)
    holes = max(len(branch.dimensions) for branch in job.space.branches)
    return list(job.notices), f"a search of {holes} numbers in {len(job.space.branches)} branches"
