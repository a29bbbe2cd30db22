"""Item by item against the best rival: where the winner wins, where it loses, and what was asked.

The texts are written beside the study when a search ends (``search/items.json``): a report made later needs neither the
evals nor the models.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.errors import visible
from mergeopt.files import write_text
from mergeopt.report.table import short
from mergeopt.scoring.suite import Suite
from mergeopt.scoring.tasks import EvalTask
from mergeopt.study.reading import Reading
from mergeopt.study.result import Result

FILE = "items.json"
SHOWN = 12  # of wins and of losses, per eval
LONGEST = 1500  # characters of a text in the page


@dataclass(frozen=True, slots=True)
class Asked:
    """One report item: what the model reads, and the answer that is right, if there is one."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Texts:
    """The report items of one eval, in the split's order."""

    higher_is_better: bool
    items: Sequence[Asked]


@dataclass(frozen=True, slots=True)
class Example:
    """An item on which the two differ, with what became of both in words."""

    prompt: str
    answer: str
    winner: str
    rival: str


@dataclass(frozen=True)
class Duel:
    """Winner and rival on one eval. `wins` and `losses` are those with the largest differences."""

    eval: str
    won: int
    lost: int
    equal: int
    wins: Sequence[Example]
    losses: Sequence[Example]


def write_items(suite: Suite, folder: Path) -> None:
    """Writes the texts of all report items.

    Raises:
        MergeoptError: disk full, no permission.
    """
    evals = {
        info.name: {
            "metric": info.metric,
            "higher_is_better": info.higher_is_better,
            "items": [{"prompt": prompt, "answer": answer} for prompt, answer in _asked(suite, info.name)],
        }
        for info in suite.evals
    }
    write_text(folder / FILE, json.dumps({"format": 1, "evals": evals}) + "\n")


def _asked(suite: Suite, name: str) -> list[tuple[str, str]]:
    part = suite.part(name)
    if not isinstance(part, EvalTask):  # an own scorer's items are its own affair
        return [(json.dumps(doc, ensure_ascii=False, default=str), "") for doc in suite.docs(name, "report")]
    found = []
    for item in suite.items(name, "report"):
        first = item.requests[0]
        if part.kind == "generate_until":
            answer = " | ".join(part.answers(item.doc))
        else:  # the choices to tell apart; a text that is read has no answer
            answer = " | ".join(request.continuation for request in item.requests if request.continuation)
        found.append((first.context, answer))
    return found


def read_items(folder: Path) -> Mapping[str, Texts]:
    """The texts by eval; none where a search has not ended.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    evals: Mapping[str, Any] = read_json_object(path)["evals"]
    return {
        name: Texts(bool(each["higher_is_better"]), [Asked(item["prompt"], item["answer"]) for item in each["items"]])
        for name, each in evals.items()
    }


def duels_of(study: Reading, result: Result, texts: Mapping[str, Texts]) -> list[Duel]:
    """The winner against its rival; none where there is no rival, or their items are not known."""
    ours, theirs = _outcomes(study, result, result.winner), _outcomes(study, result, result.rival)
    found = []
    for name, told in texts.items():
        if name in ours and name in theirs and len(ours[name]) == len(theirs[name]) == len(told.items):
            found.append(_duel(name, told, ours[name], theirs[name]))
    return found


def _outcomes(study: Reading, result: Result, name: str | None) -> Mapping[str, Sequence[float]]:
    """A contender's outcomes on the report items, by eval: of the reading that the result is made of."""
    if name is None:
        return {}
    for note in reversed(study.notes("score")):
        if note["name"] == name and note["split"] == "report":
            cells = result.row(name).evals
            if all(note["evals"][e]["value"] == cells[e].value for e in cells):
                return {e: note["evals"][e]["items"] for e in cells}
    return {}


def _duel(name: str, texts: Texts, ours: Sequence[float], theirs: Sequence[float]) -> Duel:
    sign = 1 if texts.higher_is_better else -1
    ahead = [sign * (a - b) for a, b in zip(ours, theirs, strict=True)]
    order = sorted(range(len(ahead)), key=lambda i: -abs(ahead[i]))
    right_or_wrong = {*ours, *theirs} <= {0, 1} and texts.higher_is_better

    def outcome(value: float) -> str:
        return ("right" if value else "wrong") if right_or_wrong else short(value)

    def examples(side: int) -> list[Example]:
        chosen = [i for i in order if side * ahead[i] > 0][:SHOWN]
        return [
            Example(_shown(texts.items[i].prompt), _shown(texts.items[i].answer), outcome(ours[i]), outcome(theirs[i]))
            for i in chosen
        ]

    won, lost = sum(a > 0 for a in ahead), sum(a < 0 for a in ahead)
    return Duel(name, won, lost, len(ahead) - won - lost, examples(1), examples(-1))


def _shown(text: str) -> str:
    text = visible(text.rstrip("\n"))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
