"""Every registered method keeps the promises of the seam."""

import pytest

from mergeopt.methods import METHODS
from mergeopt.methods.conformance import MethodConformance


@pytest.mark.parametrize("name", sorted(METHODS), scope="class")
class TestMethod(MethodConformance):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name
