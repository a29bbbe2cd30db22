"""`mergeopt validate FILE…`"""

import json
from pathlib import Path
from typing import Any

import typer

from mergeopt.cli.common import command, fail, say, warn
from mergeopt.errors import InputError
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
    from mergeopt.recipe.document import read_documents
    from mergeopt.space.genome import is_genome

    documents = read_documents(path)
    data = documents[0].data
    if isinstance(data, dict) and ("recipe" in data or is_genome(documents[0])):
        return _check_search(path, models)
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.stages import read_stages

    stages = read_stages(documents, SCHEMAS)
    what = f"a {stages.final.recipe.method} recipe over {len(stages.models)} models"
    if stages.earlier:
        methods = " -> ".join(f"{stage.name or 'output'} ({stage.recipe.method})" for stage in stages.stages)
        what = f"a chain of {len(stages.stages)} stages over {len(stages.models)} models: {methods}"
    notices = list(stages.notices)
    if models:
        from mergeopt.merge.stages import prepare_stages

        chain = prepare_stages(stages)
        notices += chain.notices
        what += f", {len(chain.final.plan.jobs)} tensors"
    return notices, what


def _check_search(path: Path, models: bool) -> tuple[list[str], str]:
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.document import read_document
    from mergeopt.space.genome import is_genome
    from mergeopt.space.space import check_space
    from mergeopt.study.job import layers_near, prepare_search
    from mergeopt.study.searchfile import read_search_file

    document = read_document(path)
    what = "mergekit-evolve genome" if is_genome(document) else "search file"
    if not models:
        file = read_search_file(document, layers_of=lambda _: None)
        notices = dict.fromkeys([*file.notices, *check_space(file.recipe, schemas=SCHEMAS)])
        return list(notices), f"a {what} with {len(file.objective)} evals (--models checks the tensors too)"
    job = prepare_search(read_search_file(document, layers_of=layers_near(path.parent)), path.parent)
    holes = max(len(branch.dimensions) for branch in job.space.branches)
    return list(job.notices), f"a search of {holes} numbers in {len(job.space.branches)} branches"
