"""Every registered optimizer keeps the promises of the seam."""

import pytest

from mergeopt.optimizers import OPTIMIZERS
from mergeopt.optimizers.conformance import CUBE, OptimizerConformance, bowl, measured

SLOW = {"gp", "auto"}  # a tenth of a second and more per proposal; `auto` is GP for budgets this small


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - SLOW - {"gradient"}), scope="class")
class TestOptimizer(OptimizerConformance):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() & SLOW), scope="class")
class TestSlowOptimizer(OptimizerConformance):
    trials = 16
    generations = 3
    bowl_trials = 20

    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name


class TestGradient(OptimizerConformance):
    name = "gradient"
    learns = True
    seeded = False  # the mini-batches are the study's

    def test_the_better_branch_gets_more_trials(self) -> None:
        """It ends by itself: every branch is learned and tried, and the best one believed."""
        optimizer = self.make((CUBE, CUBE, CUBE), trials=40)
        outcomes = self.history(
            optimizer, lambda r: measured(r, (bowl(r).value or 0) - 10 * (r.branch != 1)), generations=10
        )
        assert {o.request.branch for o in outcomes if "gradient" in o.request.wants} == {0, 1, 2}
        consensus = optimizer.consensus()
        assert consensus is not None
        assert consensus[0] == 1


class TestAutoWithGradient(OptimizerConformance):
    name = "auto"
    learns = True
    trials = bowl_trials = 80  # above 64 the black box is CMA-ES, which is fast
