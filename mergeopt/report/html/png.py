"""The forest plot as a PNG, for the model card: what is on the Hub cannot hold a page of ours."""

import io
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from mergeopt.errors import MergeoptError
from mergeopt.report.html.forest import AXIS, Line, lines_of, span
from mergeopt.report.html.svg import cut
from mergeopt.study.result import Result

FIGURE = "report.png"
INK, SOFT, GRID = "#1a1e24", "#566070", "#e6e9ee"
COLOURS = {"winner": "#1f5fbf", "compare": "#6b7482", "better": "#17703a", "worse": "#b3261e", "open": INK}
NAME = 260.0  # pixels for a name


def write_png(result: Result, path: Path) -> None:
    """Draws the winner minus every contender on the report items.

    Raises:
        MergeoptError: disk full, no permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(_drawn(lines_of(result)))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MergeoptError(f"{path}: cannot be written ({error.strerror})") from error


def _drawn(lines: Sequence[Line]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 0.9 + 0.27 * len(lines)), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    across = span(lines, 0, 1)
    axes.set_xlim(across.low, across.high)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    for place, line in enumerate(lines):
        _mark(axes, line, place, across.low, across.high)
    axes.set_yticks(range(len(lines)), [cut(line.name, NAME) for line in lines])
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set(parse_math=False, color=SOFT if line.kind == "compare" else INK, fontsize=9)
        label.set_fontweight("bold" if line.kind in ("winner", "rival") else "normal")
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(lines)), [line.text for line in lines])
    for side in (axes, right):
        side.tick_params(axis="both", length=0, labelsize=9, labelcolor=INK)
        for spine in side.spines.values():
            spine.set_visible(False)
    axes.set_xlabel(AXIS, fontsize=9, color=SOFT)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks
        figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _mark(axes: object, line: Line, place: int, low: float, high: float) -> None:
    draw = axes.plot  # type: ignore[attr-defined]
    if line.kind == "winner":
        draw([0], [place], marker="D", color=COLOURS["winner"], markersize=7)
        return
    sure = "better" if line.low > 0 else "worse" if line.high < 0 else "open"
    colour = COLOURS["compare" if line.kind == "compare" else sure]
    ends = [line.low if math.isfinite(line.low) else low, line.high if math.isfinite(line.high) else high]
    draw(ends, [place, place], color=colour, linewidth=1.6, marker="|", markersize=6)
    draw([line.mean], [place], marker="o", color=colour, markersize=5.5)
