"""What every optimizer must do, as tests that a new one gets for free.

Subclass `OptimizerConformance` in a test file and set `name`, or parametrise it over `OPTIMIZERS`:

    class TestMine(OptimizerConformance):
        name = "mine"

With `learns`, gradients can be asked for: of bowls around many optima, from noisy mini-batches (`FakeStudy`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mergeopt.optimizers import Branches, Start, create
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.fake import FakeStudy
from mergeopt.space.dimension import Dimension
from mergeopt.space.levels import Level

Measure = Callable[[Request], Outcome]

CUBE = tuple(Dimension(f"x{i}", 0.0, 1.5, 0.5) for i in range(3))
LOG = (Dimension("rate", 1e-4, 1.0, 1e-2, log=True), Dimension("weight", -1.0, 1.0, 0.0))
BATCH = 4


def measured(request: Request, value: float | None, violation: float = 0.0) -> Outcome:
    """An outcome at the request's point, rounded as a study rounds it; the gradient is not given."""
    point = tuple(float(f"{x:.4g}") for x in request.point)
    objectives = () if value is None else (value, -sum(point))
    return Outcome(request, point, value, violation, objectives=objectives)


OPTIMUM = (1.1, 0.3, 0.9)  # and so on: not at a start, a bound or a level


def bowl(request: Request) -> Outcome:
    """−|x − optimum|²"""
    return measured(request, -math.fsum((x - OPTIMUM[i % 3]) ** 2 for i, x in enumerate(request.point)))


def lessons(measure: Measure) -> Measure:
    """Trials by `measure`; on the calibrate split 64 lessons whose own optima lie around the bowl's."""

    def answer(request: Request) -> Outcome:
        if request.split == "search":
            return measure(request)
        optimum = [OPTIMUM[i % 3] for i in range(len(request.point))]
        optima = np.random.default_rng(0).normal(optimum, 0.3, (64, len(optimum)))
        return FakeStudy(optima, np.ones(1))(request)

    return answer


def levels_of(dimensions: Sequence[Dimension]) -> list[Level]:
    """All together, then each alone."""
    together = Level("source", (tuple((i, 1.0) for i in range(len(dimensions))),))
    return [together, Level("tensors", tuple(((i, 1.0),) for i in range(len(dimensions))))] if dimensions else []


def recorded(outcome: Outcome) -> Outcome:
    """The outcome as a record gives it back: the point that was asked for is forgotten, the evaluated one is known."""
    return replace(outcome, request=replace(outcome.request, point=outcome.point))


def generation(optimizer: Branches, measure: Measure, batch: int = BATCH) -> list[Outcome]:
    """Asks for a batch, measures it, tells it all: what a study does; fewer than `batch` at the end of a grid."""
    requests = [r for r in (optimizer.ask() for _ in range(batch)) if r is not None]
    outcomes = [measure(request) for request in requests]
    for outcome in outcomes:
        optimizer.tell(outcome)
    return outcomes


