"""Kernels on bits, against the plain way."""

import pytest
import torch

from mergeopt.methods.kernels import signs, taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_are_those_of_the_sign_bit(dtype: torch.dtype):
    x = torch.tensor([1.5, -2.0, 0.0, -0.0, float("inf"), -float("inf"), 1e-40], dtype=dtype)
    expected = torch.copysign(torch.ones_like(x), x)
    assert torch.equal(signs(x.clone()), expected)


def test_places_are_rounded_down_and_of_their_own_row():
    rows = torch.arange(20, dtype=torch.int32).view(4, 5)
    places = torch.tensor([[0.0, 1.9, 4.0, 3.5, 0.5]] * 4)
    assert torch.equal(taken(rows, places), rows.gather(1, places.long()))
