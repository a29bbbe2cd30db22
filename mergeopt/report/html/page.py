"""Facts become the page."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mergeopt.errors import visible
from mergeopt.files import write_text
from mergeopt.report.html.facts import Facts, best_trial, read_facts
from mergeopt.report.html.figure import Figure, Table
from mergeopt.report.html.forest import forest_figure
from mergeopt.report.html.front import front_figure, front_of
from mergeopt.report.html.heatmap import heatmap_figure
from mergeopt.report.html.history import history_figure, history_of
from mergeopt.report.html.importance import importance_figure
from mergeopt.report.html.items import duels_of
from mergeopt.report.html.svg import LETTER, cut
from mergeopt.report.table import public_name, short, verdict
from mergeopt.study.reading import Reading
from mergeopt.study.record import Step, Trial

REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Run:
    """A start or a resumption: the command, and what it ran on."""

    command: str
    environment: str


def write_report(out: Path, *, storage: str | None = None) -> Path:
    """Writes ``search/report.html`` of an output folder, finished or not; returns its path.

    Raises:
        InputError: the folder holds no study, or damaged files.
        MergeoptError: disk full, no permission.
    """
    path = out / "search" / REPORT
    write_text(path, render(read_facts(out, storage=storage)))
    return path


def render(facts: Facts) -> str:
    """The page of these facts."""
    environment = Environment(
        loader=PackageLoader("mergeopt.report.html", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"visible": visible, "brief": brief}
    sheet = Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(view(facts), sheet=sheet)


def view(facts: Facts) -> dict[str, Any]:
    """What the template shows: text, figures, tables."""
    result, study = facts.result, facts.study
    front = front_of(study)
    figures = [
        forest_figure(result) if result else _references(study),
        history_figure(history_of(study)),
        heatmap_figure(facts.coefficients, facts.whose) if facts.coefficients else None,
        importance_figure(result.importance) if result else None,
        front_figure(front) if front else None,
    ]
    return {
        "name": facts.name,
        "headline": headline(facts),
        "numbers": _numbers(facts),
        "notices": result.notices if result else (),
        "figures": [figure for figure in figures if figure is not None],
        "lacking": facts.lacking,
        "duels": duels_of(study, result, facts.texts) if result else [],
        "winner": public_name(result.winner) if result else "",
        "rival": public_name(result.rival) if result and result.rival else "",
        "recipe": facts.recipe,
        "whose": facts.whose,
        "runs": _runs(study),
        "made": _made(facts),
    }


def brief(name: str) -> str:
    """A name as prose can bear it: pictures and tables have more room."""
    return cut(name, 60 * LETTER)


def headline(facts: Facts) -> list[str]:
    """The verdict, the most important sentence first."""
    if facts.result is not None:
        result = facts.result
        names = [result.winner, result.rival or "", *(one.name for one in result.importance)]
        return verdict(result, {name: brief(public_name(name)) for name in names})
    best = best_trial(facts.study)
    trials = f"{len(facts.study.trials)} trials"
    if best is None or best.value is None:
        return [f"not finished: {trials} so far, none of which keeps every constraint"]
    error = "" if best.error is None else f" ± {short(best.error)}"
    return [
        f"not finished: the best of {trials} so far scores {short(best.value)}{error} on the search items",
        "The search chose it by these very items, so fresh ones will say less.",
    ]


def _numbers(facts: Facts) -> list[tuple[str, str]]:
    study, result = facts.study, facts.result
    steps = result.steps if result else sum("gradient" in step.wants for step in study.steps)
    done: list[Trial | Step] = [*study.trials, *study.steps]
    tokens = result.tokens if result else sum(one.tokens for one in done)
    seconds = result.seconds if result else sum(one.seconds for one in done)
    found = [("trials", f"{len(study.trials):,}"), ("gradient steps", f"{steps:,}"), ("tokens", f"{tokens:,}")]
    found.append(("time", f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"))
    if result:
        for split in ("calibrate", "search", "select", "report"):
            count = sum(items.get(split, 0) for items in result.items.values())
            found += [(f"{split} items", f"{count:,}")] if count else []
    return found


def _references(study: Reading) -> Figure | None:
    """Before a search has ended: what parents and fixed recipes score on the search items, as a table."""
    scored = {note["name"]: note["evals"] for note in study.notes("score") if note["split"] == "search"}
    if not scored:
        return None
    evals = list(next(iter(scored.values())))
    rows = [[public_name(name), *(short(each[e]["value"]) for e in evals)] for name, each in scored.items()]
    note = "What parents and fixed recipes score on the search items."
    return Figure("references", "To be beaten", note, Markup(), Table(["model", *evals], rows))


def _runs(study: Reading) -> list[Run]:
    """How the study was started and resumed."""
    notes = study.notes("command")
    return [Run(shlex.join(note["argv"]), _environment(note["versions"], note["machine"])) for note in notes]


def _environment(versions: dict[str, str], machine: str | None) -> str:
    return ", ".join([*(f"{name} {version}" for name, version in versions.items()), machine or "machine not known"])


def _made(facts: Facts) -> list[tuple[str, str]]:
    """What the weights were computed by, from the lock file."""
    if facts.lock is None:
        return []
    lock = facts.lock
    return [
        ("mergeopt", lock.tool),
        *lock.versions.items(),
        ("machine", lock.machine or "not known"),
        ("seed", str(lock.seed)),
        ("with mergekit", lock.portability),
        *((f"inputs of {public_name(model)}", ", ".join(files.values())) for model, files in lock.inputs.items()),
    ]
