"""`mergeopt merge RECIPE OUT`"""

from pathlib import Path

import typer

from mergeopt.cli.common import check_out, command, say, warn
from mergeopt.errors import placed


@command
def merge(
    recipe: Path = typer.Argument(help="A mergekit recipe."),
    out: Path = typer.Argument(help="Folder for the merged model."),
    force: bool = typer.Option(False, "--force", help="Write into a folder that is not empty."),
    strict: bool = typer.Option(False, "--strict", help="Keys without effect, NaN and infinity are errors."),
    shard_size: str = typer.Option("5GB", "--max-shard-size", help="Limit per weight file, e.g. 2GB."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
) -> None:
    """Make a model from a recipe, streaming: memory is a few MB whatever the size of the models."""
    check_out(out, force=force)
    limit = _bytes(shard_size)

    from mergeopt.cli.display import byte_bar
    from mergeopt.merge.folder import merge_to_folder, prepare
    from mergeopt.merge.sources import open_models
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.document import read_document
    from mergeopt.recipe.read import read_recipe

    reading = read_recipe(read_document(recipe), SCHEMAS)
    warn(reading.notices, strict=strict)
    with placed(str(recipe)):
        prepared = prepare(reading.recipe, open_models(reading.recipe.named, recipe.parent, reading.recipe.base))
    if not quiet or strict:
        warn([f"{recipe}: {notice}" for notice in prepared.notices], strict=strict)
    with byte_bar("merging", prepared.plan.nbytes, quiet=quiet) as progress:
        merged = merge_to_folder(prepared, out, max_shard_bytes=limit, progress=progress, strict=strict)
    warn(merged.notices)
    if not quiet:
        say(f"{len(prepared.plan.jobs)} tensors by {prepared.recipe.method} -> {out}")


def _bytes(text: str) -> int:
    from mergeopt.errors import InputError

    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "K": 10**3, "M": 10**6, "G": 10**9}
    number = text.upper().rstrip("KMGB")
    unit = text.upper()[len(number) :]
    if not number.replace(".", "", 1).isdigit() or unit not in units or float(number) == 0:
        raise InputError(f"--max-shard-size {text!r} is not a size", remedy="write e.g. 2GB")
    return int(float(number) * units[unit])
