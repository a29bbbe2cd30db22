"""Masks that are kept are the masks that would be found again."""

import pytest
import torch
from torch import Tensor

from mergeopt.methods import dropping as module
from mergeopt.methods.chunks import Chunks
from mergeopt.methods.draws import Draws
from mergeopt.methods.dropping import Drop, dropped

BASE, SOURCE = (torch.randn(5000, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
DENSITY = torch.tensor([0.4, 1.0], dtype=torch.float64)


def mask(i: int, x: Tensor, start: int) -> Tensor | None:
    return Draws(1, "w").keep(i, start, x, 0.4) if i == 0 else None


def drop() -> Drop:
    return dropped(Chunks.of([SOURCE, -SOURCE], BASE), DENSITY, True, mask)


@pytest.mark.parametrize("start", [0, 8, 1003])
def test_kept_masks_are_the_masks(monkeypatch: pytest.MonkeyPatch, start: int):
    known = drop()
    monkeypatch.setattr(module, "_KEPT", 0)
    found = drop()
    assert known.masks[0] is not None and found.masks == [None, None]
    assert torch.equal(known.factors, found.factors)
    parts = [SOURCE[start : start + 999], -SOURCE[start : start + 999]]
    ground = BASE[start : start + 999]
    kept = known.kept(parts, ground, start, mask)
    assert torch.equal(kept, found.kept(parts, ground, start, mask))
    expected = (parts[0] - ground) * Draws(1, "w").keep(0, start, ground, 0.4)
    assert torch.equal(kept[0], expected) and torch.equal(kept[1], parts[1] - ground)


def test_factors_restore_the_norm():
    delta = SOURCE - BASE
    left = (delta * Draws(1, "w").keep(0, 0, delta, 0.4)).abs().double().sum()
    assert float(drop().factors[0]) == pytest.approx(float(delta.abs().double().sum() / left), rel=1e-8)
    assert drop().factors[1] == 1
