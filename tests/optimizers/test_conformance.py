"""Every registered optimizer keeps the promises of the seam."""

import pytest

from mergeopt.optimizers import OPTIMIZERS
from mergeopt.optimizers.conformance import OptimizerConformance

SLOW = {"gp", "auto"}  # a tenth of a second and more per proposal; `auto` is GP for budgets this small


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - SLOW), scope="class")
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
