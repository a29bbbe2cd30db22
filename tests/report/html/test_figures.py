"""Figures of made-up numbers: what they draw, and the corners of what they may be given."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mergeopt.report.html.forest import Line, forest_figure, lines_of
from mergeopt.report.html.front import Front, Point, front_figure
from mergeopt.report.html.heatmap import Coefficients, Panel, heatmap_figure, place
from mergeopt.report.html.history import History, Learned, Tried, history_figure
from mergeopt.report.html.importance import importance_figure
from mergeopt.report.html.items import Asked, Texts, duels_of
from mergeopt.report.html.png import write_png
from mergeopt.report.html.svg import Axis, Drawing, axis, cut
from mergeopt.scoring.statistics import PairedDifference
from mergeopt.study.reading import Reading
from mergeopt.study.result import Cell, Importance, Result, Row
from tests.report.html.conftest import HOSTILE, Page

CELL = {"a": Cell(0.5, 0.05, 0.4, 0.6)}


def difference(mean: float, half: float = 0.1) -> PairedDifference:
    return PairedDifference(mean, half / 2, mean - half, mean + half, 100, 99.0)


def result(*others: Row) -> Result:
    rows = (Row("trial 3", "learned", 0.8, 0.0, CELL, None), *others)
    rival = others[0] if others else None
    return Result(
        winner="trial 3", learned=True, rows=rows, rival=rival and rival.name, gain=rival and rival.against, trials=4,
        failed=0, steps=0, seconds=1.0, tokens=10, items={"a": {"report": 3}}, search_value=0.9, importance=(),
        notices=(),
    )  # fmt: skip


def row(name: str, against: PairedDifference, kind: str = "parent") -> Row:
    return Row(name, kind, 0.8 - against.mean, 0.0, CELL, against)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["short", HOSTILE, "x" * 1000])
def test_names_are_cut_in_the_middle(text: str) -> None:
    shown = cut(text, 140)
    assert len(shown) <= 20 and "\n" not in shown and "\u202e" not in shown
    drawing = Drawing(10, 10, text, text)
    drawing.text(0, 0, text, width=140)
    page = Page(drawing.markup())
    assert [name for name, _ in page.tags].count("text") == 1 and "script" not in dict(page.tags)


def test_axes() -> None:
    along = Axis(0.0, 1.0, 0.0, 100.0)
    assert along.ticks(5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert (along(0.25), along(-5), along(math.inf)) == (25, 0, 100)
    for values in ([], [3.0], [3.0, 3.0], [0.0], [math.inf, -math.inf], [1e-9, 1e9], [-1e-12, 1e-12]):
        made = axis(values, 0, 100)
        assert made.low < made.high and 1 <= len(made.ticks(5)) <= 12


def test_evidence_is_told_by_colour_and_words() -> None:
    unbounded = PairedDifference(0.1, math.nan, -math.inf, math.inf, 1, 0)
    rows = [row("clear", difference(0.3)), row("open", difference(0.05)), row("better", difference(-0.3))]
    found = result(*rows, row("single", unbounded), row("upper bound", difference(-0.5), "compare"))
    lines = {line.name: line for line in lines_of(found)}
    assert lines["trial 3 (winner)"].kind == "winner" and lines["clear"].kind == "rival"
    figure = forest_figure(found)
    for style, count in (("mark sure", 1), ("mark open", 2), ("mark lost", 1), ("mark compared", 1)):
        assert str(figure.picture).count(f'class="{style}"') == 2 * count  # for a page with room, and a phone
    assert "above 1 of 5 others" in figure.picture
    assert len(figure.table.rows) == 6
    assert not re.search('(x|y|x1|x2|cx|d)="[^"]*(nan|inf)', str(figure.picture))


def test_a_winner_alone(tmp_path: Path) -> None:
    assert "above 0 of 0 others" in forest_figure(result()).picture
    write_png(result(), tmp_path / "one.png")


def test_the_picture_for_the_card(tmp_path: Path) -> None:
    found = result(
        row(HOSTILE, difference(0.2)), row("$x^2$ {", difference(-0.1)), row("日本", difference(0.1, math.inf))
    )
    write_png(found, tmp_path / "report.png")
    write_png(found, tmp_path / "again.png")
    data = (tmp_path / "report.png").read_bytes()
    assert data.startswith(b"\x89PNG") and data == (tmp_path / "again.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"report.png", "again.png"}


def test_a_history_of_failures_and_far_misses() -> None:
    failed = [Tried(i, None, 0.0, True, None) for i in range(3)]
    figure = history_figure(History(failed, []))
    assert figure is not None and str(figure.picture).count('class="failed"') == 2 * 6
    tried = [Tried(i, 0.5 + i / 100, 0.02, i != 2, 0.5 + i / 100) for i in range(10)]
    far = Tried(10, -1e6, 0.0, True, tried[-1].best)
    figure = history_figure(History([*tried, far], [Learned(11, 0.3, True), Learned(12, 0.4, False)]))
    assert figure is not None and ">−1e+06<" not in figure.picture  # the far one stands at the edge
    assert str(figure.picture).count('class="infeasible"') == 2
    assert figure.table.rows[2][-1] == "infeasible" and figure.table.rows[11][-1] == "held-out loss"
    assert history_figure(History([], [])) is None


def test_a_history_below_the_tensor() -> None:
    learned, refined = [Learned(0, 0.5, True)], [Learned(step, 0.4 - step / 1000, True) for step in (0, 40, 80)]
    alone, figure = history_figure(History([], learned)), history_figure(History([], learned, refined))
    assert alone is not None and figure is not None
    assert "below the tensor" not in alone.picture and "below the tensor" not in alone.note
    assert str(figure.picture).count('class="held-out-dot"') == 2 * (1 + 3)
    assert "step below the tensor" in figure.picture and "number of the proposal" in figure.picture
    assert figure.table.rows[-1] == ["step 80 below the tensor", "0.32", "", "", "held-out loss"]


def test_the_front() -> None:
    points = [Point(0, (0.1, 0.9), True), Point(1, (0.9, 0.1), True), Point(2, (0.1, 0.1), False)]
    figure = front_figure(Front(["a", HOSTILE], points))
    assert [each[0] for each in figure.table.rows] == ["trial 0", "trial 1"]
    assert "2 of 3 feasible trials" in figure.picture
    more = front_figure(Front(["a", "b", "c"], [replace(p, values=(*p.values, 0.5)) for p in points]))
    assert str(more.picture).count('class="front"') == 4


@pytest.mark.parametrize(
    ("tensor", "where"),
    [
        ("model.layers.3.mlp.up_proj.weight", ("up_proj", 3)),
        ("model.embed_tokens.weight", ("embed_tokens", None)),
        ("vision.blocks.11.attn.weight", ("other towers", None)),
        ("model.layers.0.block_sparse_moe.experts.7.w1.weight", ("w1", 0)),
    ],
)
def test_where_a_tensor_stands(tensor: str, where: tuple[str, int | None]) -> None:
    assert place(tensor, "model.layers") == where


def test_a_map_of_many_layers() -> None:
    cells = {(f"part {p}", layer): (layer - 40) / 80 for p in range(9) for layer in range(80)}
    panels = [Panel(HOSTILE, "weight", cells), Panel("whole merge", "lambda", {("up", 0): 1.0})]
    figure = heatmap_figure(Coefficients(panels, 80), "the winner")
    assert figure is not None and "the same: lambda 1.000" in figure.note
    assert len(figure.table.rows) == 720
    widths = [float(w) for w in re.findall(r'viewBox="0 0 ([\d.]+)', figure.picture)]
    assert max(widths) <= 860 and min(widths) <= 344
    assert 'class="minus"' in figure.picture and 'class="plus"' in figure.picture
    assert heatmap_figure(Coefficients([panels[1]], 80), "the winner") is None


def test_what_matters() -> None:
    assert importance_figure(()) is None
    many = [Importance(f"{HOSTILE}{i}", 1 / (i + 2), 3.0 if i == 1 else 0.5) for i in range(40)]
    figure = importance_figure(many)
    assert figure is not None and len(figure.table.rows) == 40
    assert str(figure.picture).count('class="moving"') == 2 and "first 16 of 40" in figure.note


def test_wins_and_losses() -> None:
    found = result(row("rival", difference(0.1)))
    note = {"split": "report", "recipe": "x"}

    def scored(name: str, items: list[float]) -> dict[str, object]:
        payload = {**note, "name": name, "evals": {"a": {"value": 0.5, "items": items}}}
        return {"event": "note", "kind": "score", "payload": payload}

    stale = scored("rival", [9.0, 9.0, 9.0])
    stale["payload"]["evals"]["a"]["value"] = 9.0  # type: ignore[index]
    study = Reading({}, [], [], [scored("trial 3", [1, 0, 1]), scored("rival", [0, 1, 1]), stale])
    texts = {"a": Texts(True, [Asked(f"question {i}\n", f"{i}") for i in range(3)])}
    (duel,) = duels_of(study, found, texts)
    assert (duel.won, duel.lost, duel.equal) == (1, 1, 1)
    assert (duel.wins[0].prompt, duel.losses[0].answer) == ("question 0", "1")
    assert (duel.wins[0].winner, duel.wins[0].rival) == ("right", "wrong")
    (lower,) = duels_of(study, found, {"a": replace(texts["a"], higher_is_better=False)})
    assert (lower.wins[0].prompt, lower.wins[0].winner) == ("question 1", ".000")
    assert duels_of(study, result(), texts) == []


def test_lines_say_what_the_table_says() -> None:
    (_, line) = lines_of(result(row("x", difference(0.1))))
    assert line == Line("x", "rival", pytest.approx(0.7), 0.1, 0.0, 0.2, "+.100 [+.000, +.200]")
