"""Tables as text: what fits, what is escaped, what is said."""

from dataclasses import replace

import pytest
from rich.console import Console

from mergeopt.report.table import (
    cell_text,
    difference_text,
    eval_table,
    markdown_text,
    ordered,
    public_name,
    result_markdown,
    result_table,
    short,
    verdict,
)
from mergeopt.scoring.statistics import PairedDifference
from mergeopt.study.evaluation import ModelRow
from mergeopt.study.result import Cell, Importance, Result, Row

WEIGHTS = (0.5, 0.2, 0.15, 0.1, 0.05)
GAIN = PairedDifference(0.0214, 0.005, 0.0104, 0.0324, 200, 199)


def row(name: str, kind: str, objective: float, violation: float = 0.0, *, winner: bool = False) -> Row:
    evals = {name: Cell(objective, 0.006, 0, 1) for name in ("reverse", "sort", "general")}
    return Row(name, kind, objective, violation, evals, None if winner else GAIN)  # type: ignore[arg-type]


def result(**changes: object) -> Result:
    rows = (
        row("trial 7", "learned", 0.953, winner=True),
        row("runs/zoo/base", "base", -0.002),
        row("runs/zoo/reverse", "parent", 0.7),
        row("uniform", "fixed", 0.9),
        row("greedy", "fixed", 0.99, violation=0.1),
        row("published", "compare", 0.95),
    )
    given: dict[str, object] = {
        "winner": "trial 7", "learned": True, "rows": rows, "rival": "uniform", "gain": GAIN, "trials": 60, "failed": 2,
        "steps": 0, "seconds": 12.3, "tokens": 1234567, "items": {}, "search_value": 0.991, "importance": (),
        "notices": (),
    }  # fmt: skip
    return Result(**given | changes)  # type: ignore[arg-type]


def printed(table: object, width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(table)
        return console.export_text()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.9534, ".953"), (-0.05, "-.050"), (1.5, "1.500"), (10.25, "10.250"), (0.0, ".000"), (1, "1.000")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text
    assert short(number, "+") == (text if number < 0 else f"+{text}")


def test_cells_and_differences() -> None:
    assert cell_text(Cell(0.953, 0.006, 0, 1)) == ".953 ± .006"
    assert cell_text(Cell(1.834, 10.2, 0, 1)) == "1.834 ± 10.200"
    assert difference_text(row("x", "fixed", 0.5)) == "+.021 [+.010, +.032]"
    assert difference_text(row("x", "fixed", 0.5), narrow=True) == "+.021 ± .011"
    assert difference_text(row("x", "fixed", 0.5, winner=True)) == ""


def test_the_winner_comes_first_then_the_feasible() -> None:
    names = [r.name for r in ordered(result())]
    assert names == ["trial 7", "published", "uniform", "runs/zoo/reverse", "runs/zoo/base", "greedy"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(width: int) -> None:
    text = printed(result_table(result(), width), width)
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines) and "…" not in text
    assert len([line for line in lines if "published (compare)" in line and ".950" in line and "+.021" in line]) == 1
    assert ("± .006" in text) == (width == 120)
    assert ("[+.010, +.032]" in text) == (width == 120)
    assert "base (base)" in text and "runs/" not in text


def test_markup_in_names_is_text() -> None:
    odd = replace(row("[red]x[/red]", "fixed", 0.5), evals={"[bold]e": Cell(0.5, 0.1, 0, 1)})
    won = replace(row("trial 7", "learned", 0.9, winner=True), evals=odd.evals)
    text = printed(result_table(result(rows=(won, odd)), 200), 200)
    assert "[red]x[/red]" in text and "[bold]e" in text
    markdown = result_markdown(result(rows=(won, replace(odd, name="a|b\nc <script>"))), {})
    assert "| a\\|b c &#60;script&#62; |" in markdown and "| \\[bold\\]e |" in markdown


def test_markdown_has_the_names_that_others_know() -> None:
    names = {"runs/zoo/base": "org/base", "runs/zoo/reverse": "local:reverse"}
    lines = result_markdown(result(), names).splitlines()
    assert lines[0] == "| model | reverse | sort | general | objective | winner − this (95 %) |"
    assert lines[1] == "|---|---:|---:|---:|---:|---:|"
    assert lines[2].startswith("| **trial 7 (winner)** | .953 ± .006 |")
    assert lines[5].startswith("| local:reverse | .700 ± .006 |") and lines[5].endswith("| +.021 [+.010, +.032] |")
    assert lines[6].startswith("| org/base (base) |")


@pytest.mark.parametrize(
    "text", ["a_b*c*", "`x` [y](z) ~~u~~", "# head", "a < b & c > d", "| x |", "back\\slash", "{z}"]
)
def test_markdown_shows_text_as_it_is(text: str) -> None:
    import html
    import re

    shown = re.sub(r"\\([\\`*_{}\[\]#|~])", r"\1", markdown_text(text))
    assert html.unescape(shown) == text
    assert not re.search(r"(?<!\\)[`*_\[\]|~]|[<>]", markdown_text(text).replace("\\\\", ""))


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("org/model", "org/model"),
        ("/home/me/secret/model/", "model"),
        ("runs/zoo/base", "base"),
        ("./base", "base"),
        ("~/base", "base"),
        ("uniform", "uniform"),
    ],
)
def test_tables_show_no_long_paths(name: str, public: str) -> None:
    assert public_name(name) == public


def test_the_verdict_is_honest() -> None:
    assert verdict(result()) == [
        "gain over the best of parents and fixed recipes (uniform): +.021 [+.010, +.032]",
        "the search claimed .991 on its own items; fresh items say .953",
        "60 trials (2 failed) in 12 s, 1,234,567 tokens",
    ]
    unsure = replace(GAIN, low=-0.01)
    assert verdict(result(gain=unsure))[0].endswith("[-.010, +.032]: not distinguishable from zero")
    kept = verdict(result(winner="runs/zoo/reverse", learned=False, search_value=None), {"runs/zoo/reverse": "org/r"})
    assert kept[0] == "no gain: nothing found beats org/r on held-out items, so that is returned"
    assert verdict(result(rival=None, gain=None))[0] == "winner: trial 7"


def test_the_verdict_says_what_was_learned_and_what_matters() -> None:
    importance = tuple(
        Importance(f"runs/zoo/{name}.weight", share, 1.0) for name, share in zip("abcde", WEIGHTS, strict=True)
    )
    lines = verdict(result(steps=300, importance=importance))
    assert lines[-1] == "60 trials (2 failed) and 300 gradient steps in 12 s, 1,234,567 tokens"
    (said,) = [line for line in lines if line.startswith("what the loss minds most: ")]
    assert "a.weight (50%)" in said and "d.weight (10%)" in said and "e.weight" not in said


def test_models_side_by_side() -> None:
    cells = {"sort": Cell(0.5, 0.05, 0.4, 0.6)}
    rows = [ModelRow("zoo/[b]", cells, {}), ModelRow("b", cells, {"sort": GAIN})]
    lines = [line.split() for line in printed(eval_table(rows), 80).splitlines()]
    assert ["zoo/[b]", ".500", "±", ".050"] in lines
    assert ["+.021", "[+.010,", "+.032]"] in lines
