"""What every optimizer must do, as tests that a new one gets for free.

Subclass `OptimizerConformance` in a test file and set `name`, or parametrise it over `OPTIMIZERS`:

    class TestMine(OptimizerConformance):
        name = "mine"
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from mergeopt.optimizers import Branches, Start, create
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.space.dimension import Dimension

Measure = Callable[[Request], Outcome]

CUBE = tuple(Dimension(f"x{i}", 0.0, 1.5, 0.5) for i in range(3))
LOG = (Dimension("rate", 1e-4, 1.0, 1e-2, log=True), Dimension("weight", -1.0, 1.0, 0.0))
BATCH = 4


def measured(request: Request, value: float | None, violation: float = 0.0) -> Outcome:
    """An outcome at the request's point, rounded as a study rounds it; the gradient is not given."""
    point = tuple(float(f"{x:.4g}") for x in request.point)
    objectives = () if value is None else (value, -sum(point))
    return Outcome(request, point, value, violation, objectives=objectives)


def bowl(request: Request) -> Outcome:
    """−|x − optimum|², with the optimum at 1.1, 0.3, 0.9, 1.1, …: smooth, and not at a start, a bound or a level."""
    optimum = (1.1, 0.3, 0.9)
    return measured(request, -math.fsum((x - optimum[i % 3]) ** 2 for i, x in enumerate(request.point)))


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


class OptimizerConformance:
    """One registered optimizer, tested through `create`."""

    name: str
    trials = 24  # of the tests that learn a little
    generations = 5  # of the tests that compare histories; enough to get past the first, unmodelled points
    bowl_trials = 60  # of the test that finds an optimum

    def make(
        self,
        branches: Sequence[Sequence[Dimension]] = (CUBE,),
        *,
        seed: int = 3,
        starts: Sequence[Start] = (),
        trials: int | None = None,
    ) -> Branches:
        return create(self.name, branches, seed=seed, trials=trials or self.trials, starts=starts, batch=BATCH)

    def history(self, optimizer: Branches, measure: Measure, generations: int) -> list[Outcome]:
        return [o for _ in range(generations) for o in generation(optimizer, measure)]

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
        points = [o.request.point for o in self.history(optimizer, bowl, 3)]
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
        assert [o.point for o in one] != [o.point for o in other]

    def test_a_killed_search_is_replayed_by_telling_alone(self) -> None:
        """From every generation, and from the middle of one: what comes after is what would have come."""
        whole = self.history(self.make(), bowl, self.generations)
        for done in range(0, len(whole), BATCH):
            resumed = self.make()
            for outcome in whole[:done]:
                resumed.tell(recorded(outcome))
            assert generation(resumed, bowl) == whole[done : done + BATCH], f"after {done} outcomes"

    def test_a_killed_search_is_replayed_by_asking_again(self) -> None:
        whole = self.history(self.make(), bowl, self.generations)
        resumed = self.make()
        known = {o.request.number: o for o in whole[: 2 * BATCH + 1]}
        again = self.history(resumed, lambda r: known.get(r.number) or bowl(r), self.generations)
        assert again == whole

    def test_branches_are_replayed(self) -> None:
        branches = (CUBE, LOG, ())
        whole = self.history(self.make(branches), bowl, self.generations + 1)
        resumed = self.make(branches)
        for outcome in whole[: 2 * BATCH]:
            resumed.tell(recorded(outcome))
        assert self.history(resumed, bowl, self.generations - 1) == whole[2 * BATCH :]

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
        assert max(o.value for o in outcomes if o.value is not None) > -0.18  # half of the start's

    def test_a_range_without_width(self) -> None:
        fixed = Dimension("fixed", 0.25, 0.25, 0.25)
        outcomes = self.history(self.make(((CUBE[0], fixed),)), bowl, 4)
        assert {o.request.point[1] for o in outcomes} == {0.25}

    def test_log_dimensions_are_searched_by_orders_of_magnitude(self) -> None:
        def measure(request: Request) -> Outcome:
            return measured(request, -(math.log10(request.point[0] / 3e-4) ** 2))

        outcomes = self.history(self.make((LOG,)), measure, self.trials // BATCH)
        assert any(o.request.point[0] < 2e-3 for o in outcomes)  # 0.2 % of a linear range, a third of this one

    def test_the_better_branch_gets_more_trials(self) -> None:
        def measure(request: Request) -> Outcome:
            outcome = bowl(request)
            assert outcome.value is not None
            return measured(request, outcome.value - (0 if request.branch == 1 else 10))

        optimizer = self.make((CUBE, CUBE, CUBE, CUBE), trials=40)
        asked = [o.request.branch for o in self.history(optimizer, measure, 10)]
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
        best = max(o.value for o in outcomes if o.value is not None)
        assert start is not None
        assert best > start / 3
        consensus = optimizer.consensus()
        assert consensus is not None
        centre = bowl(Request(0, consensus[1])).value
        assert centre is not None
        assert centre > start / 2
