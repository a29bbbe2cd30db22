import time
from itertools import pairwise

import pytest
import torch

from mergeopt.methods import draws as module
from mergeopt.methods.draws import Draws

N = 200_000
LIKE = torch.empty(N)


def mask(seed: int = 0, tensor: str = "w", ordinal: int = 0, density: float = 0.5, start: int = 0, n: int = N):
    return Draws(seed, tensor).keep(ordinal, start, LIKE[:n], density)


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_share_kept(density: float):
    spread = (density * (1 - density) / N) ** 0.5
    assert abs(float(mask(density=density).double().mean()) - density) < 5 * spread


@pytest.mark.parametrize("density, share", [(0.0, 0), (1.0, 1), (1.5, 1)])
def test_ends(density: float, share: int):
    assert float(mask(density=density).double().mean()) == share


def test_the_address_is_everything():
    assert torch.equal(mask(), mask())
    for other in (mask(seed=1), mask(tensor="v"), mask(ordinal=1), mask(start=1 << 24), mask(seed=-1)):
        agreement = float((mask() == other).double().mean())
        assert abs(agreement - 0.5) < 5 * 0.5 / N**0.5


def test_neighbours_are_independent():
    bits = mask().double() - 0.5
    for lag in (1, 2, 3, 64, 1024, 4096, 65536):
        correlation = float((bits[lag:] * bits[:-lag]).mean()) * 4
        assert abs(correlation) < 5 / (N - lag) ** 0.5, lag


@pytest.mark.parametrize("density", [0.03, 0.5])
def test_runs_of_kept_elements_have_their_binomial_spread(density: float):
    counts = mask(density=density).double().view(-1, 100).sum(1)
    expected = 100 * density * (1 - density)
    assert float(counts.var()) == pytest.approx(expected, rel=0.12)


def test_any_start_and_length_see_the_same_mask(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_SPAN", 50_000)
    whole = mask(density=0.3)
    for start, stop in ((0, 10), (49_993, 50_009), (5, N), (50_000, 100_000), (100_001, N)):
        assert torch.equal(whole[start:stop], mask(start=start, n=stop - start, density=0.3))


def test_raising_the_density_only_adds():
    masks = [mask(density=d) for d in (0.1, 0.3, 0.30001, 0.8, 1.0)]
    for low, high in pairwise(masks):
        assert bool((high | ~low).all())


def test_these_bits_are_a_promise():
    """Recipes are reproduced from them: a change here is a change of the format."""
    assert mask(seed=42, tensor="model.norm.weight", n=32, density=0.5).int().tolist() == PROMISED


PROMISED = [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]


def test_every_device_has_the_same_bits():
    """The form for other devices, here on the CPU; keys and products beyond the signed range."""
    counters = module._counters(1 << 16, torch.device("cpu"))
    for keys in ((0, 0), (0xDEADBEEF, 0x87654321), (0x7FFFFFFF, 0xFFFFFFFF)):
        found = [torch.empty_like(counters) for _ in range(2)]
        module._hash_numpy(counters.numpy(), *keys, found[0].numpy())
        module._hash_torch(counters, *keys, found[1])
        assert torch.equal(*found)


def test_streams_are_independent():
    """Pairs of 60 streams: of 1,770 agreements the largest and their spread are what chance has."""
    signs = torch.stack([Draws(s, "w").bits(o, first << 16, LIKE[:65536]).sign().double()
                         for s in range(4) for o in range(5) for first in range(3)])  # fmt: skip
    scores = (signs @ signs.T / 256)[tuple(torch.triu_indices(60, 60, 1))]
    assert float(scores.abs().max()) < 5
    assert float(scores.std()) == pytest.approx(1, abs=0.1)


def test_speed(record_property):
    begin = time.perf_counter()
    mask()
    record_property("ns_per_element", (time.perf_counter() - begin) / N * 1e9)
