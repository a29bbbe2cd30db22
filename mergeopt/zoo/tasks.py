"""Exactly checkable tasks: functions of short strings, written as one line of text, ``reverse(abcde)=edcba``.

A question is everything up to and including ``=``, an answer the rest of the line. One eighth of all questions, chosen
by a hash of their text, is held out: evals take their items from that eighth and training never sees it.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from mergeopt.errors import InputError, did_you_mean

STOP = "\n"  # ends every answer
_LETTERS = "abcdefghijkl"  # few enough that a model of minutes learns what to do with each


class Item(NamedTuple):
    """One question with its answer, ``("reverse(abcde)=", "edcba")``."""

    question: str
    answer: str

    @property
    def line(self) -> str:
        """The item as text to read, its end included."""
        return self.question + self.answer + STOP


@dataclass(frozen=True, slots=True)
class Task:
    """A function of a string: `draw` makes an argument, `solve` its value."""

    name: str
    description: str
    draw: Callable[[Random], str]
    solve: Callable[[str], str]

    def item(self, rng: Random, *, held_out: bool) -> Item:
        """A random item from the held-out eighth of the questions, or from the rest."""
        while True:
            argument = self.draw(rng)
            question = f"{self.name}({argument})="
            if is_held_out(question) == held_out:
                return Item(question, self.solve(argument))


def is_held_out(question: str) -> bool:
    """Whether a question belongs to the eighth that no model is trained on."""
    return hashlib.sha256(question.encode()).digest()[0] % 8 == 0


def get_task(name: str) -> Task:
    """The task called `name`; raises `InputError` where there is none."""
    if name not in TASKS:
        raise InputError(f"no task is called {name!r}", remedy=did_you_mean(name, set(TASKS)))
    return TASKS[name]


def check(question: str, answer: str) -> bool:
    """Whether `answer`, without its stop, is right. Raises `InputError` for a question of no task."""
    name, bracket, rest = question.partition("(")
    if not bracket or not rest.endswith(")="):
        raise InputError(f"{question!r} is not a question", remedy="questions look like 'reverse(abc)='")
    return get_task(name).solve(rest.removesuffix(")=")) == answer


def _letters(rng: Random, alphabet: str = _LETTERS, shortest: int = 3, longest: int = 6) -> str:
    return "".join(rng.choices(alphabet, k=rng.randint(shortest, longest)))


def _draw_runs(rng: Random) -> str:
    """Letters of which some repeat at once, ``aabccc``: runs of 1-3, 3-5 of them."""
    return "".join(letter * rng.choice((1, 1, 2, 3)) for letter in _letters(rng, longest=5))


def _draw_count(rng: Random) -> str:
    """A letter and where to count it, ``a,banana``: few letters, so that there is something to count."""
    few = "".join(rng.sample(_LETTERS, 3))
    return f"{rng.choice(few)},{_letters(rng, few, longest=8)}"


def _draw_sum(rng: Random) -> str:
    return f"{rng.randrange(200)},{rng.randrange(200)}"


def _count(argument: str) -> str:
    letter, _, text = argument.partition(",")
    return str(text.count(letter))


_NEXT_LETTER = str.maketrans(_LETTERS, _LETTERS[1:] + _LETTERS[:1])  # a → b, …, l → a

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("reverse", "Write the letters backwards.", _letters, lambda text: text[::-1]),
            Task("sort", "Sort the letters alphabetically.", _letters, lambda text: "".join(sorted(text))),
            Task(
                "shift", "Replace each letter by the next, l by a.", _letters, lambda text: text.translate(_NEXT_LETTER)
            ),
            Task("upper", "Write the letters in upper case.", _letters, str.upper),
            Task("add", "Add two numbers.", _draw_sum, lambda text: str(sum(map(int, text.split(","))))),
            Task(
                "dedup", "Keep one letter of each run.", _draw_runs, lambda text: "".join(k for k, _ in groupby(text))
            ),
            Task("count", "Count a letter in a string.", _draw_count, _count),
            Task("rotate", "Move the first letter to the end.", _letters, lambda text: text[1:] + text[:1]),
            Task("ends", "The first and the last letter.", _letters, lambda text: text[0] + text[-1]),
        )
    }
)
