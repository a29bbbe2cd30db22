"""The loop: generations, budgets, twins, failures, and replay, of trials and of the gradient's steps."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mergeopt.optimizers import Branches, create
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.fake import FakeOptimizer, FakeStudy
from mergeopt.scoring.base import NonFiniteError, Scores
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.fake import FakeScorer, constant_quality
from mergeopt.scoring.objective import Reference
from mergeopt.space.branch import Branch
from mergeopt.space.dimension import Dimension
from mergeopt.space.levels import Level
from mergeopt.study.events import Event, StepDone, TrialDone
from mergeopt.study.loop import Budget, Loop, Measured
from mergeopt.study.record import Step, StudyRecord, Trial

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


LEVELS = (Level("source", (((0, 1.0), (1, 1.0)),)), Level("tensors", (((0, 1.0),), ((1, 1.0),))))
LESSONS = FakeStudy(np.random.default_rng(0).normal((0.7, 0.4), 0.2, (80, 2)), np.ones(1))


class Learning(World):
    """A world with a smooth loss beside it; dies after so many measurements, or at a point."""

    def __init__(self, stop: int | None = None, nan: Callable[[Request], bool] = lambda request: False) -> None:
        super().__init__()
        self.stop, self.nan, self.numbers = stop, nan, list[int]()

    def measure(self, requests: Sequence[Request]) -> Iterator[Measured]:
        for request in requests:
            if len(self.numbers) == self.stop:
                raise KeyboardInterrupt
            self.numbers.append(request.number)
            if request.split == "search":
                yield Measured(self.score(request))
            elif self.nan(request):
                yield Measured()
            else:
                found = LESSONS(request)
                yield Measured(value=found.value, gradient=found.gradient, items=found.items or {}, tokens=5)


History = tuple[list[Trial], list[Step]]


def learn(
    folder: Path, world: Learning, budget: Budget, *, method: str = "gradient", resume: bool = False
) -> tuple[History, Branches, list[Event]]:
    """The history without its seconds."""
    optimizer = create(
        method, [DIMENSIONS, DIMENSIONS], seed=3, trials=12, batch=3, levels=[LEVELS, LEVELS[1:]], steps=24
    )
    events = list[Event]()
    with opened(folder, resume=resume) as record:
        Loop(optimizer, BRANCHES, world, world.reference, record, batch=3, listener=events.append).run(budget)
        trials = [replace(trial, seconds=0.0) for trial in record.trials]
        return (trials, [replace(step, seconds=0.0) for step in record.steps]), optimizer, events


def test_steps_and_trials_share_their_numbers(tmp_path: Path) -> None:
    (trials, steps), optimizer, events = learn(tmp_path, Learning(), Budget(12))
    assert sorted(one.number for one in [*trials, *steps]) == list(range(len(trials) + len(steps)))
    wants = [step.wants for step in steps]
    assert wants.count(frozenset({"gradient"})) == 48 and wants.count(frozenset({"items"})) >= 6
    assert {step.branch for step in steps} == {"one", "two"}
    assert all(step.gradient and len(step.gradient) == 2 and step.tokens == 5 for step in steps if not step.items)
    assert all(set(step.items) == {"even", "odd"} and step.gradient is None for step in steps if step.items)
    done = [event for event in events if isinstance(event, StepDone)]
    assert [(e.number, e.value, e.gradient) for e in done] == [
        (s.number, s.value, "gradient" in s.wants) for s in steps
    ]
    consensus = optimizer.consensus()
    assert consensus is not None and np.abs(np.array(consensus[1]) - (0.7, 0.4)).max() < 0.1
    assert trials[-1].value is not None and trials[0].value is not None and trials[-1].value > trials[0].value


@pytest.mark.parametrize("method", ["gradient", "auto"])
def test_a_study_with_steps_that_is_killed_anywhere_is_the_same_study(tmp_path: Path, method: str) -> None:
    world = Learning()
    whole, _, _ = learn(tmp_path / "whole", world, Budget(12), method=method)
    count = len(world.numbers)
    assert count > 50
    for stop in [1, 2, 3, 4, 6, *range(9, count, 13), count - 1]:
        cut = tmp_path / f"cut {stop}"
        with pytest.raises(KeyboardInterrupt):
            learn(cut, Learning(stop), Budget(12), method=method)
        again = Learning()
        resumed, _, _ = learn(cut, again, Budget(12), method=method, resume=True)
        assert resumed == whole
        assert len(again.numbers) == count - stop  # nothing is measured twice


@pytest.mark.parametrize(
    ("method", "small"),
    [
        *(("gradient", small) for small in (Budget(1), Budget(2), Budget(3), Budget(12, tokens=700))),
        *(("auto", small) for small in (Budget(2), Budget(5), Budget(8), Budget(12, tokens=30))),
    ],
    ids=str,
)
def test_a_larger_budget_on_resuming_is_the_larger_budget(tmp_path: Path, method: str, small: Budget) -> None:
    """Also where the small one had cut a generation in the middle."""
    whole, _, _ = learn(tmp_path / "whole", Learning(), Budget(12), method=method)
    before, _, _ = learn(tmp_path / "grown", Learning(), small, method=method)
    after, _, _ = learn(tmp_path / "grown", Learning(), Budget(12), method=method, resume=True)
    assert after == whole
    assert len(before[0]) + len(before[1]) < len(whole[0]) + len(whole[1])
    assert len(before[0]) <= small.trials


def test_tokens_of_steps_count(tmp_path: Path) -> None:
    (trials, steps), _, _ = learn(tmp_path, Learning(), Budget(12, tokens=400))
    assert steps and 400 <= sum(one.tokens for one in [*trials, *steps]) < 400 + 3 * 160


def test_steps_that_compute_nan_are_survived(tmp_path: Path) -> None:
    def nan(request: Request) -> bool:
        return "gradient" in request.wants and request.point[0] > 0.6

    (trials, steps), optimizer, events = learn(tmp_path / "a", Learning(nan=nan), Budget(12))
    failed = [step for step in steps if step.value is None]
    assert failed and all(step.gradient is None and step.items == {} for step in failed)
    assert any("the loss or its gradient was not finite; back to the best point" in text for text in optimizer.remarks)
    assert trials and all(trial.state == "complete" for trial in trials)
    assert None in [event.value for event in events if isinstance(event, StepDone)]
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "b", Learning(30, nan), Budget(12))
    assert learn(tmp_path / "b", Learning(nan=nan), Budget(12), resume=True)[0] == (trials, steps)


def test_without_a_loss_anywhere_only_starts_are_tried(tmp_path: Path) -> None:
    (trials, steps), optimizer, _ = learn(tmp_path, Learning(nan=lambda request: True), Budget(12))
    assert [trial.number for trial in trials] == [0, 1] and all(step.value is None for step in steps)
    consensus = optimizer.consensus()
    assert consensus is not None and consensus[1] == (0.5, 0.5)


def test_a_study_of_trials_begun_before_generations_were_recorded_goes_on(tmp_path: Path) -> None:
    whole, _, _ = run(tmp_path / "whole", Spy(POINTS), Budget(7))
    run(tmp_path / "old", Spy(POINTS), Budget(4))
    path = tmp_path / "old" / "log.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in e.items() if k != "generation"}) + "\n" for e in events))
    resumed, world, _ = run(tmp_path / "old", Spy(POINTS), Budget(7), resume=True)
    assert [(t.number, t.params, t.value) for t in resumed] == [(t.number, t.params, t.value) for t in whole]
    assert len(world.measured) == 3
