"""The one reading: places, blocks, threads."""

from pathlib import Path

import pytest
import torch

from mergeopt.diagnose import weights
from mergeopt.diagnose.subjects import Place
from mergeopt.diagnose.weights import bytes_to_read, read_sums
from tests.conftest import read_weights
from tests.diagnose.conftest import opened


def test_every_place_has_its_sums(zoo: Path) -> None:
    found = read_sums(opened("a", "b"))
    assert {place.part for place in found.places} == {"embed", "attention", "mlp", "norm"}
    assert Place("norm", None) in found.places and Place("mlp", 3) in found.places
    assert found.whole.numel == sum(t.numel() for t in read_weights(Path("a")).values())
    base, a = read_weights(Path("base")), read_weights(Path("a"))
    names = [name for name in base if ".1.mlp." in name]
    size = sum(float((a[name] - base[name]).double().square().sum()) for name in names) ** 0.5
    assert found.places[Place("mlp", 1)].norm(0) == pytest.approx(size, rel=1e-5)
    assert sum(sums.numel for sums in found.layers.values()) == found.whole.numel - 2 * 32 * 16 - 16


def test_the_same_numbers_with_any_number_of_threads(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK", 100)
    one = read_sums(opened("a", "b")).whole
    torch.set_num_threads(3)
    try:
        three = read_sums(opened("a", "b")).whole
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one.gram, three.gram) and torch.equal(one.top, three.top)


def test_everything_is_read_once(zoo: Path) -> None:
    told: list[int] = []
    read_sums(opened("a", "b"), told.append)
    files = sum(t.numel() * t.element_size() for name in ("a", "b", "base") for t in read_weights(Path(name)).values())
    assert sum(told) == bytes_to_read(opened("a", "b")) == files
