"""Spectra and units, of matrices made so that the answer is known."""

from pathlib import Path

import pytest
import torch

from mergeopt.diagnose.sample import match, overlap, rank_of, spectrum, take_sample
from tests.conftest import llama_weights, write_model
from tests.diagnose.conftest import LAYERS, opened, permuted


def made(seed: int, singular: list[float]) -> torch.Tensor:
    """A matrix [80, 120] with these singular values."""
    random = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(80, len(singular), generator=random)).Q
    right = torch.linalg.qr(torch.randn(120, len(singular), generator=random)).Q
    return left @ torch.diag(torch.tensor(singular)) @ right.mT


def test_stable_rank() -> None:
    assert spectrum(made(0, [2.0])).stable_rank == pytest.approx(1, abs=1e-4)
    assert spectrum(made(0, [2.0] * 7 + [1.0] * 4)).stable_rank == pytest.approx(8, abs=1e-3)


def test_overlap_of_spaces() -> None:
    one, other = spectrum(made(0, [1.0] * 16)), spectrum(made(1, [1.0] * 16))
    assert overlap(one, spectrum(-3 * made(0, [1.0] * 16))) == pytest.approx(1, abs=1e-4)
    chance = (16 / 80 + 16 / 120) / 2
    assert overlap(one, other) == pytest.approx(chance, abs=0.08)
    assert rank_of((80, 120)) == 16 and rank_of((8, 100)) == 2 and rank_of((1, 5)) == 1


def test_units_out_of_place() -> None:
    reference = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(40)
    assert match(reference + 0.01, reference, numbers).matched == 1
    rolled = match(reference.roll(1, 0), reference, numbers)
    assert rolled.matched == 0 and rolled.likeness == pytest.approx(1, abs=1e-5)
    strange = match(torch.randn(40, 30, generator=torch.Generator().manual_seed(1)), reference, numbers)
    assert strange.matched < 0.2 and strange.likeness < 0.7


def test_the_sample_of_models(zoo: Path) -> None:
    write_model(zoo / "turned", permuted(llama_weights(LAYERS)))
    subjects = opened("a", "b", "turned")
    sample = take_sample(subjects)
    a, _, turned = subjects.models
    assert sample.layers == (1, 2, 3) and len(sample.matrices) == 6
    assert sample.units[a].matched == 1 and sample.units[turned].matched < 0.2
    assert sample.units[turned].likeness == pytest.approx(1, abs=1e-4)
    assert sample.stable_rank[a] > 3 and sample.experts == {}
    again = take_sample(subjects)
    assert again.overlap == sample.overlap and again.stable_rank == sample.stable_rank


def test_experts_are_looked_for_by_their_routers(zoo: Path) -> None:
    random = torch.Generator().manual_seed(0)
    routers = {f"model.layers.{i}.mlp.gate.weight": torch.randn(6, 16, generator=random) for i in range(LAYERS)}
    write_model(zoo / "moe", llama_weights(LAYERS) | routers)
    write_model(zoo / "same", llama_weights(LAYERS) | {name: t + 0.01 for name, t in routers.items()})
    write_model(zoo / "swapped", llama_weights(LAYERS) | {name: t.roll(1, 0) for name, t in routers.items()})
    sample = take_sample(opened("same", "swapped", base=["moe"]))
    assert list(sample.experts.values()) == [1, 0]
