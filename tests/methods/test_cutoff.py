"""Thresholds without a sort: exactly k elements, the largest, equal ones in index order."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergeopt.methods import cutoff as module
from mergeopt.methods.chunks import CHUNK, Chunks
from mergeopt.methods.cutoff import Cutoff, cutoffs

WAYS = ("sorting", "sample", "histogram")


def by_sorting(delta: Tensor, k: int) -> Tensor:
    """Mask [n] of the k largest magnitudes; a stable sort keeps equal ones in index order."""
    kept = torch.zeros(delta.numel(), dtype=torch.bool)
    kept[delta.abs().sort(descending=True, stable=True).indices[:k]] = True
    return kept


def found(delta: Tensor, k: int, way: str | None = None) -> Tensor:
    chunks, small = Chunks.of([delta], torch.zeros_like(delta)), module._SMALL
    if way == "histogram":
        chunks = replace(chunks, part=None)
    try:
        module._SMALL = {"sorting": delta.numel(), None: small}.get(way, 0)
        (cutoff,) = cutoffs(chunks, [k])
    finally:
        module._SMALL = small
    parts = [(delta[s : s + CHUNK], s) for s in range(0, delta.numel(), CHUNK)]
    mask = torch.cat([cutoff.keep(part, s) for part, s in parts])
    trimmed = torch.cat([_trimmed(cutoff, part, s) for part, s in parts])
    assert torch.equal(trimmed, delta * mask) or bool(delta.isnan().any())
    return mask


def _trimmed(cutoff: Cutoff, delta: Tensor, start: int) -> Tensor:
    result = delta.clone()
    cutoff.trim_(result, start)
    return result


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many cutoffs were left to the histograms, call by call."""
    calls: list[int] = []
    original = module._by_histogram
    monkeypatch.setattr(module, "_by_histogram", lambda c, s, t: (calls.append(len(s)), original(c, s, t))[1])
    return calls


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("k", [0, 1, 2, 500, 998, 999, 1000])
def test_keeps_the_k_largest(way: str, k: int):
    delta = torch.randn(1000, generator=torch.Generator().manual_seed(k))
    assert torch.equal(found(delta, k, way), by_sorting(delta, k))


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-40, 1e30]), min_size=1, max_size=40), st.data())
@settings(deadline=None, max_examples=50)
def test_equal_magnitudes_go_in_index_order(values: list[float], data: st.DataObject):
    delta = torch.tensor(values)
    k = data.draw(st.integers(0, len(values)))
    for way in WAYS:
        assert torch.equal(found(delta, k, way), by_sorting(delta, k)), way


def test_bfloat16_deltas_have_many_equals(way: str):
    delta = torch.randn(50_000, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    for k in (1, 12_345, 49_999):
        mask = found(delta, k, way)
        assert int(mask.sum()) == k and torch.equal(mask, by_sorting(delta, k))


def test_double_precision_keeps_exactly_k(way: str):
    delta = torch.randn(9_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).repeat(3) * (
        1 + 1e-12 * torch.arange(27_000)
    )
    assert int(found(delta, 10_001, way).sum()) == 10_001


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
        assert bool(found(delta, k, way)[1])


def test_a_sample_saves_the_histograms(monkeypatch: pytest.MonkeyPatch):
    """Of a tensor that is everywhere alike; sources of one tensor, and several cutoffs of one source, in one pass."""
    calls = counted(monkeypatch)
    deltas = torch.randn(2, 600_000, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    kept, of = [10, 300_000, 599_990, 60_000], [0, 0, 0, 1]
    cuts = cutoffs(Chunks.of(list(deltas), torch.zeros(600_000)), kept, of=of)
    for cut, k, i in zip(cuts, kept, of, strict=True):
        assert torch.equal(cut.keep(deltas[i], 0), by_sorting(deltas[i], k))
    assert calls == [0]


def test_a_sample_that_misleads_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """All that is large lies where no piece of the sample does."""
    calls = counted(monkeypatch)
    monkeypatch.setattr(module, "_PIECE", 64)
    monkeypatch.setattr(module, "_SPREAD", 1)
    delta = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    delta[1000:20_000] += 10
    for k in (5_000, 19_000, 30_000):
        assert torch.equal(found(delta, k, "sample"), by_sorting(delta, k))
    assert calls == [1, 1, 1]


def test_too_many_equal_ones_are_counted_not_kept(monkeypatch: pytest.MonkeyPatch):
    calls = counted(monkeypatch)
    monkeypatch.setattr(module, "_INSIDE", 1000)
    delta = torch.ones(200_000)
    delta[::7] = 2.0
    for k in (100, 20_000, 150_000):
        assert torch.equal(found(delta, k, "sample"), by_sorting(delta, k))
    assert calls == [1, 0, 0]  # where the range is of one number, its count in each chunk is enough


def test_any_stream_has_its_cutoffs():
    """Here that of the product of two tensors, for two shares at once; a stream without a name is not remembered."""
    a, b = (torch.randn(100_077, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    chunks = Chunks.of([a, b], None)
    for name in ("product", None):
        found = cutoffs(chunks, [1000, 50_000], lambda chunk: [chunk.sources[0] * chunk.sources[1]] * 2, name)
        for cutoff, k in zip(found, (1000, 50_000), strict=True):
            assert torch.equal(cutoff.keep(a * b, 0), by_sorting(a * b, k))
    assert "ranked product" in chunks.memo and "ranked None" not in chunks.memo
