"""Each named method on numbers that can be checked by hand."""

import math

import pytest
import torch
from torch import Tensor

from mergeopt.methods import METHODS
from mergeopt.methods.draws import Draws

linear, slerp, task_arithmetic, ties, dare_linear, dare_ties, passthrough = (
    METHODS[name] for name in ("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "passthrough")
)
A, B = torch.tensor([1.0, 2.0, -4.0]), torch.tensor([3.0, -2.0, 0.0])
ZERO = torch.zeros(3)


def same(result: Tensor, expected: list[float]) -> None:
    assert result.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_linear():
    same(linear([A, B], weight=[1, 3]), [2.5, -1, -1])
    same(linear([A, B], weight=[1, 3], normalize=False), [10, -4, -4])


def test_linear_of_weights_that_cancel_is_not_finite():
    assert not torch.isfinite(linear([A, B], weight=[1, -1])).any()


def test_task_arithmetic():
    base = torch.ones(3)
    same(task_arithmetic([A, B], base, weight=[0.5, 0.25]), [1.5, 0.75, -1.75])
    same(task_arithmetic([A, B], base, weight=[0.5, 0.25], **{"lambda": 2.0}), [2, 0.5, -4.5])
    same(task_arithmetic([A, B], base, weight=[1, 1], normalize=True), [2, 0, -2])
    same(task_arithmetic([A, B], base, weight=[1, -1], normalize=True), [-1, 5, -3])  # Σ w = 0: not divided


def test_slerp_between_right_angles():
    x, y = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
    for t in (0.0, 0.25, 1.0):
        same(slerp([y], x, t=t), [2 * math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)])


def test_slerp_of_one_direction_is_linear():
    same(slerp([A * 3], A, t=0.25), (A * 1.5).tolist())
    same(slerp([-A], A, t=0.25), (A * 0.5).tolist())


@pytest.mark.parametrize("cosine, linear_there", [(0.9994, False), (0.9996, True)])
def test_slerp_is_linear_where_the_angle_is_small(cosine: float, linear_there: bool):
    x = torch.tensor([1.0, 0.0], dtype=torch.float64)
    y = torch.tensor([cosine, math.sqrt(1 - cosine**2)], dtype=torch.float64)
    middle = slerp([y], x, t=0.5)
    assert torch.equal(middle, (x + y) / 2) == linear_there
    assert float(middle.norm()) == pytest.approx(1, abs=1e-12) or linear_there


def test_slerp_with_a_zero_tensor():
    same(slerp([ZERO], A, t=0.5), (A * math.sqrt(0.5)).tolist())
    same(slerp([ZERO], ZERO, t=0.5), [0, 0, 0])


def test_ties_elects_and_averages_what_agrees():
    same(ties([A, B], ZERO, weight=[1, 1]), [2, 2, -4])  # 2 − 2 = 0 counts as plus
    same(ties([A, B], ZERO, weight=[1, 1], normalize=False), [4, 2, -4])
    same(ties([A, B], ZERO, weight=[1, 3]), [10 / 4, -2, -4])
    same(ties([A, B], ZERO, weight=[1, 1], **{"lambda": 0.5}), [1, 1, -2])


def test_ties_trims_by_share():
    same(ties([A], ZERO, weight=[1], density=[0.67]), [0, 2, -4])
    same(ties([A], ZERO, weight=[1], density=[0.66]), [0, 0, -4])
    same(ties([A], ZERO, weight=[1], density=[0.01]), [0, 0, -4])  # at least one
    same(ties([A], ZERO, weight=[1], density=[0.0]), [0, 0, 0])
    same(ties([A], ZERO, weight=[1], density=[1.5]), A.tolist())
    same(ties([A], ZERO, weight=[1], density=[0.34], rescale=True), [0, 0, -7])


def test_a_negative_weight_counts_on_the_other_side():
    same(ties([A, B], ZERO, weight=[1, -1]), [3, 4, -4])


@pytest.mark.parametrize("method", [dare_linear, dare_ties])
def test_dare_keeps_by_address_and_restores_the_norm(method):
    delta = torch.arange(1.0, 1001)
    draws = Draws(3, "w")
    mask = draws.keep(0, 0, delta, 0.3)
    assert 200 < int(mask.sum()) < 400
    kept = method([delta], torch.zeros(1000), weight=[1.0], density=[0.3], rescale=False, draws=draws)
    assert torch.equal(kept, torch.where(mask, delta, 0))
    rescaled = method([delta], torch.zeros(1000), weight=[1.0], density=[0.3], draws=draws)
    assert float(rescaled.sum()) == pytest.approx(float(delta.sum()), rel=1e-6)
    assert torch.equal(rescaled != 0, mask)


def test_dare_at_density_one_is_the_method_without():
    base = torch.randn(50, generator=torch.Generator().manual_seed(0))
    sources = [base + 0.1 * torch.randn(50, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    assert torch.equal(dare_linear(sources, base, weight=[0.5, 0.2]), task_arithmetic(sources, base, weight=[0.5, 0.2]))
    expected = ties(sources, base, weight=[0.5, 0.2], normalize=False)
    assert torch.equal(dare_ties(sources, base, weight=[0.5, 0.2]), expected)


def test_dare_at_density_zero_is_the_base():
    same(dare_linear([A], B, weight=[1], density=[0.0]), B.tolist())


def test_passthrough():
    assert torch.equal(passthrough([A]), A)
    same(passthrough([A], scale=[0.5]), [0.5, 1, -2])


def test_a_call_names_what_is_missing_or_unknown():
    with pytest.raises(TypeError, match=r"missing \['weight'\], unknown \['wieght'\]"):
        linear([A], wieght=[1])
