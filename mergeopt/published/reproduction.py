"""A published merge made and measured again, claims and measurements side by side.

The parents are measured in the same run: what two harnesses say of one model differs by more than most merges differ
from their parents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergeopt.errors import InputError
from mergeopt.merge.stages import PreparedChain, merge_stages, prepare_stages
from mergeopt.methods import SCHEMAS
from mergeopt.published.entry import MERGE, Entry
from mergeopt.published.needs import Model
from mergeopt.recipe.document import Document
from mergeopt.recipe.stages import read_stages
from mergeopt.report.card.keep import write_card
from mergeopt.report.card.merged import merge_card


@dataclass(frozen=True, slots=True)
class Line:
    """One eval of one model: what each source claims and what was measured, 0 to 1; None where nothing was."""

    model: str
    eval: str
    claimed: Mapping[str, float | None]
    measured: float | None
    stderr: float | None

    @property
    def difference(self) -> float | None:
        """Measured minus the first source that claims something."""
        first = next((value for value in self.claimed.values() if value is not None), None)
        return None if first is None or self.measured is None else self.measured - first


@dataclass(frozen=True)
class Reproduction:
    """What came out. `notices`: what the reader should know, evals left out among it."""

    name: str
    lines: tuple[Line, ...]
    notices: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """Plain JSON data."""
        lines = [asdict(line) | {"difference": line.difference} for line in self.lines]
        return {"format": 1, "name": self.name, "lines": lines, "notices": list(self.notices)}


Measure = Callable[[Path], Mapping[str, Mapping[str, Any]]]
"""Model folder -> what lm-eval found: eval, as the entry names it -> ``metric,filter`` -> number."""


def merge_again(entry: Entry, found: Sequence[Model], out: Path, progress: Callable[[int], None]) -> tuple[str, ...]:
    """Makes the merge in `out`, from the models where they are; returns notices.

    Raises:
        InputError, MergeoptError: as `mergeopt merge`.
    """
    chain = prepared(entry, found)
    notices = merge_stages(chain, out, folder=out.with_name(f"{out.name}.stages"), keep=False, progress=progress)
    kept = write_card(out, merge_card(chain, out.resolve().name))
    return (*chain.notices, *notices, *([kept] if kept else []))


def prepared(entry: Entry, found: Sequence[Model]) -> PreparedChain:
    """The merge, planned from headers.

    Raises:
        InputError: the models do not fit the recipe.
    """
    places = {str(model.ref): str(model.folder.absolute()) for model in found if model.folder and _moved(model)}
    places |= {model.ref.path: places[str(model.ref)] for model in found if str(model.ref) in places}
    document = Document(_at(entry.document.data, places), entry.document.source, entry.document.lines)
    return prepare_stages(read_stages([document], SCHEMAS))


def compare(
    entry: Entry, found: Sequence[Model], out: Path, measure: Measure, left_out: Mapping[str, InputError]
) -> Reproduction:
    """Measures the merge in `out` and its parents, and puts the claims beside it.

    Args:
        entry: What was published.
        found: Its models.
        out: The merge made again.
        measure: Runs the evals on a model folder.
        left_out: Evals that cannot be run here, and why.
    """
    folders = {MERGE: out} | {str(model.ref): model.folder for model in found if model.folder}
    claimed = {model for each in entry.facts.claims for model in each.scores}
    kept = {name: folder for name, folder in folders.items() if name == MERGE or name in claimed}
    results = {} if len(left_out) == len(entry.facts.evals) else {n: measure(f) for n, f in kept.items() if f}
    lines = [
        _line(entry, name, number, results.get(name, {})) for name in kept for number in range(len(entry.facts.evals))
    ]
    notices = [f"{name} is left out: {error.problem}" for name, error in left_out.items()]
    return Reproduction(entry.name, tuple(lines), (*notices, *entry.facts.notes))


def _line(entry: Entry, model: str, number: int, results: Mapping[str, Mapping[str, Any]]) -> Line:
    each = entry.facts.evals[number]
    scores = results.get(each.eval, {})
    value = scores.get(each.key)
    metric, _, suffix = each.key.partition(",")
    stderr = scores.get(f"{metric}_stderr,{suffix}")
    return Line(
        model,
        each.called,
        {claims.by: claims.score(model, each.called) for claims in entry.facts.claims},
        float(value) if isinstance(value, int | float) else None,
        float(stderr) if isinstance(stderr, int | float) else None,
    )


def _moved(model: Model) -> bool:
    """Is it elsewhere than where its name leads?"""
    return model.folder is not None and "snapshots" not in model.folder.parts and model.folder != Path(model.ref.path)


def _at(data: Any, places: Mapping[str, str]) -> Any:
    """The recipe's data with models at their places."""
    if isinstance(data, dict):
        return {key: _at(value, places) for key, value in data.items()}
    if isinstance(data, list):
        return [_at(value, places) for value in data]
    return places.get(data, data) if isinstance(data, str) else data
