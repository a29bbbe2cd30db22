"""A small picture for notebooks: one line per thing, a dot where its number lies, a bar for its interval.

One drawing serves differences to other models, scores and coefficients. It is plain SVG with its colours inside,
legible on light and on dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mergeopt.errors import visible
from mergeopt.files import write_text

ROW, LABEL, TEXT, WIDTH = 24, 210, 170, 760  # pixels
LETTERS = 30  # of a label


@dataclass(frozen=True, slots=True)
class Dot:
    """One line: `low` to `high` is the bar, `text` stands at the right, `strong` lines are drawn bold."""

    label: str
    value: float
    low: float
    high: float
    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG that notebooks show."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Writes the SVG; gives the path. Raises MergeoptError: disk full, no permission."""
        write_text(Path(path), self.svg)
        return Path(path)


def dots(title: str, lines: Sequence[Dot], axis: str) -> Picture:
    """Draws `lines` from top to bottom over one axis, which includes 0 and is called `axis`."""
    ends = [number for line in lines for number in (line.value, line.low, line.high) if math.isfinite(number)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = (high - low) or 1.0
    left, right = LABEL + 10.0, WIDTH - TEXT - 10.0

    def x(number: float) -> float:
        return left + (right - left) * min(max((number - low) / span, 0.0), 1.0)

    bottom = 34 + ROW * len(lines)
    parts = [_text(0, 16, title, "start", bold=True)]
    for tick in (low, 0.0, high):
        parts.append(f'<path d="M{x(tick):.1f} 26V{bottom}" stroke="#8884"/>')
        parts.append(_text(x(tick), bottom + 14, f"{tick:.3g}", "middle"))
    for i, line in enumerate(lines):
        y = 34 + ROW * i + ROW / 2
        parts.append(_text(0, y + 4, _short(line.label), "start", bold=line.strong))
        parts.append(_text(WIDTH, y + 4, line.text, "end", bold=line.strong))
        if math.isfinite(line.value):
            width = 3 if line.strong else 2
            ends_at = f"M{x(line.low):.1f} {y}H{x(line.high):.1f}"
            parts.append(f'<path d="{ends_at}" stroke="#3b82c4" stroke-width="{width}"/>')
            parts.append(f'<circle cx="{x(line.value):.1f}" cy="{y}" r="4.5" fill="#3b82c4"/>')
    parts.append(_text((left + right) / 2, bottom + 30, axis, "middle"))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 38}" width="{WIDTH}" '
        f'role="img" font-family="sans-serif" font-size="12" fill="none"><title>{_safe(title)}</title>'
    )
    return Picture(head + "".join(parts) + "</svg>\n")


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#888"{weight}>{_safe(text)}</text>'


def _short(label: str) -> str:
    return label if len(label) <= LETTERS else f"{label[: LETTERS // 2 - 1]}…{label[-LETTERS // 2 :]}"


def _safe(text: str) -> str:
    return escape(visible(text))
