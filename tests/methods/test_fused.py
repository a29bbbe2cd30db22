"""The compiled merges of bfloat16 tensors are those of the methods' functions, to the last bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mergeopt.methods import METHODS
from mergeopt.methods.chunks import Chunks, Narrow, whole_multiple
from mergeopt.methods.conformance import DRAWS
from mergeopt.methods.draws import Draws

ROW = 3001  # more than a tile
LENGTH = ROW * 135  # several blocks, none a multiple of a tile
FUSED = [name for name, method in sorted(METHODS.items()) if method.shares or method.terms]


def inputs(n: int, seed: int = 0, *, special: bool = False) -> tuple[list[Tensor], Tensor]:
    """n sources near a base, bfloat16, many deltas equal; `special`: a quarter are zeros of both signs."""
    random = torch.Generator().manual_seed(seed)
    base = 0.02 * torch.randn(LENGTH, generator=random)
    sources = [base + 0.002 * torch.randn(LENGTH, generator=random) for _ in range(n)]
    if special:
        zeros = torch.randint(0, 2, (n + 1, LENGTH // 4), generator=random).mul(-2).add(1) * 0.0
        for row, x in zip(zeros, (*sources, base), strict=True):
            x[: LENGTH // 4] = row
    return [x.bfloat16() for x in sources], base.bfloat16()


def chunks_of(sources: list[Tensor], base: Tensor | None, block: int, multiple: int = 1) -> Chunks:
    """Wide and narrow chunks of the same tensors."""
    wide = Chunks.of(
        [x.float().view(-1, ROW) for x in sources], None if base is None else base.float(), multiple=multiple
    )
    block = whole_multiple(block, multiple)
    rows = torch.stack([*sources, *([] if base is None else [base])]).view(torch.uint16).numpy()

    def narrow() -> Any:
        for start in range(0, LENGTH, block):
            part = np.ascontiguousarray(rows[:, start : start + block])
            yield Narrow(start, part.shape[1], part, base is not None)

    return replace(wide, narrow=narrow)


def both(name: str, coefficients: dict[str, Any], n: int, block: int, **kind: Any) -> tuple[Tensor, Tensor]:
    """The merge by the method's function and by its terms, as bits."""
    method = METHODS[name]
    sources, base = inputs(n, **kind)
    ground = base if method.schema.takes_base else None
    given = {p.name: [p.default] * n if p.per_source else p.default for p in method.schema.parameters.values()}
    arguments = method.arguments(given | coefficients)
    chunks = chunks_of(sources, ground, block, method.multiple((LENGTH // ROW, ROW)))
    expected = method([x.view(-1, ROW) for x in sources], ground, draws=DRAWS, **coefficients).bfloat16().view(-1)
    terms = method.fused(arguments, method.measured(chunks, arguments, DRAWS), DRAWS, ROW)
    assert terms is not None and chunks.narrow is not None
    return torch.cat([terms.merged(part) for part in chunks.narrow()]).view(torch.int16), expected.view(torch.int16)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("special", [False, True])
def test_the_same_bits_as_the_function(name: str, special: bool) -> None:
    parameters = METHODS[name].schema.parameters
    flags = [{"normalize": yes} for yes in (False, True)] if "normalize" in parameters else [{}]
    for n, weights in ((1, [0.7]), (2, [0.5, 0.5]), (3, [0.9, -0.4, 0.3])):
        for flag in flags if n <= (METHODS[name].schema.max_sources or n) else ():
            given: dict[str, Any] = {"weight": weights, **flag} if "weight" in parameters else {"t": 0.4}
            given |= {"density": [0.3, 0.7, 1.0][:n]} if "density" in parameters else {}
            given |= {"epsilon": [0.15, -0.2, 0.1][:n]} if "epsilon" in parameters else {}
            given |= {"lambda": 0.7} if "lambda" in parameters and n > 1 else {}
            mine, expected = both(name, given, n, block=1 << 17, special=special)
            assert mine.equal(expected), (n, flag)


@pytest.mark.parametrize("name", [name for name in FUSED if "rescale" in METHODS[name].schema.parameters])
@pytest.mark.parametrize("rescale", [False, True])
def test_norms_are_restored_alike(name: str, rescale: bool) -> None:
    given = {"weight": [0.6, 0.8], "density": [0.4, 0.9], "rescale": rescale}
    mine, expected = both(name, given, 2, block=40_000)
    assert mine.equal(expected)


@pytest.mark.parametrize("density", [0.0, 1e-5, 0.01, 0.5, 0.9999, 1.0])
def test_any_share_is_found(density: float) -> None:
    mine, expected = both("ties", {"weight": [0.5, 1.0], "density": [density, 0.5]}, 2, block=1 << 17)
    assert mine.equal(expected)


def test_many_equal_deltas_are_told_apart_by_their_place() -> None:
    """Every delta is one of two: the threshold lies among equal ones."""
    base = torch.ones(LENGTH).bfloat16()
    source = torch.where(torch.arange(LENGTH) % 3 == 0, 1.5, 1.25).bfloat16()
    arguments = METHODS["ties"].arguments(
        {"weight": [1.0], "density": [0.5], "normalize": True, "rescale": False, "lambda": 1.0}
    )
    chunks = chunks_of([source], base, 1 << 17)
    whole = METHODS["ties"].measured(chunks, arguments, DRAWS)
    wide = METHODS["ties"].measured(replace(chunks, narrow=None), arguments, DRAWS)
    assert whole.cutoffs == wide.cutoffs and 0 < whole.cutoffs[0].last < LENGTH - 1


def test_nan_shows() -> None:
    sources, base = inputs(2)
    sources[0][777] = float("nan")
    terms = METHODS["ties"].fused(
        arguments := METHODS["ties"].arguments(
            {"weight": [0.5, 0.5], "density": [0.5, 0.5], "normalize": True, "rescale": False, "lambda": 1.0}
        ),
        METHODS["ties"].measured(chunks_of(sources, base, LENGTH), arguments, DRAWS),
        DRAWS,
        ROW,
    )
    narrow = chunks_of(sources, base, LENGTH).narrow
    assert terms is not None and narrow is not None
    (merged,) = [terms.merged(part) for part in narrow()]
    assert merged.isnan().nonzero().flatten().tolist() == [777]


@pytest.mark.parametrize("start", [0, 5, 65_536, 70_001])
def test_masks_are_those_of_the_draws(start: int) -> None:
    for density in (0.0, 0.2, 0.999, 1.0):
        kept, found = Draws(3, "x").keep(1, start, torch.empty(100_000), density), np.empty(100_000, np.uint8)
        Draws(3, "x").fill_kept(1, start, density, found)
        assert kept.equal(torch.from_numpy(found).bool())
