"""`mergeopt merge RECIPE… OUT`"""

from pathlib import Path

import typer

from mergeopt.cli.common import check_out, command, say, warn
from mergeopt.errors import InputError


@command
def merge(
    recipes: list[Path] = typer.Argument(
        metavar="RECIPE...", help="A mergekit recipe; the stages of a chain as documents of one file, or as files."
    ),
    out: Path = typer.Argument(help="Folder for the merged model."),
    intermediate: Path | None = typer.Option(
        None,
        "--intermediate-dir",
        "-I",
        help="Keep the stages of a chain here; else they lie beside OUT until the end.",
    ),
    force: bool = typer.Option(False, "--force", help="Write into a folder that is not empty."),
    strict: bool = typer.Option(False, "--strict", help="Keys without effect, NaN and infinity are errors."),
    shard_size: str = typer.Option("5GB", "--max-shard-size", help="Limit per weight file, e.g. 2GB."),
    match: str = typer.Option("", "--match", help="mergekit: in its dtypes, order and random draws, bit for bit."),
    random_seed: int | None = typer.Option(None, "--random-seed", help="mergekit's, with --match mergekit."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
) -> None:
    """Make a model from a recipe, streaming: memory is a few MB whatever the size of the models."""
    check_out(out, force=force)
    limit = _bytes(shard_size)
    if match not in ("", "mergekit"):
        raise InputError(f"--match {match!r} is unknown", remedy="write --match mergekit")
    if random_seed is not None and not match:
        remedy = "add --match mergekit, or give the recipe a seed:"
        raise InputError("--random-seed is for merges that match mergekit's", remedy=remedy)

    from mergeopt.cli.display import byte_bar
    from mergeopt.merge.mergekit_mode import Match
    from mergeopt.merge.stages import merge_stages, prepare_stages
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.document import read_documents
    from mergeopt.recipe.stages import read_stages
    from mergeopt.report.card.keep import write_card
    from mergeopt.report.card.merged import merge_card

    stages = read_stages([document for path in recipes for document in read_documents(path)], SCHEMAS)
    warn(stages.notices, strict=strict)
    chain = prepare_stages(stages, Match(random_seed) if match else None)
    if not quiet or strict:
        warn([f"{recipes[-1]}: {notice}" for notice in chain.notices], strict=strict)
    with byte_bar("merging", chain.nbytes, quiet=quiet) as progress:
        notices = merge_stages(
            chain,
            out,
            folder=intermediate or out.with_name(f"{out.name}.stages"),
            keep=intermediate is not None,
            max_shard_bytes=limit,
            progress=progress,
            reused=None if quiet else lambda name: warn([f"the stage {name!r} stands already and is used again"]),
            strict=strict,
        )
    kept = write_card(out, merge_card(chain, out.resolve().name))
    warn([*notices, kept] if kept else notices)
    if not quiet:
        made = f"{len(chain.stages)} stages, " if len(chain.stages) > 1 else ""
        say(f"{made}{len(chain.final.plan.jobs)} tensors by {chain.final.recipe.method} -> {out}")


def _bytes(text: str) -> int:
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "K": 10**3, "M": 10**6, "G": 10**9}
    number = text.upper().rstrip("KMGB")
    unit = text.upper()[len(number) :]
    if not number.replace(".", "", 1).isdigit() or unit not in units or float(number) == 0:
        raise InputError(f"--max-shard-size {text!r} is not a size", remedy="write e.g. 2GB")
    return int(float(number) * units[unit])
