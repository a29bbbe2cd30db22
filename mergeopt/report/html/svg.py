"""A small writer of SVG: elements are appended, text is escaped, colours come from the page's style sheet by class."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from mergeopt.errors import visible

LETTER = 7.0  # pixels of an average letter at 13 px
LONGEST = 400  # characters of a name in a tooltip


class Drawing:
    """One picture.

    Args:
        width, height: Pixels, as long as the page is wide enough.
        title: What it is, read aloud first.
        description: What it shows, in a sentence.
    """

    def __init__(self, width: float, height: float, title: str, description: str) -> None:
        self._head = Markup(
            '<svg class="drawing" viewBox="0 0 {w:g} {h:g}" width="{w:g}" height="{h:g}" role="img" '
            'aria-label="{title}. {description}"><title>{title}</title><desc>{description}</desc>'
        ).format(w=width, h=height, title=visible(title), description=visible(description))
        self._parts: list[Markup] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self._add('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>', x1, y1, x2, y2, style)

    def rect(
        self, x: float, y: float, width: float, height: float, style: str, *, opacity: float = 1.0, tip: str = ""
    ) -> None:
        form = '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}" fill-opacity="{:.3f}">{}</rect>'
        self._add(form, x, y, width, height, style, opacity, _tip(tip))

    def dot(self, x: float, y: float, radius: float, style: str, *, tip: str = "") -> None:
        self._add('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="{}">{}</circle>', x, y, radius, style, _tip(tip))

    def path(self, points: list[tuple[float, float]], style: str, *, closed: bool = False, tip: str = "") -> None:
        """Straight lines from point to point."""
        if points:
            way = "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + ("Z" if closed else "")
            self._add('<path d="M{}" class="{}">{}</path>', way, style, _tip(tip))

    def text(
        self, x: float, y: float, text: str, style: str = "", *, at: str = "start", width: float = math.inf
    ) -> None:
        """Text on the baseline `y`; `at` is start, middle or end, and what goes beyond `width` is cut off."""
        shown = cut(text, width)
        tip = _tip(text) if shown != visible(text) else Markup()
        form = '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}" unicode-bidi="plaintext">{}{}</text>'
        self._add(form, x, y, at, style, shown, tip)

    def markup(self) -> Markup:
        return self._head + Markup("\n").join(self._parts) + Markup("</svg>")

    def _add(self, form: str, *values: object) -> None:
        self._parts.append(Markup(form).format(*values))


def _tip(text: str) -> Markup:
    return Markup("<title>{}</title>").format(visible(text)[:LONGEST]) if text else Markup()


def cut(text: str, width: float) -> str:
    """`text` on one line, in about `width` pixels: its end is what tells models apart, so the middle goes."""
    text = visible(" ".join(text.split()))
    most = len(text) if math.isinf(width) else max(3, int(width / LETTER))
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


@dataclass(frozen=True, slots=True)
class Axis:
    """Numbers from `low` to `high` laid over pixels `start` to `end`; beyond them they stand at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers inside, at about so many places."""
        raw = (self.high - self.low) / max(1, about)
        power = 10 ** math.floor(math.log10(raw))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis(values: list[float], start: float, end: float, *, margin: float = 0.06) -> Axis:
    """An axis with room for the finite ones of `values`."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = (high - low) * margin or abs(high) * 0.05 or 0.5
    return Axis(low - room, high + room, start, end)


def number(value: float) -> str:
    """A tick's label."""
    return f"{value:.4g}".replace("-", "−")


def both(draw: Callable[[float], Markup]) -> Markup:
    """The picture twice: for a page with room, and for a phone. The style sheet shows one."""
    form = Markup('<div class="wide">{}</div><div class="narrow">{}</div>')
    return form.format(draw(WIDE), draw(NARROW))


WIDE, NARROW = 860.0, 344.0
