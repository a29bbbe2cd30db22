"""`mergeopt reproduce published:NAME`: a merge that others published, made and measured again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from mergeopt.cli.common import check_out, say, screen, warn
from mergeopt.errors import InputError

PREFIX = "published:"


def show_list(*, as_json: bool) -> None:
    """What the library holds."""
    from mergeopt.published.entry import find, names, read_entry

    entries = [read_entry(find(name)) for name in names()]
    if as_json:
        typer.echo(json.dumps([{"name": entry.name, "title": entry.facts.title} for entry in entries]))
        return
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        say(f"{PREFIX}{entry.name:<{width}}  {entry.facts.title}")


def reproduce_published(
    name: str,
    moved: Mapping[str, Path],
    out: Path | None,
    *,
    force: bool,
    dry_run: bool,
    evaluate: bool,
    limit: int,
    compute_words: tuple[str, str, str],
    quiet: bool,
    as_json: bool,
) -> None:
    """Makes the merge in `out` (by default a folder of its name), measures it, and shows claims and measurements.

    Raises:
        InputError: no such merge, models that are not here, a folder that is not empty.
        MergeoptError: as `mergeopt merge`.
    """
    from mergeopt.cli.display import byte_bar
    from mergeopt.files import write_text
    from mergeopt.published.entry import find, read_entry
    from mergeopt.published.needs import missing, models, needs_lines
    from mergeopt.published.reproduction import compare, merge_again

    entry = read_entry(find(name))
    place = out or Path(entry.name)
    found = models(entry, moved)
    if dry_run:
        for line in needs_lines(entry, found, place):
            say(line)
        return
    absent = missing(found)
    if absent is not None:
        raise absent
    check_out(place, force=force)
    total = sum(model.nbytes for model in found)
    with byte_bar("merging", total, quiet=quiet or as_json) as progress:
        notices = merge_again(entry, found, place, progress)
    warn(() if quiet or as_json else notices)
    if not evaluate:
        say(f"made {place}; not evaluated")
        return
    measure, left_out = _evals(entry, compute_words, limit)
    result = compare(entry, found, place, measure, left_out)
    write_text(place / "published.json", json.dumps(result.data(), indent=1) + "\n")
    if as_json:
        typer.echo(json.dumps(result.data()))
        return
    _show(result, place)


def _evals(entry: Any, words: tuple[str, str, str], limit: int) -> tuple[Any, Mapping[str, InputError]]:
    """How a model is measured, and the evals that cannot be run here."""
    from mergeopt.cli.submit import lm_eval_bars
    from mergeopt.scoring.harness import load_tasks, run_harness
    from mergeopt.scoring.suite import find_task_file
    from mergeopt.study.evals import find_eval
    from mergeopt.study.workbench import Compute

    compute = Compute.parse(*words)
    names = {each.eval: find_eval(each.eval, None) for each in entry.facts.evals}
    loaded = load_tasks([(each, find_task_file(place, None)) for each, place in names.items()])

    def measure(folder: Path) -> Mapping[str, Mapping[str, Any]]:
        with lm_eval_bars(shown=True):
            found = run_harness(
                folder,
                loaded,
                device=compute.device,
                dtype=compute.dtype,
                batch_size=compute.batch_size,
                limit=limit or None,
            )
        return {name: found["results"][called] for name, called in loaded.called.items()}

    return measure, loaded.problems


def _show(result: Any, place: Path) -> None:
    from mergeopt.published.table import side_by_side

    console = screen()
    console.print(side_by_side(result.lines))
    warn(result.notices)
    say(f"made {place}; the numbers are in {place}/published.json")
