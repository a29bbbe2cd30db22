"""What the Python API gives back: frozen values that show themselves in a notebook.

`repr` is a few lines, `_repr_html_` a table, `plot()` a picture. All of them are drawn from what lies on disk, so a
folder opened later shows what the call showed.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

from rich.console import Console

from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.errors import InputError, visible
from mergeopt.merge.lock import Lock
from mergeopt.merge.plan import Plan
from mergeopt.merge.stages import prepare_stages
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_documents
from mergeopt.recipe.stages import read_stages
from mergeopt.report.picture import Dot, Picture, dots
from mergeopt.report.table import (
    cell_text,
    difference_text,
    eval_table,
    label,
    ordered,
    public_name,
    short,
    verdict,
    with_interval,
)
from mergeopt.study.evaluation import ModelRow
from mergeopt.study.result import Result


@dataclass(frozen=True)
class MergedModel:
    """A model folder that `merge` or `search` wrote.

    Attributes:
        folder: Where it lies; transformers loads it.
        recipe: The recipe's YAML; of a chain all its documents.
        lock: Hashes of inputs and outputs, versions, portability.
        notices: What the user should know, in words.
    """

    folder: Path
    recipe: str
    lock: Lock
    notices: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path, notices: Sequence[str] = ()) -> "MergedModel":
        """Opens a folder. Raises InputError: it has no lock file or no recipe."""
        lock = Lock.read(folder)
        path = folder / "recipe.yaml"
        if not path.is_file():
            raise InputError("has no recipe.yaml", where=str(folder), remedy="merge again")
        return cls(folder, path.read_text(encoding="utf-8"), lock, tuple(notices))

    @cached_property
    def plan(self) -> Plan:
        """Inputs and coefficients of every tensor, from the headers of the sources.

        Raises:
            InputError: a source is no longer where the recipe says.
        """
        stages = read_stages(read_documents(self.folder / "recipe.yaml"), SCHEMAS)
        return prepare_stages(stages).final.plan

    def plot(self) -> Picture:
        """Every source's coefficients: the mean over the tensors, the bar from the least to the greatest.

        Raises:
            InputError: as `plan`.
        """
        lines = []
        for name, values in _coefficients(self.plan).items():
            mean, low, high = sum(values) / len(values), min(values), max(values)
            lines.append(Dot(name, mean, low, high, f"{mean:.3g}  ({low:.3g} to {high:.3g})"))
        return dots(f"{self.plan.method}: coefficients over {len(self.plan.jobs)} tensors", lines, "coefficient")

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("folder", str(self.folder)),
            ("models", ", ".join(self.lock.inputs)),
            ("tensors", f"{len(self.lock.outputs)}"),
            ("in mergekit", self.lock.portability),
        ]

    def __repr__(self) -> str:
        return "\n".join(["merged model", *(f"  {name:12} {visible(text)}" for name, text in self._facts())])

    def _repr_html_(self) -> str:
        return f"{_table((), self._facts())}<pre>{_safe(self.recipe)}</pre>"


@dataclass(frozen=True)
class LearnedMerge:
    """What `search` found: the `model` it wrote, and the `result` on the report items."""

    model: MergedModel
    result: Result

    @property
    def folder(self) -> Path:
        return self.model.folder

    @property
    def recipe(self) -> str:
        """The winner's YAML."""
        return self.model.recipe

    def plot(self) -> Picture:
        """The winner minus every other contender on the report items, with 95 % intervals."""
        lines = []
        for row in ordered(self.result):
            name, difference = label(row, self.result), row.against
            if difference is None:
                lines.append(Dot(name, 0.0, 0.0, 0.0, short(row.objective), strong=True))
            else:
                text = with_interval(difference)
                lines.append(Dot(name, difference.mean, difference.low, difference.high, text))
        return dots("winner − every other one, fresh items, 95 %", lines, "difference in the objective")

    def __repr__(self) -> str:
        return "\n".join([f"learned merge in {visible(str(self.folder))}", *map(visible, verdict(self.result))])

    def _repr_html_(self) -> str:
        evals = list(self.result.rows[0].evals)
        rows = [
            [
                label(row, self.result), *(cell_text(row.evals[name]) for name in evals),
                short(row.objective), difference_text(row),
            ]
            for row in ordered(self.result)
        ]  # fmt: skip
        said = "".join(f"<p>{_safe(line)}</p>" for line in verdict(self.result))
        return _table(["model", *evals, "objective", "winner − this (95 %)"], rows) + said


@dataclass(frozen=True)
class Evaluation:
    """Models side by side on evals; differences are to the first model, paired item by item."""

    rows: tuple[ModelRow, ...]
    notices: tuple[str, ...] = ()

    def plot(self) -> Picture:
        """Every score with its 95 % interval."""
        lines = [
            Dot(f"{name}: {public_name(row.model)}", cell.value, cell.low, cell.high, cell_text(cell), strong=i == 0)
            for name in self.rows[0].evals
            for i, row in enumerate(self.rows)
            for cell in [row.evals[name]]
        ]
        return dots("scores, 95 %", lines, "score")

    def __repr__(self) -> str:
        console = Console(file=io.StringIO(), width=200)
        console.print(eval_table(self.rows))
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines() if line.strip())

    def _repr_html_(self) -> str:
        evals = list(self.rows[0].evals)
        return _table(["model", *evals], [[row.model, *_cells(row, evals)] for row in self.rows])


def read_folder(folder: Path) -> MergedModel | LearnedMerge:
    """What lies in an output folder. Raises InputError: neither a merge nor a search wrote it."""
    model = MergedModel.read(folder)
    path = folder / "result.json"
    if not path.is_file():
        return model
    return LearnedMerge(model, Result.parse(read_json_object(path), str(path)))


def _cells(row: ModelRow, evals: Sequence[str]) -> Iterator[str]:
    for name in evals:
        difference = f" ({with_interval(row.against[name])})" if name in row.against else ""
        yield cell_text(row.evals[name]) + difference


def _coefficients(plan: Plan) -> dict[str, list[float]]:
    """``model weight`` → its values over the tensors; numbers of the merge as a whole under their own name."""
    found: dict[str, list[float]] = {}
    for job in plan.jobs:
        for key, value in job.coefficients.items():
            if isinstance(value, tuple):
                named = [(f"{public_name(str(s.model))} {key}", v) for s, v in zip(job.inputs, value, strict=True)]
            else:
                named = [(key, value)]
            for name, number in named:
                if isinstance(number, float):
                    found.setdefault(name, []).append(number)
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "<tr>" + "".join(f"<th>{_safe(text)}</th>" for text in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{_safe(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def _safe(text: str) -> str:
    return escape(visible(text))
