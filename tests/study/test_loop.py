"""The loop: generations, budgets, twins, failures, and replay."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mergeopt.optimizers import create
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.fake import FakeOptimizer
from mergeopt.scoring.base import NonFiniteError, Scores
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.fake import FakeScorer, constant_quality
from mergeopt.scoring.objective import Reference
from mergeopt.space.branch import Branch
from mergeopt.space.dimension import Dimension
from mergeopt.study.events import Event, TrialDone
from mergeopt.study.loop import Budget, Loop, Measured
from mergeopt.study.record import StudyRecord, Trial

DIMENSIONS = (Dimension("x", 0.0, 1.0, 0.5), Dimension("y", 0.0, 1.0, 0.5))
BRANCHES = tuple(Branch(name, DIMENSIONS, None, None, {}) for name in ("one", "two"))  # type: ignore[arg-type]
ENTRIES = {"a": ObjectiveEntry(eval="a"), "b": ObjectiveEntry(eval="b", at_least=0.2)}


class World:
    """Models whose two qualities are their coordinates; x above 0.9 computes NaN."""

    def __init__(self) -> None:
        self.point = (0.0, 0.0)
        self.measured: list[tuple[int, tuple[float, ...]]] = []
        self.scorer = FakeScorer({"a": lambda: self.point[0], "b": lambda: self.point[1]}, entries=ENTRIES)
        parents = FakeScorer(constant_quality({"a": 0.5, "b": 0.5}), entries=ENTRIES)
        base = FakeScorer(constant_quality({"a": 0.0, "b": 0.5}), entries=ENTRIES)
        self.reference = Reference(self.scorer.evals, base.score("search"), {"p": parents.score("search")})

    def measure(self, requests: Sequence[Request]) -> Iterator[Measured]:
        for request in requests:
            yield Measured(self.score(request))

    def score(self, request: Request) -> Scores | None:
        point = request.point
        self.measured.append((request.branch, point))
        self.point = (float("nan") if point[0] > 0.9 else point[0], point[1])
        try:
            return self.scorer.score("search")
        except NonFiniteError:
            return None


class Spy(FakeOptimizer):
    """Remembers how many outcomes it knew at each ask."""

    def __init__(self, points: list[tuple[float, float]]) -> None:
        super().__init__(points)
        self.known: list[int] = []

    def ask(self) -> Request | None:
        self.known.append(len(self.told))
        return super().ask()


def opened(folder: Path, *, resume: bool = False) -> StudyRecord:
    space = {branch.name: branch.dimensions for branch in BRANCHES}
    return (StudyRecord.resume if resume else StudyRecord.create)(folder, space=space, identity={})


def run(
    folder: Path, optimizer: FakeOptimizer, budget: Budget, *, batch: int = 2, resume: bool = False
) -> tuple[list[Trial], World, list[Event]]:
    world, events = World(), list[Event]()
    with opened(folder, resume=resume) as record:
        loop = Loop(optimizer, BRANCHES, world, world.reference, record, batch=batch, listener=events.append)
        return loop.run(budget), world, events


POINTS = [(0.1, 0.5), (0.4, 0.5), (0.95, 0.5), (0.4, 0.5), (0.8, 0.1), (0.6, 0.6), (0.2, 0.2)]


def told(optimizer: FakeOptimizer) -> list[Outcome]:
    assert [o.request.number for o in optimizer.told] == list(range(len(optimizer.told)))
    return optimizer.told


def test_every_outcome_is_told_in_order(tmp_path: Path) -> None:
    optimizer = Spy(POINTS)
    trials, _, events = run(tmp_path, optimizer, Budget(7))
    assert [t.number for t in trials] == list(range(7))
    assert optimizer.known == [0, 0, 2, 2, 4, 4, 6]  # nobody hears of half a generation
    outcomes = told(optimizer)
    assert [o.point for o in outcomes] == POINTS
    assert outcomes[2].value is None and trials[2].state == "failed"
    assert outcomes[4].violation > 0 and outcomes[5].violation == 0
    assert outcomes[5].value == max(o.value for o in outcomes if o.value is not None and not o.violation)
    assert len(outcomes[0].objectives) == 1  # the constraint is no objective
    assert len(trials[0].items["a"]) == 80
    done = [event for event in events if isinstance(event, TrialDone)]
    assert [event.number for event in done] == list(range(7))
    assert done[2].value is None
    assert [event.best for event in done][-3:] == [trials[1].value, trials[5].value, trials[5].value]


def test_a_twin_is_not_measured_again(tmp_path: Path) -> None:
    trials, world, _ = run(tmp_path, Spy(POINTS), Budget(7))
    assert [point for _, point in world.measured] == [p for i, p in enumerate(POINTS) if i != 3]
    assert trials[3].value == trials[1].value and (trials[3].number, trials[3].tokens) == (3, 0)


def test_points_are_rounded_before_they_are_measured(tmp_path: Path) -> None:
    optimizer = Spy([(1 / 3, 2 / 3), (0.33330001, 0.66669999)])
    trials, world, _ = run(tmp_path, optimizer, Budget(2))
    assert world.measured == [(0, (0.3333, 0.6667))]
    assert trials[1].params == {"x": 0.3333, "y": 0.6667} == trials[0].params
    assert told(optimizer)[0].point == (0.3333, 0.6667)


def test_equal_points_of_two_branches_are_two_models(tmp_path: Path) -> None:
    class Both(FakeOptimizer):
        def ask(self) -> Request | None:
            asked = super().ask()
            return asked and Request(asked.number, asked.point, asked.number % 2)

    _, world, _ = run(tmp_path, Both([(0.5, 0.5)] * 2), Budget(2))
    assert world.measured == [(0, (0.5, 0.5)), (1, (0.5, 0.5))]


@pytest.mark.parametrize(
    ("budget", "count"),
    [
        (Budget(0), 0),
        (Budget(3), 3),
        (Budget(99), 7),  # nothing left to propose
        (Budget(99, tokens=1), 2),
        (Budget(99, tokens=161), 2),  # 160 a trial: used up within the generation
        (Budget(99, tokens=321), 6),  # the failed one and the twin cost nothing
        (Budget(99, seconds=1e-9), 2),
    ],
)
def test_budgets_end_at_a_generation(tmp_path: Path, budget: Budget, count: int) -> None:
    trials, _, _ = run(tmp_path, Spy(POINTS), budget)
    assert len(trials) == count


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_resumed_study_repeats_nothing_and_differs_in_nothing(tmp_path: Path, stop: int) -> None:
    whole, _, _ = run(tmp_path / "whole", Spy(POINTS), Budget(7))

    class Killed(World):
        def score(self, request: Request) -> Scores | None:
            if len(self.measured) == stop:
                raise KeyboardInterrupt
            return super().score(request)

    world = Killed()
    with opened(tmp_path / "cut") as record, pytest.raises(KeyboardInterrupt):
        Loop(Spy(POINTS), BRANCHES, world, world.reference, record, batch=2, listener=lambda e: None).run(Budget(7))
    optimizer = Spy(POINTS)
    resumed, again, _ = run(tmp_path / "cut", optimizer, Budget(7), resume=True)
    assert len(world.measured) + len(again.measured) == 6  # seven trials, one twin, none measured twice
    assert [(t.number, t.params, t.value, t.items) for t in resumed] == [
        (t.number, t.params, t.value, t.items) for t in whole
    ]
    assert [o.point for o in told(optimizer)] == POINTS


@pytest.mark.parametrize("method", ["cmaes", "tpe", "nsga2", "random"])
def test_real_optimizers_resume_exactly(tmp_path: Path, method: str) -> None:
    def study(folder: Path, trials: int, *, resume: bool = False) -> list[tuple[int, str, float | None, float]]:
        optimizer = create(method, [DIMENSIONS, DIMENSIONS], seed=3, trials=24, batch=4)
        found, _, _ = run(folder, optimizer, Budget(trials), batch=4, resume=resume)  # type: ignore[arg-type]
        return [(t.number, t.branch, t.value, t.params["x"]) for t in found]

    whole = study(tmp_path / "whole", 24)
    study(tmp_path / "cut", 10)
    assert study(tmp_path / "cut", 24, resume=True) == whole
    assert len({branch for _, branch, _, _ in whole}) == 2
