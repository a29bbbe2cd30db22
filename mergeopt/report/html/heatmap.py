"""The coefficients of a recipe over layers and parts, one map per source and parameter."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from mergeopt.merge.plan import Job, Plan
from mergeopt.report.html.figure import Figure, Table
from mergeopt.report.html.svg import LETTER, NARROW, Drawing, both
from mergeopt.report.table import public_name, short
from mergeopt.space.parts import module_of

MERGE = "whole merge"
ELSEWHERE = "other towers"
LABEL, ROW, LARGEST = 118.0, 22.0, 44.0
PLACES = {True: 96.0, False: LABEL}  # for the names of the rows, on a phone and else

Where = tuple[str, int | None]  # part, layer; None: of no layer


@dataclass(frozen=True)
class Panel:
    """One parameter of one source: the mean over the tensors of each part and layer."""

    source: str
    parameter: str
    cells: Mapping[Where, float]

    @property
    def parts(self) -> list[str]:
        """Those of the layers, then those of none."""
        return list(dict.fromkeys(part for part, _ in sorted(self.cells, key=lambda where: where[1] is None)))

    @property
    def constant(self) -> bool:
        return len(set(self.cells.values())) == 1


@dataclass(frozen=True)
class Coefficients:
    """All panels over the same layers."""

    panels: Sequence[Panel]
    layers: int

    def largest(self, parameter: str) -> float:
        """The largest absolute value of a parameter: full colour."""
        return max((abs(v) for p in self.panels if p.parameter == parameter for v in p.cells.values()), default=0) or 1


def coefficients_of(plan: Plan, stack: str) -> Coefficients:
    """What a plan says of every tensor, by source, parameter, part and layer of the main `stack`."""
    found: dict[tuple[str, str], dict[Where, list[float]]] = {}
    layers = 0
    for job in plan.jobs:
        where = place(job.tensor, stack)
        layers = max(layers, 0 if where[1] is None else where[1] + 1)
        for source, parameter, value in _values(job):
            found.setdefault((source, parameter), {}).setdefault(where, []).append(value)
    means = [Panel(*key, {where: fmean(values) for where, values in cells.items()}) for key, cells in found.items()]
    return Coefficients(means, layers)


def place(tensor: str, stack: str) -> Where:
    """Part and layer of an output tensor: ``model.layers.3.mlp.up_proj.weight`` → ``("up_proj", 3)``."""
    rest = tensor.removeprefix(f"{stack}.")
    first, _, part = rest.partition(".")
    if rest != tensor and first.isdigit() and part:
        return module_of(part), int(first)
    if any(word.isdigit() for word in tensor.split(".")):
        return ELSEWHERE, None
    return module_of(tensor), None


def _values(job: Job) -> Iterator[tuple[str, str, float]]:
    if job.verbatim:
        return
    for parameter, given in job.coefficients.items():
        values = given if isinstance(given, tuple) else (given,)
        names = [str(item.model) for item in job.inputs] if isinstance(given, tuple) else [MERGE]
        for name, value in zip(names, values, strict=True):
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                yield name, parameter, float(value)


def heatmap_figure(found: Coefficients, whose: str) -> Figure | None:
    """The figure; None where no coefficient is a number."""
    shown = [panel for panel in found.panels if not (panel.constant and panel.source == MERGE)]
    same = [p for p in found.panels if p not in shown]
    if not shown:
        return None
    note = (
        f"Of {whose}: each row a part of the model, each column a layer from the first to the last; the last rows "
        "belong to no layer. The fuller the colour the larger, orange below zero."
    )
    if same:
        note += " Everywhere the same: " + ", ".join(
            f"{p.parameter} {short(next(iter(p.cells.values())))}" for p in same
        )
    rows = [
        [f"{public_name(p.source)} {p.parameter} {part}", "none" if layer is None else str(layer), short(value)]
        for p in shown
        for (part, layer), value in p.cells.items()
    ]
    return Figure(
        "coefficients",
        "Coefficients",
        note,
        both(lambda width: _panels(shown, found, width)),
        Table(["source, parameter, part", "layer", "value"], rows),
    )


def _panels(shown: Sequence[Panel], found: Coefficients, width: float) -> Markup:
    narrow = width <= NARROW
    label = PLACES[narrow]
    cell = min(LARGEST, (width - label) / max(1, found.layers))
    return Markup('<div class="panels">{}</div>').format(
        Markup("").join(_draw(panel, found, label, cell) for panel in shown)
    )


def _draw(panel: Panel, found: Coefficients, label: float, cell: float) -> Markup:
    columns = max(1, found.layers)
    parts = panel.parts
    width, height = label + max(cell * columns, 120.0), 46 + ROW * len(parts)
    values = panel.cells.values()
    said = f"{len(parts)} parts over {columns} layers, from {short(min(values))} to {short(max(values))}"
    title = f"{panel.parameter} of {public_name(panel.source)}"
    drawing = Drawing(width, height, title, said)
    drawing.text(0, 14, title, "label bold", width=width)
    every = next(n for n in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 100, 1000) if n * cell >= 3 * LETTER or n == 1000)
    for layer in range(0, found.layers, every):
        drawing.text(label + cell * (layer + 0.5), 32, str(layer), "muted small", at="middle")
    largest = found.largest(panel.parameter)
    for i, part in enumerate(parts):
        y = 38 + ROW * i
        drawing.text(label - 8, y + 15, part, "small", at="end", width=label - 12)
        for layer in (*range(found.layers), None):
            value = panel.cells.get((part, layer))
            if value is not None:
                x, wide = (label, cell * columns) if layer is None else (label + cell * layer, cell)
                _cell(drawing, (x, y, wide), value, largest, f"{part}, layer {layer}: {short(value)}")
    return drawing.markup()


def _cell(drawing: Drawing, box: tuple[float, float, float], value: float, largest: float, tip: str) -> None:
    x, y, wide = box
    share = abs(value) / largest
    gap = 1 if wide > 6 else 0
    drawing.rect(x, y, wide - gap, ROW - 1, "empty")
    drawing.rect(
        x, y, wide - gap, ROW - 1, "minus" if value < 0 else "plus", opacity=share, tip=tip.replace("None", "none")
    )
    if wide >= 5 * LETTER:
        ink = "faint-cell" if share < 0.55 else "middle-cell" if share < 0.78 else "full-cell"
        drawing.text(
            x + wide / 2 - gap, y + 15, f"{round(value, 2) + 0.0:.2f}".replace("-", "−"), f"cell {ink}", at="middle"
        )
