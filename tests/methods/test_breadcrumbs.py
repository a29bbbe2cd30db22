"""Breadcrumbs by sorting: ranks [bottom, bottom + kept) of the magnitudes, ascending."""

import pytest
import torch
from torch import Tensor

from mergeopt.methods import METHODS, SCHEMAS
from mergeopt.methods import cutoff as module

breadcrumbs, breadcrumbs_ties = METHODS["breadcrumbs"], METHODS["breadcrumbs_ties"]


def by_sorting(delta: Tensor, density: float, gamma: float) -> Tensor:
    """mergekit's rule; of equal magnitudes the first counts as the largest, as everywhere here."""
    n = delta.numel()
    kept, top = int(density * n), int(gamma * n)
    bottom = max(0, n - kept - top)
    ascending = delta.abs().sort(descending=True, stable=True).indices.flip(0)
    mask = torch.zeros(n, dtype=torch.bool)
    mask[ascending[bottom : bottom + kept]] = True
    return delta * mask


@pytest.mark.parametrize("numel", [10, 997, 30_000])
@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("density", [0.001, 0.4, 0.9, 0.995])
@pytest.mark.parametrize("small", [0, 1 << 17])
def test_keeps_the_ranks_it_should(monkeypatch, numel: int, gamma: float, density: float, small: int):
    monkeypatch.setattr(module, "_SMALL", small)
    monkeypatch.setattr(module, "_PIECE", 8)
    delta = torch.randn(numel, generator=torch.Generator().manual_seed(1)).bfloat16().float()  # many are equal
    found = breadcrumbs([delta], torch.zeros(numel), weight=[1.0], density=[density], gamma=[gamma])
    assert torch.equal(found, by_sorting(delta, density, gamma))


@pytest.mark.parametrize(("density", "all_or_none"), [(1.0, 1), (1.5, 1), (0.0, 0), (-1.0, 0)])
def test_ends(density: float, all_or_none: int):
    delta = torch.randn(300, generator=torch.Generator().manual_seed(1))
    for method in (breadcrumbs, breadcrumbs_ties):
        found = method([delta], torch.zeros(300), weight=[1.0], density=[density], gamma=[0.2])
        assert torch.equal(found, delta * all_or_none)


def test_rescaling_restores_the_norm():
    delta = torch.randn(300, generator=torch.Generator().manual_seed(1))
    found = breadcrumbs([delta], torch.zeros(300), weight=[1.0], density=[0.5], rescale=True)
    assert float(found.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-6)


def test_signs_are_elected():
    delta = torch.tensor([1.0, 2.0, 3.0, 400.0])
    other = torch.tensor([-2.0, -1.0, 5.0, -1.0])
    options = {"weight": [1.0, 1.0], "density": [0.75, 1.0], "gamma": [0.25, 0.0]}  # 400 is an outlier
    found = breadcrumbs_ties([delta, other], torch.zeros(4), **options)
    assert found.tolist() == [-2.0, 2.0, 8.0, -1.0]
    assert breadcrumbs([delta, other], torch.zeros(4), **options).tolist() == [-1.0, 1.0, 8.0, -1.0]


def test_defaults():
    for name in ("breadcrumbs", "breadcrumbs_ties"):
        found = {p.name: p.default for p in SCHEMAS[name].parameters.values()}
        assert found.pop("weight") is not None
        assert found == {"density": 1, "gamma": 0.01, "normalize": False, "rescale": False, "lambda": 1}
