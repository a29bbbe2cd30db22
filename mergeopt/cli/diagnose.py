"""`mergeopt diagnose RECIPE` or `mergeopt diagnose MODEL… --base MODEL`"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mergeopt.cli.common import command, screen, warn
from mergeopt.errors import InputError, placed

if TYPE_CHECKING:
    from mergeopt.diagnose.diagnosis import Data
    from mergeopt.diagnose.subjects import Subjects
    from mergeopt.recipe.document import Document
    from mergeopt.recipe.recipe import Recipe
    from mergeopt.scoring.entry import ObjectiveEntry
    from mergeopt.study.workbench import Compute


@command
def diagnose(
    things: list[str] = typer.Argument(None, help="A recipe or search file, or models."),
    models: list[str] = typer.Option([], "--models", help="Models: --models a b c."),
    base: list[str] = typer.Option([], "--base", help="Their base; give several to see which it is."),
    evals: list[str] = typer.Option([], "--eval", help="Evals to measure what merges keep; best one per model."),
    limit: float = typer.Option(200, "--limit", help="Items per eval, divided as in a search; 0 means all."),
    device: str = typer.Option("auto", "--device"),
    dtype: str = typer.Option("auto", "--dtype", help="Of the resident model. auto: the recipe's; on a CPU float32."),
    batch_size: str = typer.Option("auto", "--batch-size"),
    trust_eval_code: bool = typer.Option(False, "--trust-eval-code", help="Let evals run local Python code."),
    allow_benchmark: bool = typer.Option(False, "--allow-benchmark", help="Use a benchmark's own test items."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Everything that was measured, as JSON."),
) -> None:
    """Will these models merge? Weights, configs and tokenizers; with evals also what merges keep, and where it is lost.

    A bad verdict is an answer: exit code 0.
    """
    if limit < 0:
        raise InputError(f"--limit {limit:g}", remedy="give a number of items, or 0 for all")

    from mergeopt.cli.display import byte_bar, counting
    from mergeopt.diagnose.diagnosis import diagnose as run
    from mergeopt.diagnose.plain import as_data
    from mergeopt.diagnose.weights import bytes_to_read
    from mergeopt.report.diagnosis import diagnosis_text

    quiet = quiet or as_json
    subjects, entries, options = _read([*models, *(things or [])], base, evals)
    data = None
    if entries:
        from mergeopt.study.workbench import Compute

        compute = Compute.parse(device, dtype, batch_size)
        data = _data(entries, compute, options, limit=limit, trust=trust_eval_code, benchmark=allow_benchmark)
    with (
        byte_bar("reading", bytes_to_read(subjects), quiet=quiet) as read,
        counting("models scored", quiet=quiet or data is None) as scored,
    ):
        found = run(subjects, data, lambda what, count: (read if what == "bytes" else scored)(count))
    warn(found.notices)
    if as_json:
        typer.echo(json.dumps(as_data(found)))
        return
    console = screen(80)
    for piece in diagnosis_text(found):
        console.print(piece, highlight=False)


def _read(
    things: list[str], base: list[str], evals: list[str]
) -> tuple["Subjects", list["ObjectiveEntry"], dict[str, Any]]:
    """The models, the objective entries of the evals, and how a search file divides items."""
    from mergeopt.diagnose.subjects import of_recipe, subjects
    from mergeopt.recipe.recipe import ModelRef

    entries = _entries(evals)
    bases = [ModelRef.parse(name, "--base") for name in base]
    files = [thing for thing in things if thing.endswith((".yml", ".yaml")) or _is_shipped(thing)]
    if not files:
        return subjects([ModelRef.parse(name, "MODEL") for name in things], bases, None), entries, {}
    if len(things) > 1:
        raise InputError(f"{files[0]} and {len(things) - 1} more", remedy="give one recipe, or models and their --base")
    from mergeopt.files import find_file
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.document import read_document
    from mergeopt.recipe.read import read_recipe
    from mergeopt.space.genome import is_genome

    path = find_file(files[0], None, "search_spaces")
    document = read_document(path)
    if is_genome(document) or (isinstance(document.data, dict) and "recipe" in document.data):
        recipe, found, options = _search_file(document, path)
        entries = entries or found
    else:
        reading = read_recipe(document, SCHEMAS)
        warn(reading.notices)
        recipe, options = reading.recipe, {}
    with placed(str(path)):
        return of_recipe(recipe, path.parent, bases), entries, {"near": path.parent} | options


def _entries(evals: list[str]) -> list["ObjectiveEntry"]:
    if not evals:
        return []
    from mergeopt.scoring.entry import ObjectiveEntry
    from mergeopt.study.evals import find_eval

    return [ObjectiveEntry(eval=find_eval(name, None)) for name in evals]


def _is_shipped(name: str) -> bool:
    from mergeopt.files import shipped

    return not Path(name).is_dir() and any(path.stem == name for path in shipped("search_spaces").glob("*.y*ml"))


def _search_file(document: "Document", path: Path) -> tuple["Recipe", list["ObjectiveEntry"], dict[str, Any]]:
    """A search file's recipe at its init, its objective, and the division of its items."""
    from mergeopt.merge.sources import open_models
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.document import Document
    from mergeopt.recipe.read import read_recipe
    from mergeopt.space.space import parse_space
    from mergeopt.study.job import layers_near
    from mergeopt.study.searchfile import read_search_file

    file = read_search_file(document, layers_of=layers_near(path.parent))
    if "chain" in file.recipe.data:
        where = file.recipe.where(("chain",))
        raise InputError("a chain is several merges, one is wanted here", where=where, remedy="use --models a b c")
    with placed(str(path)):
        space = parse_space(
            file.recipe, schemas=SCHEMAS, shape_of=lambda ref: open_models([ref], path.parent)[ref].shape
        )
    branch = space.branches[0]
    recipe = read_recipe(Document(branch.recipe(branch.init), file.recipe.source), SCHEMAS).recipe
    options = {"shares": file.optimize.shares, "seed": file.optimize.seed}
    return recipe, list(file.objective), options


def _data(
    entries: list["ObjectiveEntry"],
    compute: "Compute",
    options: dict[str, Any],
    *,
    limit: float,
    trust: bool,
    benchmark: bool,
) -> "Data":
    from mergeopt.diagnose.diagnosis import Data

    if limit:
        entries = [entry.model_copy(update={"limit": entry.limit or limit}) for entry in entries]
    return Data(entries, compute, **options, trust_eval_code=trust, allow_benchmark=benchmark)
