"""Task singular vectors, beyond what every method must do."""

import pytest
import torch
from torch import Tensor

from mergeopt.methods import METHODS

TSV, PLAIN = METHODS["tsv"], METHODS["task_arithmetic"]
SHAPE = (24, 40)


def models(n: int, *shape: int) -> tuple[list[Tensor], Tensor]:
    random = torch.Generator().manual_seed(n)
    base = torch.randn(*shape, generator=random)
    return [base + 0.1 * torch.randn(*shape, generator=random) for _ in range(n)], base


def test_one_source_is_itself() -> None:
    sources, base = models(1, *SHAPE)
    torch.testing.assert_close(TSV(sources, base, weight=[1.0]), sources[0], rtol=1e-5, atol=1e-5)


def test_each_part_has_its_rank_and_its_strengths_and_is_orthogonal_to_the_others() -> None:
    sources, base = models(3, *SHAPE)
    parts = [TSV(sources, base, weight=[float(i == j) for j in range(3)]) - base for i in range(3)]
    for part, source in zip(parts, sources, strict=True):
        expected, found = (torch.linalg.svdvals(x) for x in (source - base, part))
        torch.testing.assert_close(found[:8], expected[:8], rtol=1e-4, atol=1e-5)
        assert float(found[8:].max()) < 1e-5
    for i, part in enumerate(parts):
        for other in parts[:i]:
            assert float((part.T @ other).abs().max()) < 1e-5 and float((part @ other.T).abs().max()) < 1e-5


def test_deltas_that_are_apart_stay_as_they_are() -> None:
    base, deltas = torch.zeros(6, 6), []
    for i in range(2):
        delta = torch.zeros(6, 6)
        delta[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        deltas.append(delta)
    torch.testing.assert_close(TSV(deltas, base, weight=[1.0, 1.0]), deltas[0] + deltas[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(40,), SHAPE, (2, 40), (6, 4, 3)])
def test_plain_is_task_arithmetic(shape: tuple[int, ...]) -> None:
    sources, base = models(3, *shape)
    weight = [0.5, 0.3, -0.2]
    found = TSV(sources, base, weight=weight, apart=[0.0] * 3, plain=[1.0] * 3)
    torch.testing.assert_close(found, PLAIN(sources, base, weight=weight), rtol=1e-6, atol=1e-6)
    both = TSV(sources, base, weight=weight, apart=[0.4, 0.4, 0.4], plain=[0.2, 0.2, 0.2])
    apart = TSV(sources, base, weight=weight)
    torch.testing.assert_close(both - base, 0.4 * (apart - base) + 0.2 * (found - base), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(40,), (2, 40)])
def test_what_has_no_rank_to_share_is_averaged(shape: tuple[int, ...]) -> None:
    sources, base = models(3, *shape)
    torch.testing.assert_close(TSV(sources, base), sum(sources[1:], sources[0]) / 3, rtol=1e-5, atol=1e-6)
