"""model_stock, sce and the rest on numbers that can be checked by hand."""

import math

import pytest
import torch
from torch import Tensor

from mergeopt.methods import METHODS
from tests.methods.test_named_methods import same

ZERO = torch.zeros(2)
X, Y = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])


def call(method: str, sources: list[Tensor], base: Tensor | None = None, **coefficients: object) -> Tensor:
    return METHODS[method](sources, base, **coefficients)


def test_nearswap_moves_no_element_by_more_than_t():
    base, source = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.1, 3.0, 1.0])
    same(call("nearswap", [source], base, t=0.5), [1.1, 1.5, 1.0])


def test_model_stock_trusts_deltas_that_point_one_way():
    same(call("model_stock", [X, X], ZERO), [2, 0])  # cos 1: the mean
    same(call("model_stock", [X, Y], ZERO), [0, 0])  # cos 0: the base
    third = torch.tensor([1.0, math.sqrt(3.0)])  # 60° to X: t = 2·½ / (1 + ½)
    same(call("model_stock", [X, third], ZERO), [2 / 3 * 1.5, 2 / 3 * math.sqrt(3) / 2])
    same(call("model_stock", [X, -X], ZERO), [0, 0])  # 1 + (N − 1) cos = 0


def test_model_stock_filter_wise_sees_each_row():
    sources = [torch.stack([X, X]), torch.stack([X, Y])]
    result = call("model_stock", sources, torch.zeros(2, 2), filter_wise=True)
    same(result[0], [2, 0])
    same(result[1], [0, 0])


def test_nuslerp_turns_by_the_share_of_the_second():
    for weight, t in (([1, 0], 0), ([1, 3], 0.75), ([0, 2], 1), ([1, -1], 0.5)):
        turn = t * math.pi / 2
        same(call("nuslerp", [X, Y], weight=weight), [2 * math.cos(turn), math.sin(turn)])
    same(call("nuslerp", [X + 1, Y + 1], torch.ones(2), weight=[1, 1]), [1 + math.sqrt(2), 1 + math.sqrt(0.5)])
    same(call("nuslerp", [X, -X], weight=[1, 3]), [-1, 0])  # no plane to turn in: linear


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (4, 2, 3, 2), (6,)])
def test_nuslerp_by_rows_and_columns(shape: tuple[int, ...]):
    random = torch.Generator().manual_seed(2)
    a, b = (torch.randn(shape, generator=random) for _ in range(2))
    by_row = call("nuslerp", [a, b], weight=[1, 2], nuslerp_flatten=False)
    by_column = call("nuslerp", [a, b], weight=[1, 2], nuslerp_flatten=False, nuslerp_row_wise=True)
    rows = [x.reshape(-1, shape[-1]) for x in (a, b, by_row)]
    for x, y, merged in zip(*rows, strict=True):
        assert torch.allclose(merged, call("nuslerp", [x, y], weight=[1, 2]))
    columns = [x.reshape(shape[0], -1).T for x in (a, b, by_column)] if len(shape) > 1 else rows
    for x, y, merged in zip(*columns, strict=True):
        assert torch.allclose(merged, call("nuslerp", [x.contiguous(), y.contiguous()], weight=[1, 2]), atol=1e-6)


def test_multislerp_has_the_mean_direction_and_the_mean_norm():
    same(call("multislerp", [X, Y], weight=[1, 1]), [1.5 * math.sqrt(0.5)] * 2)
    same(call("multislerp", [X, Y], weight=[1, 1], normalize_weights=False), [3 * math.sqrt(0.5)] * 2)
    same(call("multislerp", [X, -2 * X], weight=[1, 1]), [-1, 0])  # directions cancel: the average
    same(call("multislerp", [X], weight=[0.3]), [2, 0])


def test_karcher_mean():
    same(call("karcher", [X, Y]), [1.5 * math.sqrt(0.5)] * 2)
    same(call("karcher", [X, Y, ZERO]), [1.0 * math.sqrt(0.5)] * 2)  # a zero has a norm, no direction
    same(call("karcher", [ZERO, ZERO]), [0, 0])
    angles = [0.1, 0.3, 1.4]
    sources = [torch.tensor([math.cos(a), math.sin(a)], dtype=torch.float64) for a in angles]
    mean = call("karcher", sources, max_iter=20, tol=1e-12)
    assert math.atan2(float(mean[1]), float(mean[0])) == pytest.approx(sum(angles) / 3, abs=1e-12)
    start = call("karcher", sources, max_iter=0)
    assert abs(math.atan2(float(start[1]), float(start[0])) - sum(angles) / 3) > 0.01


def test_sce_weighs_by_energy_and_erases_minorities():
    a, b = torch.tensor([3.0, 1.0, 1.0]), torch.tensor([1.0, -2.0, 1.0])
    shares = [11 / 17, 6 / 17]
    expected = [3 * shares[0] + shares[1], -2, 1]  # of the second the minority is erased
    same(call("sce", [a, b], torch.zeros(3)), expected)
    # variances 1, 9/4, 0: half of the two that vary is one, the second
    same(call("sce", [a, b], torch.zeros(3), select_topk=0.5), [0, -2, 0])
    same(call("sce", [a, b], torch.zeros(3), select_topk=0.0), [0, 0, 0])


def test_ram_averages_what_is_shared_and_keeps_the_rest():
    a, b = torch.tensor([1.0, 2.0, 0.0, 4.0]), torch.tensor([3.0, 0.0, 0.0, 0.1])
    same(call("ram", [a, b], torch.zeros(4), epsilon=0.2), [2, 2, 0, 4])
    same(call("ram", [a, b], torch.zeros(4), epsilon=0.05), [2, 2, 0, 2.05])
    # source a: one shared, two of its own: 1 + r min(1/2, alpha)
    same(call("ramplus_tl", [a, b], torch.zeros(4), epsilon=0.2, r=0.5, alpha=0.4), [2, 2.4, 0, 4.8])
    same(call("ramplus_tl", [a, b], torch.zeros(4), epsilon=0.2, r=0.5, alpha=1.0), [2, 2.5, 0, 5])


def test_arcee_fusion_takes_over_what_stands_out():
    random = torch.Generator().manual_seed(0)
    base = torch.randn(40, 50, generator=random)
    source = base + 0.01 * torch.randn(40, 50, generator=random)
    source[7, 3] += 2
    merged = call("arcee_fusion", [source], base)
    taken = merged != base
    assert taken[7, 3] and 0.01 < float(taken.double().mean()) < 0.3
    assert torch.allclose(merged[taken], source[taken])
    same(call("arcee_fusion", [torch.tensor([5.0])], torch.tensor([1.0])), [1 + 4])  # one element: its own threshold
