"""Sums over a tensor that do not depend on who makes them."""

import pytest
import torch

from mergeopt.methods.chunks import CHUNK, row_totals, total, totals


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


@pytest.mark.parametrize("row", [1, 7, 1024, 2500])
def test_row_totals_do_not_depend_on_threads(row: int):
    x = torch.randn(40 * row, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    try:
        sums = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            sums.append(row_totals(x, row))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])
    assert torch.allclose(sums[0], x.double().view(-1, row).sum(1))


@pytest.mark.parametrize("length", [3, 1024, 40 * 1024 + 17])
def test_totals_of_magnitudes_are_exact_enough_and_do_not_depend_on_threads(length: int):
    x = torch.randn(3, length, generator=torch.Generator().manual_seed(0)).abs()
    threads = torch.get_num_threads()
    try:
        sums = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            sums.append(totals(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])
    assert torch.allclose(sums[0], x.double().sum(1), rtol=1e-8, atol=0)
