"""Thresholds without a sort: exactly k elements, the largest, equal ones in index order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergeopt.methods import cutoff as module
from mergeopt.methods.chunks import CHUNK, Chunks, total
from mergeopt.methods.cutoff import cutoffs


def by_sorting(delta: Tensor, k: int) -> Tensor:
    """Mask [n] of the k largest magnitudes; a stable sort keeps equal ones in index order."""
    kept = torch.zeros(delta.numel(), dtype=torch.bool)
    kept[delta.abs().sort(descending=True, stable=True).indices[:k]] = True
    return kept


def found(delta: Tensor, k: int) -> Tensor:
    zero = torch.zeros_like(delta)
    (cutoff,) = cutoffs(Chunks.of([delta], zero), [k])
    return torch.cat([cutoff.keep(delta[s : s + CHUNK], s) for s in range(0, delta.numel(), CHUNK)])


@pytest.fixture(params=["selecting", "histogram"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "histogram":
        monkeypatch.setattr(module, "_SMALL", 0)
    return request.param


@pytest.mark.parametrize("k", [0, 1, 2, 500, 998, 999, 1000])
def test_keeps_the_k_largest(way: str, k: int):
    delta = torch.randn(1000, generator=torch.Generator().manual_seed(k))
    assert torch.equal(found(delta, k), by_sorting(delta, k))


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-40, 1e30]), min_size=1, max_size=40), st.data())
@settings(deadline=None, max_examples=50)
def test_equal_magnitudes_go_in_index_order(values: list[float], data: st.DataObject):
    delta = torch.tensor(values)
    k = data.draw(st.integers(0, len(values)))
    expected = by_sorting(delta, k)
    assert torch.equal(found(delta, k), expected)
    small = module._SMALL
    try:
        module._SMALL = 0
        assert torch.equal(found(delta, k), expected)
    finally:
        module._SMALL = small


def test_bfloat16_deltas_have_many_equals(way: str):
    delta = torch.randn(50_000, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    for k in (1, 12_345, 49_999):
        mask = found(delta, k)
        assert int(mask.sum()) == k and torch.equal(mask, by_sorting(delta, k))


def test_double_precision_keeps_exactly_k(way: str):
    delta = torch.randn(9_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).repeat(3) * (
        1 + 1e-12 * torch.arange(27_000)
    )
    assert int(found(delta, 10_001).sum()) == 10_001


def test_more_than_one_chunk():
    delta = torch.randn(CHUNK + 4097, generator=torch.Generator().manual_seed(1))
    delta[CHUNK - 3 : CHUNK + 3] = 1.0  # equals on both sides of the border
    k = int((delta.abs() > 1.0).sum()) + 4
    mask = found(delta, k)
    assert int(mask.sum()) == k
    assert torch.equal(mask, by_sorting(delta, k))


def test_nan_is_kept_whatever_the_density(way: str):
    delta = torch.tensor([0.1, float("nan"), 3.0, 2.0])
    for k in (0, 1, 3):
        assert bool(found(delta, k)[1])


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