def trials_of(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those of split "search"."""
    return [o for o in outcomes if o.request.split == "search"]


class OptimizerConformance:
    """One registered optimizer, tested through `create`."""

    name: str
    trials = 24  # of the tests that learn a little
    generations = 5  # of the tests that compare histories; enough to get past the first, unmodelled points
    bowl_trials = 60  # of the test that finds an optimum
    learns = False
    steps = 40
    seeded = True  # whether proposals depend on the seed

    def make(
        self,
        branches: Sequence[Sequence[Dimension]] = (CUBE,),
        *,
        seed: int = 3,
        starts: Sequence[Start] = (),
        trials: int | None = None,
    ) -> Branches:
        levels = [levels_of(dimensions) for dimensions in branches] if self.learns else None
        return create(
            self.name,
            branches,
            seed=seed,
            trials=trials or self.trials,
            starts=starts,
            batch=BATCH,
            levels=levels,
            steps=self.steps,
        )

    def history(self, optimizer: Branches, measure: Measure, generations: int) -> list[Outcome]:
        """What was measured in so many generations of trials; what is asked beside trials is for free."""
        trials, out = 0, []
        while trials < generations * BATCH:
            outcomes = generation(optimizer, lessons(measure), BATCH)
            if not outcomes:
                break
            trials += len(trials_of(outcomes))
            out += outcomes
        return out

    def test_numbers_bounds_and_branches(self) -> None:
        branches = (CUBE, LOG)
        outcomes = self.history(self.make(branches), bowl, self.generations)
        assert [o.request.number for o in outcomes] == list(range(len(outcomes)))
        for outcome in outcomes:
            dimensions = branches[outcome.request.branch]
            assert len(outcome.request.point) == len(dimensions)
            assert all(d.low <= x <= d.high for d, x in zip(dimensions, outcome.request.point, strict=True))

    def test_starts_first_then_init_and_no_point_twice(self) -> None:
        known, init = (0.2, 0.4, 0.6), tuple(d.init for d in CUBE)
        optimizer = self.make(starts=[Start(0, known), Start(0, known), Start(0, init)])
        points = [o.request.point for o in trials_of(self.history(optimizer, bowl, 3))]
        assert points[:2] == [known, init]
        assert len(set(points)) == len(points)

    def test_starts_of_several_branches_keep_their_order(self) -> None:
        optimizer = self.make((CUBE, LOG), starts=[Start(1, (0.1, 0.5)), Start(0, (0.2, 0.4, 0.6))])
        first = [o.request for o in generation(optimizer, bowl)]
        assert [(r.branch, r.point) for r in first] == [
            (1, (0.1, 0.5)),
            (0, (0.2, 0.4, 0.6)),
            (0, (0.5, 0.5, 0.5)),
            (1, (0.01, 0.0)),
        ]

    def test_same_seed_same_history_other_seed_another(self) -> None:
        one, two, other = (self.history(self.make(seed=s), bowl, self.generations) for s in (3, 3, 4))
        assert one == two
        assert ([o.point for o in one] != [o.point for o in other]) is self.seeded

    def test_a_killed_search_is_replayed_by_telling_alone(self) -> None:
        """From every generation, and from the middle of one: what comes after is what would have come."""
        unbroken, measure = self.make(), lessons(bowl)
        whole: list[Outcome] = []
        while len(trials_of(whole)) < self.generations * BATCH:
            resumed = self.make()
            for outcome in whole:
                resumed.tell(recorded(outcome))
            new = generation(unbroken, measure)
            assert generation(resumed, measure) == new, f"after {len(whole)} outcomes"
            if not new:
                break
            whole += new

    def test_a_killed_search_is_replayed_by_asking_again(self) -> None:
        whole = self.history(self.make(), bowl, self.generations)
        resumed = self.make()
        known = {o.request.number: o for o in whole[: 2 * BATCH + 1]}
        again: list[Outcome] = []
        while len(again) < len(whole):
            again += generation(resumed, lambda r: known.get(r.number) or lessons(bowl)(r))
        assert again == whole

    def test_branches_are_replayed(self) -> None:
        branches = (CUBE, LOG, ())
        unbroken, resumed = self.make(branches), self.make(branches)
        for _ in range(2 * BATCH):
            for outcome in generation(unbroken, lessons(bowl)):
                resumed.tell(recorded(outcome))
        assert self.history(resumed, bowl, 1) == self.history(unbroken, bowl, 1)

    def test_failures_and_violations_are_survived(self) -> None:
        def measure(request: Request) -> Outcome:
            kind = request.number % 3
            value = (None, 1.0, math.nan)[kind]
            return measured(request, value, violation=0.5 if kind == 1 else 0.0)

        optimizer = self.make()
        outcomes = self.history(optimizer, measure, self.generations)
        assert outcomes
        assert all(math.isfinite(x) for o in outcomes for x in o.request.point)

    def test_all_trials_failed(self) -> None:
        optimizer = self.make()
        assert self.history(optimizer, lambda r: measured(r, None), 4)
        assert optimizer.consensus() is None

    def test_infeasible_points_do_not_win(self) -> None:
        """High values lie where the constraint x₀ ≤ 0.7 is broken: the consensus must not."""

        def measure(request: Request) -> Outcome:
            x = request.point[0]
            return measured(request, x, violation=max(0.0, x - 0.7))

        optimizer = self.make()
        self.history(optimizer, measure, self.trials // BATCH)
        consensus = optimizer.consensus()
        assert consensus is not None
        assert consensus[1][0] <= 0.85  # the mean of a Gaussian may stand a little over the edge

    def test_no_dimensions_are_measured_once(self) -> None:
        optimizer = self.make(((),))
        assert [o.request.point for o in self.history(optimizer, bowl, 2)] == [()]
        assert optimizer.ask() is None

    def test_one_dimension(self) -> None:
        optimizer = self.make((CUBE[:1],), trials=12)
        outcomes = self.history(optimizer, bowl, 3)
        assert max(o.value for o in trials_of(outcomes) if o.value is not None) > -0.18  # half of the start's

    def test_a_range_without_width(self) -> None:
        fixed = Dimension("fixed", 0.25, 0.25, 0.25)
        outcomes = self.history(self.make(((CUBE[0], fixed),)), bowl, 4)
        assert {o.request.point[1] for o in outcomes} == {0.25}

    def test_what_is_learned_from_is_no_trial(self) -> None:
        """Losses of the calibrate split, however high, are not compared with trials; and only `learns` asks for any."""

        def measure(request: Request) -> Outcome:
            outcome = lessons(bowl)(request)
            assert outcome.value is not None
            return replace(outcome, value=outcome.value + (0 if request.split == "search" else 1000))

        one, other = self.make(), self.make()
        outcomes, shifted = [], []
        for _ in range(self.steps if self.learns else 3):
            outcomes += generation(one, lessons(bowl))
            shifted += generation(other, measure)
        assert [o.request for o in outcomes] == [o.request for o in shifted]
        assert one.consensus() == other.consensus() is not None
        wanted = {(o.request.split, *o.request.wants) for o in outcomes}
        learned = {("calibrate", "items"), ("calibrate", "gradient")} if self.learns else set()
        assert wanted == {("search", "value"), *learned}

    def test_log_dimensions_are_searched_by_orders_of_magnitude(self) -> None:
        def measure(request: Request) -> Outcome:
            return measured(request, -(math.log10(request.point[0] / 3e-4) ** 2))

        outcomes = self.history(self.make((LOG,)), measure, self.trials // BATCH)
        if self.learns:  # the lessons' optimum is at 1.1, beyond the range, and 0.3
            assert max(o.request.point[0] for o in outcomes) > 0.2
            return
        assert any(o.request.point[0] < 2e-3 for o in outcomes)  # 0.2 % of a linear range, a third of this one

    def test_the_better_branch_gets_more_trials(self) -> None:
        def measure(request: Request) -> Outcome:
            outcome = bowl(request)
            assert outcome.value is not None
            return measured(request, outcome.value - (0 if request.branch == 1 else 10))

        optimizer = self.make((CUBE, CUBE, CUBE, CUBE), trials=40)
        asked = [o.request.branch for o in trials_of(self.history(optimizer, measure, 10))]
        assert min(asked.count(i) for i in range(4)) >= 4
        assert max(range(4), key=asked.count) == 1
        consensus = optimizer.consensus()
        assert consensus is not None
        assert consensus[0] == 1

    def test_finds_the_optimum_of_a_bowl(self) -> None:
        """Clearly better than the start: at most a third of its distance², and the consensus is not worse."""
        optimizer = self.make(trials=self.bowl_trials)
        outcomes = self.history(optimizer, bowl, self.bowl_trials // BATCH)
        start = outcomes[0].value
        best = max(o.value for o in trials_of(outcomes) if o.value is not None)
        assert start is not None
        assert best > start / 3
        consensus = optimizer.consensus()
        assert consensus is not None
        centre = bowl(Request(0, consensus[1])).value
        assert centre is not None
        assert centre > start / 2
