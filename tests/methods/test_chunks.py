"""Sums over a tensor that do not depend on who makes them."""

import pytest
import torch

from mergeopt.methods.chunks import CHUNK, total


def test_total_does_not_depend_on_threads():
    x = torch.randn(CHUNK - 5, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    try:
        sums = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            sums.append(total(x))
        assert len({float(s) for s in sums}) == 1
    finally:
        torch.set_num_threads(threads)
    assert float(sums[0]) == pytest.approx(float(x.double().sum()), abs=1e-9)
    assert float(total(torch.empty(0))) == 0
