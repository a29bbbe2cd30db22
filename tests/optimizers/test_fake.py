"""The scripted optimizer keeps to its script."""

from mergeopt.optimizers.base import Optimizer
from mergeopt.optimizers.conformance import measured
from mergeopt.optimizers.fake import FakeOptimizer


def test_it_asks_what_it_was_given_and_remembers_what_it_was_told() -> None:
    fake = FakeOptimizer([(0.1,), (0.2,)], branch=1)
    optimizer: Optimizer = fake
    first = optimizer.ask()
    assert first is not None
    assert (first.number, first.branch, first.point) == (0, 1, (0.1,))
    optimizer.tell(measured(first, 0.5))
    assert optimizer.ask() is not None
    assert optimizer.ask() is None
    assert [o.value for o in fake.told] == [0.5]
