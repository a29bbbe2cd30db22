"""Every registered optimizer keeps the promises of the seam."""

import pytest

from mergeopt.optimizers import OPTIMIZERS
from mergeopt.optimizers.conformance import OptimizerConformance

QUICK = sorted(OPTIMIZERS.keys() - {"gp"})


@pytest.mark.parametrize("name", QUICK, scope="class")
class TestOptimizer(OptimizerConformance):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name
