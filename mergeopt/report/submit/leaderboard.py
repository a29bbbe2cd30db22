"""The Open LLM Leaderboard's second version, as arithmetic: raw scores of lm-eval's `leaderboard` group to its points.

That leaderboard is closed since 2025; its numbers still compare with published merges. A task scored by choices is
stretched so that guessing is 0 and perfect 100. Where subtasks differ in their number of choices (BBH, MuSR) each is
stretched by its own and the points are averaged; GPQA and MATH are stretched as lm-eval's mean over all their items.
The average is over the six tasks. (Hugging Face, "Scores Normalization"; GPQA and MATH by its published rows.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum

Scores = Mapping[str, Mapping[str, float]]
"""Task -> lm-eval's ``metric,filter`` -> value, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Points:
    """A task of the leaderboard: the raw mean over its subtasks, 0 to 1, and its points, 0 to 100."""

    raw: float
    points: float


# How many answers there are to choose from, per subtask of lm-eval.
CHOICES: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "leaderboard_bbh": {
        2: (
            "boolean_expressions", "causal_judgement", "formal_fallacies", "hyperbaton", "navigate", "snarks",
            "sports_understanding", "web_of_lies",
        ),
        3: ("disambiguation_qa", "logical_deduction_three_objects", "tracking_shuffled_objects_three_objects"),
        4: ("temporal_sequences",),
        5: ("logical_deduction_five_objects", "penguins_in_a_table", "tracking_shuffled_objects_five_objects"),
        6: ("date_understanding", "movie_recommendation", "ruin_names", "salient_translation_error_detection"),
        7: ("logical_deduction_seven_objects", "tracking_shuffled_objects_seven_objects"),
        11: ("geometric_shapes",),
        18: ("reasoning_about_colored_objects",),
        19: ("object_counting",),
    },
    "leaderboard_musr": {2: ("murder_mysteries",), 3: ("team_allocation",), 5: ("object_placements",)},
}  # fmt: skip
TASKS = ("IFEval", "BBH", "MATH Lvl 5", "GPQA", "MUSR", "MMLU-PRO")


def normalised(raw: float, floor: float) -> float:
    """Points of a raw score: 0 up to `floor`, what guessing gives, then evenly up to 100."""
    return 0.0 if raw < floor else (raw - floor) / (1 - floor) * 100


def leaderboard_points(scores: Scores) -> dict[str, Points]:
    """The points of every task of the six that `scores` has whole, in the leaderboard's order."""
    found = {
        "IFEval": _ifeval(scores),
        "BBH": _choices(scores, "leaderboard_bbh"),
        "MATH Lvl 5": _one(scores, "leaderboard_math_hard", "exact_match,none"),
        "GPQA": _one(scores, "leaderboard_gpqa", "acc_norm,none", choices=4),
        "MUSR": _choices(scores, "leaderboard_musr"),
        "MMLU-PRO": _one(scores, "leaderboard_mmlu_pro", "acc,none", choices=10),
    }
    return {name: points for name in TASKS if (points := found[name]) is not None}


def average(points: Mapping[str, Points]) -> float | None:
    """The number that the leaderboard was ordered by: the mean of the six; None where one is missing."""
    return fsum(points[name].points for name in TASKS) / len(TASKS) if points.keys() >= set(TASKS) else None


def _choices(scores: Scores, group: str) -> Points | None:
    parts = [
        _one(scores, f"{group}_{name}", "acc_norm,none", choices=count)
        for count, names in CHOICES[group].items()
        for name in names
    ]
    return _mean(parts)


def _ifeval(scores: Scores) -> Points | None:
    """By prompts and by instructions, strictly judged."""
    kinds = ("prompt_level_strict_acc,none", "inst_level_strict_acc,none")
    return _mean([_one(scores, "leaderboard_ifeval", kind) for kind in kinds])


def _one(scores: Scores, task: str, metric: str, choices: int | None = None) -> Points | None:
    raw = scores.get(task, {}).get(metric)
    if not isinstance(raw, int | float):
        return None
    return Points(raw, normalised(raw, 1 / choices if choices else 0.0))


def _mean(parts: list[Points | None]) -> Points | None:
    whole = [part for part in parts if part is not None]
    if not parts or len(whole) < len(parts):
        return None
    return Points(fsum(p.raw for p in whole) / len(whole), fsum(p.points for p in whole) / len(whole))
