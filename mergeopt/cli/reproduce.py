"""`mergeopt reproduce DIR` and `published:NAME`"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from mergeopt.cli.common import check_out, command, say, warn
from mergeopt.cli.published import PREFIX, reproduce_published, show_list
from mergeopt.errors import InputError

SMALL = 16  # ulp: what another order of rounding can do
LISTED = 20  # tensors printed per kind of difference; --json has all


@command
def reproduce(
    folder: str = typer.Argument(
        None, metavar="DIR", help="A folder that `merge` or `search` wrote, or published:NAME (or :FILE)."
    ),
    models: list[str] = typer.Option([], "--models", help="Where a model is now, NAME=FOLDER; may be repeated."),
    out: Path = typer.Option(None, "--out", help="Keep the merge made again in this folder."),
    force: bool = typer.Option(False, "--force", help="Write into an --out folder that is not empty."),
    listed: bool = typer.Option(False, "--list", help="The published merges."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Published: what it would download and need."),
    evaluate: bool = typer.Option(True, "--eval/--no-eval", help="Published: measure it and its parents."),
    limit: int = typer.Option(0, "--limit", min=0, help="Published: items per eval; 0 means all."),
    device: str = typer.Option("auto", "--device"),
    dtype: str = typer.Option("auto", "--dtype", help="Published: evaluate in this; auto: the model's own."),
    batch_size: str = typer.Option("auto", "--batch-size"),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
    as_json: bool = typer.Option(False, "--json", help="JSON instead of text."),
) -> None:
    """Merge again and compare with DIR, tensor by tensor; or make a published merge and put claims beside it.

    Exit code 0: the same bytes (published: it was made), 1: not, 2: bad input.
    """
    if listed:
        show_list(as_json=as_json)
        return
    if folder is None:
        raise InputError("no DIR given", remedy="give a model folder, or see `mergeopt reproduce --list`")
    if folder.startswith(PREFIX):
        reproduce_published(
            folder.removeprefix(PREFIX),
            _moved(models),
            out,
            force=force,
            dry_run=dry_run,
            evaluate=evaluate,
            limit=limit,
            compute_words=(device, dtype, batch_size),
            quiet=quiet,
            as_json=as_json,
        )
        return
    if dry_run:
        raise InputError("--dry-run is for published:NAME", remedy="leave it out: nothing is written without --out")
    _compare(Path(folder), _moved(models), out, force=force, quiet=quiet, as_json=as_json)


def _compare(
    folder: Path, moved: dict[str, Path], out: Path | None, *, force: bool, quiet: bool, as_json: bool
) -> None:
    if out is not None:
        check_out(out, force=force)

    from mergeopt.cli.display import byte_bar
    from mergeopt.merge.reproduce import reproduce as compare

    found = compare(folder, moved, lambda words, total: byte_bar(words, total, quiet=quiet or as_json), out=out)
    if as_json:
        differs = [asdict(each) | {"blame": each.blame.name.lower()} for each in found.differences]
        row = asdict(found) | {"folder": str(folder), "equal": not differs, "differences": differs}
        typer.echo(json.dumps(row))
    elif not quiet:
        warn(found.notices)
        for line in _lines(found, folder):
            say(line)
    if found.differences:
        raise typer.Exit(1)


def _moved(models: list[str]) -> dict[str, Path]:
    moved = {}
    for text in models:
        name, equals, path = text.rpartition("=")
        if not (name and equals and path):
            raise InputError(f"--models {text!r} is not NAME=FOLDER", remedy="write e.g. --models zoo/base=/data/base")
        moved[name] = Path(path).expanduser()
    return moved


def _lines(found: Any, folder: Path) -> list[str]:
    """The outcome in words, differences by who is to blame."""
    if not found.differences:
        return [f"{folder} is what its recipe gives: {found.tensors} tensors and {found.files} files, byte for byte"]
    count = sum(each.tensor for each in found.differences)
    lines = [f"{folder} differs: {count} of {found.tensors} tensors, {len(found.differences) - count} other files"]
    for blame in dict.fromkeys(each.blame for each in found.differences):
        group = [each for each in found.differences if each.blame == blame]
        lines.append(f"{blame}:")
        lines += [f"  {each.name}{_how(each)}" for each in group[:LISTED]]
        lines += [f"  and {len(group) - LISTED} more (--json names them)"] if len(group) > LISTED else []
    return lines + _advice(found)


def _how(difference: Any) -> str:
    """`` (3 of 256 elements, at most 1 ulp)``"""
    distance = difference.distance
    if distance is None:
        gone = {"folder": difference.held, "lock file": difference.locked, "merge": difference.made}
        missing = [name for name, digest in gone.items() if digest is None]
        other_form = difference.held is not None and ":" not in difference.held
        return f" (stored as {difference.held})" if other_form else f" (not in the {missing[0]})" if missing else ""
    far = ""
    if distance.ulp is not None:
        far = f", by at most {distance.ulp} ulp" if distance.ulp <= SMALL else f", by at most {distance.largest:.2g}"
    return f" ({distance.different:,} of {distance.elements:,} elements{far})"


def _advice(found: Any) -> list[str]:
    """Small differences everywhere are another machine's rounding."""
    from mergeopt.merge.reproduce import Blame

    made = [each.distance for each in found.differences if each.blame is Blame.MERGE and each.tensor]
    if not made or any(each is None or each.ulp is None or each.ulp > SMALL for each in made):
        return []
    return ["Only last digits: another kind of processor, or another torch, may round sums and sines otherwise."]
