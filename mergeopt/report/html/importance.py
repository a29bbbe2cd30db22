"""Which coefficients matter: each one's share in the Fisher of the loss."""

from collections.abc import Sequence

from markupsafe import Markup

from mergeopt.report.html.figure import Figure, Table
from mergeopt.report.html.svg import NARROW, Axis, Drawing, both
from mergeopt.report.table import public_name
from mergeopt.study.result import Importance

MOST = 16
MOVING = 2.0  # standard errors
TITLE = "What matters"


def importance_figure(importance: Sequence[Importance]) -> Figure | None:
    """The figure; None where nothing was learned by gradient."""
    if not importance:
        return None
    rows = [[public_name(one.name), f"{one.share:.1%}", f"{one.signal:.1f}"] for one in importance]
    more = f" The first {MOST} of {len(importance)}; the table has all." if len(importance) > MOST else ""
    return Figure(
        "importance",
        TITLE,
        "How much of the loss's curvature lies in each coefficient, in units of its range: a move of a large one costs "
        "most. A hollow bar was still being pushed when the gradient ended (its mean gradient is above two standard "
        f"errors): more steps or wider bounds would move it.{more}",
        both(lambda width: _draw(importance[:MOST], width)),
        Table(["coefficient", "share", "gradient / standard error"], rows),
    )


def _draw(importance: Sequence[Importance], width: float) -> Markup:
    narrow = width <= NARROW
    row = 36.0 if narrow else 24.0
    most = importance[0]
    said = f"The first is {public_name(most.name)}, with a share of {most.share:.0%}"
    drawing = Drawing(width, row * len(importance) + 4, TITLE, said)
    start = 0.0 if narrow else 300.0
    along = Axis(0, most.share or 1.0, start, width - 52)
    for i, one in enumerate(importance):
        y = row * i
        name = public_name(one.name)
        drawing.text(0, y + (13 if narrow else 16), name, "label", width=width - 8 if narrow else start - 12)
        top = y + 18 if narrow else y + 4
        drawing.rect(start, top, along(one.share) - start, 14, "moving" if one.signal > MOVING else "bar")
        drawing.text(along(one.share) + 6, top + 12, f"{one.share:.1%}", "muted")
    return drawing.markup()
