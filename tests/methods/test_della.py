"""DELLA's probabilities by rank, and what it refuses."""

import pytest
import torch
from torch import Tensor

from mergeopt.methods import METHODS, SCHEMAS
from mergeopt.methods.della import _mask
from mergeopt.methods.draws import Draws
from mergeopt.recipe.schema import UnusableError
from tests.merge.conftest import facts_of, plan_of

della, della_linear = METHODS["della"], METHODS["della_linear"]
ROWS, ROW = 4000, 40
DRAWS = Draws(1, "w")


def masks(delta: Tensor, density: float, epsilon: float, draws: Draws = DRAWS) -> Tensor:
    flat = delta.reshape(-1)
    return _mask(flat, delta.shape[-1], draws.bits(0, 0, flat), density, epsilon).view(delta.shape)


def ranks(delta: Tensor, bits: Tensor) -> Tensor:
    """By magnitude within each row, equal ones as the last of them where the draw is odd, else as the first."""
    ascending, sizes = delta.abs().sort(dim=1).values, delta.abs().contiguous()
    last, first = torch.searchsorted(ascending, sizes, right=True) - 1, torch.searchsorted(ascending, sizes)
    return torch.where(bits.view(delta.shape) & 1 == 1, last, first)


def by_definition(delta: Tensor, density: float, epsilon: float, draws: Draws) -> Tensor:
    """Every element's own probability, compared with its own draw."""
    bits = draws.bits(0, 0, delta.reshape(-1))
    u = bits.double().view(delta.shape) / 2**32 + 0.5
    spread, place = abs(epsilon), ranks(delta if epsilon > 0 else 1 / delta, bits) / (delta.shape[1] - 1)
    return u < density - spread + 2 * spread * place


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.15), (0.3, 0.29), (0.9, 0.05), (0.5, -0.2), (0.4, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_is_the_definitions(density: float, epsilon: float, dtype: torch.dtype):
    """In bfloat16 many magnitudes are equal."""
    delta = torch.randn(ROWS, ROW, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    delta[7] = 0
    found, exact = masks(delta, density, epsilon), by_definition(delta, density, epsilon, DRAWS)
    assert int((found != exact).sum()) <= 2  # a draw within 2⁻²³ of its probability


def test_probability_rises_with_rank():
    delta = torch.randn(ROWS, ROW, generator=torch.Generator().manual_seed(0))
    kept = (
        torch.empty(ROWS, ROW)
        .scatter_(1, ranks(delta, torch.ones(delta.shape, dtype=torch.int32)), masks(delta, 0.6, 0.25).float())
        .mean(0)
        .double()
    )
    expected = 0.35 + 0.5 * torch.arange(ROW) / (ROW - 1)
    scores = (kept - expected) / (expected * (1 - expected) / ROWS).sqrt()
    assert float(scores.abs().max()) < 4.5
    assert 0.6 < float(scores.std()) < 1.5


def test_raising_density_or_epsilons_effect_is_on_common_draws():
    delta = torch.randn(500, ROW, generator=torch.Generator().manual_seed(0))
    low, high = masks(delta, 0.4, 0.1), masks(delta, 0.5, 0.1)
    assert bool((high | ~low).all())


def test_rows_of_one_element_are_kept_with_the_density():
    kept = masks(torch.ones(20_000, 1), 0.3, 0.15)
    assert float(kept.double().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.isfinite(della([torch.ones(5, 1)], torch.zeros(5, 1), weight=[1.0], density=[0.3])).all()


def test_a_vector_is_one_row():
    delta = torch.arange(1.0, 1001)
    kept = della_linear([delta], torch.zeros(1000), weight=[1.0], density=[0.5], epsilon=[0.4], rescale=False) != 0
    assert int(kept[500:].sum()) > int(kept[:500].sum()) + 100


@pytest.mark.parametrize("method", [della, della_linear])
def test_ends(method):
    delta = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros_like(delta)
    assert torch.equal(method([delta], zero, weight=[1.0], density=[1.0], epsilon=[0.3]), delta)
    assert torch.equal(method([delta], zero, weight=[1.0], density=[0.0], epsilon=[0.3]), zero)
    kept = method([delta], zero, weight=[1.0], density=[0.5])
    assert float(kept.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)


RECIPE = """
merge_method: {method}
base_model: base
models: [{{model: a, parameters: {{weight: 1, density: {density}, epsilon: {epsilon}}}}}]
"""


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize(("density", "epsilon"), [("0.9", "0.15"), ("0.1", "0.1"), ("[0.5, 0.9]", "0.1")])
def test_impossible_probabilities_are_refused_when_planning(method: str, density: str, epsilon: str):
    with pytest.raises(UnusableError, match=r"leaves the open interval \(0, 1\)"):
        plan_of(RECIPE.format(method=method, density=density, epsilon=epsilon), base=facts_of(), a=facts_of())


@pytest.mark.parametrize("density", ["0.8", "1", "0", "[0.3, 0.8]"])
def test_possible_ones_are_planned(density: str):
    plan_of(RECIPE.format(method="della", density=density, epsilon=0.15), base=facts_of(), a=facts_of())


def test_defaults():
    for name, normalize in (("della", True), ("della_linear", False)):
        found = {p.name: p.default for p in SCHEMAS[name].parameters.values()}
        assert found.pop("weight") is not None
        assert found == {"density": 1, "epsilon": 0.15, "normalize": normalize, "rescale": True, "lambda": 1}
