"""What the live view says, from events alone."""

from typing import Any

import numpy as np
import pytest

from mergeopt.cli.watch import Watch, duration, screen_lines, sparkline
from mergeopt.scoring.base import EvalScore, Scores
from mergeopt.study.events import Event, Notice, Phase, Scored, StepDone, TrialDone, Written
from mergeopt.study.record import Trial

PHASES = ["references", "lessons", "search", "refine", "select", "report", "write"]
SCORED = Scored("base", "search", Scores("search", {"a": EvalScore("a", "acc", 0.5, np.zeros(40), True)}, 7))


def trial(number: int, value: float | None, best: float | None, **more: Any) -> TrialDone:
    return TrialDone(number, value, best, 2.0, {}, 0.03, 0.03, 1000, **more)


def watching(*events: Event, every: float = 1.0, **changes: Any) -> Watch:
    given = {"numbers": 156, "per_trial": 40, "most_steps": 300, "phases": PHASES, "now": 100.0}
    watch = Watch(**{**given, **changes})
    for i, event in enumerate(events, start=1):
        watch.add(event, 100 + i * every)
    return watch


def shown(watch: Watch, width: int = 80, **options: Any) -> list[str]:
    return [line.plain for line in screen_lines(watch, width, **options)]


SEARCH: list[Event] = [
    Phase("references", 2),
    SCORED,
    SCORED,
    Phase("lessons"),
    Phase("search", 10),
    trial(0, 0.1, 0.1),
    StepDone(1, -0.8, False, 0.1, 50, ""),
    StepDone(2, -0.7, True, 0.5, 50, "blocks"),
    StepDone(3, -0.6, False, 0.1, 50, "blocks"),
    trial(4, 0.4, 0.4),
    trial(5, None, 0.4),
]


def test_a_search_in_five_lines() -> None:
    lines = shown(watching(*SEARCH))
    assert [line.split("  ")[0] for line in lines] == ["references", "trials", "best", "gradient", "used"]
    assert lines[0].endswith("11 s") and "below the tensor" in lines[0]
    assert lines[1].startswith("trials     3 of 10  ━") and lines[1].endswith("about 14 s left")  # 7 trials of 2 s
    assert lines[2] == "best       .400 ± .030  1 failed   ▁██"
    assert lines[3].startswith("gradient   step 1 of at most 300, by blocks, held-out loss 0.600 (first 0.800)")
    assert lines[4] == "used       3,150 tokens, 200 items (40 a trial), 156 numbers"


@pytest.mark.parametrize("width", [20, 40, 80, 120, 300])
@pytest.mark.parametrize("count", range(len(SEARCH) + 1))
def test_every_line_fits(width: int, count: int) -> None:
    lines = shown(watching(*SEARCH[:count]), width)
    assert 2 <= len(lines) <= 5 and all(len(line) <= width for line in lines)


def test_a_terminal_that_knows_no_blocks() -> None:
    assert all(line.isascii() for line in shown(watching(*SEARCH[:8]), ascii_only=True) if "±" not in line)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "starting   at work"),
        ([Phase("lessons")], "lessons    at work"),
        ([Phase("search", None), trial(0, 0.1, 0.1)], "trials     1 so far"),
        ([Phase("references", 4), SCORED], "references 1 of 4  ━━━"),
        ([Phase("refine", 40), StepDone(10, -0.5, True, 0.1)], "refining   10 of 40  ━━━"),
        ([Phase("write", 2_000_000_000), Written(500_000_000)], "write      0.5 of 2.0 GB  ━━━"),
    ],
)
def test_every_phase(events: list[Event], said: str) -> None:
    assert shown(watching(*events))[1].startswith(said)


def test_what_is_left() -> None:
    assert watching(Phase("references", 4), SCORED).left() == 3.0  # one in a second
    assert watching(Phase("references", 4)).left() is None
    assert watching(Phase("search", 10)).left() is None
    learning = watching(Phase("search", 10), trial(0, 0.1, 0.1), StepDone(1, -1.0, True, 0.5))
    assert learning.left() == 9 * 2.0 + 299 * 0.5  # as many steps as there may be
    assert watching(Phase("write", 100), Written(100)).left() == 0


def test_a_resumed_study_goes_on_counting() -> None:
    watch = watching()
    tried = [
        Trial(0, "", {}, 0.5, tokens=10, error=0.1),
        Trial(1, "", {}, 0.9, violation=0.2, tokens=10, error=0.1),
        Trial(2, "", {}, None, tokens=10, state="failed"),
    ]
    watch.recall(tried, [])
    assert (watch.trials, watch.failed, watch.best, watch.best_error) == (3, 1, 0.5, 0.1)
    assert (watch.tokens, watch.items, watch.curve) == (30, 120, [0.5, 0.5, 0.5])
    watch.add(Phase("search", 10), 101)
    watch.add(trial(3, 0.7, 0.7), 102)
    assert shown(watch)[1].startswith("trials     4 of 10")
    assert shown(watching(Notice("x"), Phase("search", 3), trial(0, 0.1, None)))[2].endswith(
        "no trial keeps every constraint yet"
    )


def test_sparklines_and_durations() -> None:
    assert sparkline([0.0, 1.0], 8) == "▁█" and sparkline([3.0], 8) == "▁"
    assert sparkline(list(range(80)), 8) == "▁▂▃▄▅▆▇█"
    assert [duration(s) for s in (0.4, 59.9, 65, 7800)] == ["0 s", "59 s", "1 min 05 s", "2 h 10 min"]
