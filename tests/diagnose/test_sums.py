"""Sums against the same numbers computed whole, in float64."""

from math import isnan

import pytest
import torch

from mergeopt.diagnose.sums import TOP, Sums, added

NUMEL = 150_001  # several chunks, and a histogram instead of a sort


@pytest.fixture(scope="module")
def block() -> tuple[torch.Tensor, torch.Tensor]:
    """Three models [3, b] and their base [b]; the first two share half of their deltas."""
    random = torch.Generator().manual_seed(0)
    base = torch.randn(NUMEL, generator=random)
    deltas = 0.01 * torch.randn(3, NUMEL, generator=random)
    deltas[1] = (deltas[0] + deltas[1]) * 2
    return base + deltas, base


def whole(block: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    models, base = block
    return (models - base).double(), base.double()


def test_norms_and_cosines(block: tuple[torch.Tensor, torch.Tensor]) -> None:
    deltas, base = whole(block)
    sums = Sums.of(block[0].clone(), block[1])
    for k in range(3):
        assert sums.norm(k) == pytest.approx(float(deltas[k].norm()), rel=1e-5)
        assert sums.ratio(k) == pytest.approx(float(deltas[k].norm() / base.norm()), rel=1e-5)
        together = torch.cosine_similarity(base + deltas[k], base, dim=0)
        assert sums.alike(k) == pytest.approx(float(together), abs=1e-6)
    assert sums.cosine(0, 1) == pytest.approx(float(torch.cosine_similarity(deltas[0], deltas[1], dim=0)), abs=1e-5)
    assert sums.apart(0, 2) == pytest.approx(float((deltas[0] - deltas[2]).norm()), rel=1e-4)


def test_conflict_and_support_of_the_largest_fifth(block: tuple[torch.Tensor, torch.Tensor]) -> None:
    deltas, _ = whole(block)
    sums = Sums.of(block[0].clone(), block[1])
    count = int(TOP * NUMEL)
    kept = torch.zeros_like(deltas)
    for row, delta in zip(kept, deltas, strict=True):
        row[delta.abs().topk(count).indices] = 1
    for i, j in ((0, 1), (0, 2)):
        product = deltas[i] * deltas[j] * kept[i] * kept[j]
        conflict = float(-product[product < 0].sum() / product.abs().sum())
        assert sums.conflict(i, j) == pytest.approx(conflict, abs=1e-5)
        assert sums.support(i, j) == pytest.approx(float((kept[i] * kept[j]).sum() / count), abs=1e-5)
    assert sums.conflict(0, 1) < 0.1 and sums.conflict(0, 2) == pytest.approx(0.5, abs=0.05)


def test_sums_add(block: tuple[torch.Tensor, torch.Tensor]) -> None:
    models, base = block
    halves = [Sums.of(models[:, part].clone(), base[part]) for part in (slice(0, 70_000), slice(70_000, None))]
    both, whole_ = added(halves, 3), Sums.of(models.clone(), base)
    assert both.numel == NUMEL
    torch.testing.assert_close(both.gram, whole_.gram, rtol=1e-5, atol=1e-3)
    assert both.conflict(0, 2) == pytest.approx(whole_.conflict(0, 2), abs=1e-2)  # thresholds are of the halves


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    base = torch.ones(100)
    models = torch.ones(2, 100)
    models[0, :3] = torch.tensor([float("nan"), float("inf"), 2.0])
    sums = Sums.of(models, base)
    assert sums.broken.tolist() == [2, 0, 0]
    assert sums.norm(0) == 1 and sums.unchanged(1) == 1 and sums.unchanged(0) == 0.99


def test_without_deltas_nothing_is_said() -> None:
    sums = Sums.of(torch.ones(2, 10), torch.ones(10))
    assert all(map(isnan, (sums.cosine(0, 1), sums.conflict(0, 1))))
    assert sums.ratio(0) == 0 and sums.alike(0) == 1
