"""What every merge method must do, as tests that a new one gets for free.

Subclass `MethodConformance` in a test file and set `name`, or parametrise it over `METHODS`:

    class TestMine(MethodConformance):
        name = "mine"
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mergeopt.methods import METHODS
from mergeopt.methods.chunks import Chunk, Chunks
from mergeopt.methods.draws import Draws
from mergeopt.methods.method import Method
from mergeopt.recipe.schema import REQUIRED, ParameterSchema

ROW, PIECE = 41, 171 * 41
LENGTH = 977 * ROW  # more than one thread's share, in rows, and no multiple of anything else
DRAWS = Draws(5, "model.layers.0.mlp.up_proj.weight")


class MethodConformance:
    """One registered method."""

    name: str

    @property
    def method(self) -> Method:
        return METHODS[self.name]

    def inputs(self, length: int = 257, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor | None]:
        """As many sources as the method takes (three where it takes any number), and its base.

        All sources move most elements; every sixteenth the first alone, the next to it the second alone, and so on.
        """
        random = torch.Generator().manual_seed(7)
        schema = self.method.schema
        n = schema.max_sources or max(3, schema.min_sources)
        base = torch.randn(length, generator=random, dtype=torch.float64)
        deltas = [0.3 * torch.randn(length, generator=random, dtype=torch.float64) for _ in range(n)]
        for i, delta in enumerate(deltas):
            for j in range(n):
                delta[j::16] *= i == j
        sources = [(base + delta).to(dtype) for delta in deltas]
        return sources, base.to(dtype) if schema.takes_base else None

    def coefficients(self, n: int) -> dict[str, Any]:
        """A value for every parameter: unequal ones, none at its default where that is a number."""
        return {p.name: self._value(p, n) for p in self.method.schema.parameters.values()}

    def _value(self, parameter: ParameterSchema, n: int) -> Any:
        if not parameter.smooth:
            return parameter.default
        if not parameter.per_source:
            return 0.35
        return [0.4 + 0.2 * i / n for i in range(n)]

    def merged(self, sources: list[Tensor], base: Tensor | None, **changed: Any) -> Tensor:
        """In the sources' shape; what is `LENGTH` long is merged as a matrix of rows."""
        shape = sources[0].shape
        if shape == (LENGTH,):
            sources = [source.view(-1, ROW) for source in sources]
            base = None if base is None else base.view(-1, ROW)
        return self.method(sources, base, draws=DRAWS, **{**self.coefficients(len(sources)), **changed}).view(shape)

    def chunks(self, sources: list[Tensor], base: Tensor | None, row: int = ROW) -> Chunks:
        """As the method is given them, the tensors being rows of `row` elements."""
        shaped = [source.view(-1, row) for source in sources]
        ground = None if base is None else base.view(-1, row)
        return Chunks.of(shaped, ground, multiple=self.method.multiple((1, row)))

    def test_the_schema_can_be_read(self) -> None:
        schema = self.method.schema
        assert schema.name == self.name and schema.summary
        for name, parameter in schema.parameters.items():
            assert parameter.name == name and not name.endswith("_")
            assert parameter.kind in ("float", "bool", "int")
            assert parameter.kind == "float" or not parameter.smooth
            if parameter.kind == "float" and parameter.default not in (REQUIRED, None):
                assert isinstance(parameter.default, float)

    def test_shape_and_precision_are_kept(self) -> None:
        for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
            sources, base = self.inputs(24, dtype)
            shaped = None if base is None else base.view(4, 6)
            result = self.merged([source.view(4, 6) for source in sources], shaped)
            assert result.shape == (4, 6) and result.dtype == expected

    def test_inputs_are_left_alone(self) -> None:
        sources, base = self.inputs()
        before = [x.clone() for x in (*sources, *([] if base is None else [base]))]
        self.merged(sources, base)
        after = [*sources, *([] if base is None else [base])]
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))

    def test_any_chunks_in_any_order_give_the_same_bits(self) -> None:
        sources, base = self.inputs(LENGTH)
        arguments = self.method.arguments(self.coefficients(len(sources)))
        whole = self.method.measured(self.chunks(sources, base), arguments, DRAWS)
        expected = self.merged(sources, base)
        result = torch.empty_like(expected)
        for chunk in reversed(list(_pieces(sources, base))):
            part = self.method.combine(
                chunk.sources, chunk.base, arguments, whole=whole, start=chunk.start, row=ROW, draws=DRAWS
            )
            result[chunk.start : chunk.start + part.numel()] = part
        assert torch.equal(result, expected)

    def test_measuring_in_pieces_finds_the_same(self) -> None:
        sources, base = self.inputs(LENGTH)
        arguments = self.method.arguments(self.coefficients(len(sources)))
        pieces = Chunks(LENGTH, lambda: _pieces(sources, base), ROW, (LENGTH // ROW, ROW))
        whole = self.method.measured(pieces, arguments, DRAWS)
        result = self.method.combine(sources, base, arguments, whole=whole, start=0, row=ROW, draws=DRAWS)
        assert torch.allclose(result, self.merged(sources, base), rtol=1e-6, atol=1e-7)

    def test_threads_do_not_change_bits(self) -> None:
        sources, base = self.inputs(LENGTH)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            one = self.merged(sources, base)
            torch.set_num_threads(4)
            assert torch.equal(one, self.merged(sources, base))
        finally:
            torch.set_num_threads(threads)

    def test_every_coefficient_has_the_right_gradient(self) -> None:
        """By autograd against finite differences, in float64; what `measure` reads has none, nor have thresholds.

        A method may have no coefficient at all: then a search has only its choices.
        """
        sources, base = self.inputs(31, torch.float64)
        fixed = self.method.arguments(self.coefficients(len(sources)))
        whole = self.method.measured(self.chunks(sources, base, 31), fixed, DRAWS)
        names = [name for name, value in fixed.items() if _differentiable(self.method, name, value)]
        smooth = {p.name for p in self.method.schema.parameters.values() if p.smooth}
        assert {name.rstrip("_") for name in names} == smooth - set(self.method.measured_by)
        if not names:
            return

        def function(*values: Tensor) -> Tensor:
            arguments = {**fixed, **dict(zip(names, values, strict=True))}
            return self.method.combine(sources, base, arguments, whole=whole, start=0, row=31, draws=DRAWS)

        values = tuple(fixed[name].clone().requires_grad_() for name in names)
        assert torch.autograd.gradcheck(function, values)
        assert all(g is not None for g in torch.autograd.grad(function(*values).square().sum(), values))

    def test_shares_are_how_much_of_each_source_there_is(self) -> None:
        if self.method.shares is None:
            return
        sources, base = self.inputs(dtype=torch.float64)
        shares = self.method.shares(**self.method.arguments(self.coefficients(len(sources))))
        ground = torch.zeros_like(sources[0]) if base is None else base
        expected = sum((c * (x - ground) for c, x in zip(shares, sources, strict=True)), ground)
        torch.testing.assert_close(self.merged(sources, base), expected)

    def test_the_gradient_is_the_sum_over_chunks(self) -> None:
        """⟨G, ∂merged/∂coefficient⟩ piece by piece, as the gradient engine goes, is that of the tensor at once."""
        sources, base = self.inputs(LENGTH, torch.float64)
        for flags in self._flags():
            leaves = self._leaves({**self.coefficients(len(sources)), **flags})
            gradient = torch.randn(LENGTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            merged = self.merged(sources, base, **leaves)
            wanted = [x for name, x in leaves.items() if _differentiable(self.method, name, x)]
            if not wanted:
                return
            at_once = torch.autograd.grad(merged, wanted, gradient)
            whole = self.method.measured(self.chunks(sources, base), self.method.arguments(leaves), DRAWS)
            summed = [torch.zeros_like(x) for x in wanted]
            for chunk in _pieces(sources, base):
                part = self.method.combine(
                    chunk.sources,
                    chunk.base,
                    self.method.arguments(leaves),
                    whole=whole,
                    start=chunk.start,
                    row=ROW,
                    draws=DRAWS,
                )
                found = torch.autograd.grad(part, wanted, gradient[chunk.start : chunk.start + part.numel()])
                summed = [x + y for x, y in zip(summed, found, strict=True)]
            for x, y in zip(summed, at_once, strict=True):
                assert torch.allclose(x, y, rtol=1e-9, atol=1e-9)

    def test_asking_for_gradients_does_not_change_bits(self) -> None:
        sources, base = self.inputs(LENGTH)
        for flags in self._flags():
            leaves = self._leaves({**self.coefficients(len(sources)), **flags})
            plain = {name: x.detach() if isinstance(x, Tensor) else x for name, x in leaves.items()}
            merged = self.merged(sources, base, **leaves)
            assert merged.requires_grad == any(x.requires_grad for x in leaves.values() if isinstance(x, Tensor))
            assert torch.equal(merged, self.merged(sources, base, **plain))

    def test_gradients_are_finite_at_the_edges(self) -> None:
        """Every float at 0 and at 1, sources apart or equal, flags off (a zero sum cannot be normalised)."""
        apart, base = self.inputs()
        equal = [apart[0].clone() for _ in apart]
        for sources, ground in ((apart, base), (equal, None if base is None else equal[0].clone())):
            for edge in (0.0, 1.0):
                leaves = self._leaves({**self.coefficients(len(sources)), **self._flags()[1]}, edge)
                wanted = [x for name, x in leaves.items() if _differentiable(self.method, name, x)]
                merged = self.method(sources, ground, draws=DRAWS, **leaves)
                if not wanted:
                    assert bool(torch.isfinite(merged).all())
                    continue
                assert merged.requires_grad
                found = torch.autograd.grad(merged.sum(), wanted)
                assert all(bool(torch.isfinite(x).all()) for x in found)

    def test_what_measure_reads_moves_the_merge_in_proportion(self) -> None:
        """Shares have no derivative but a secant: half the step must change about half as much, on nested masks."""
        sources, base = self.inputs(LENGTH)
        for name in self.method.measured_by:
            value = self.coefficients(len(sources))[name]
            if not self.method.schema.parameters[name].smooth:
                continue
            changes = []
            for step in (0.02, 0.04):
                moved = ([value[0] + s, *value[1:]] if isinstance(value, list) else value + s for s in (-step, step))
                low, high = (self.merged(sources, base, **{name: there}) for there in moved)
                changes.append(float((high - low).abs().double().sum()))
            assert 0 < changes[0] < changes[1] < 3 * changes[0]

    def _flags(self) -> list[dict[str, bool]]:
        """Every flag set, and none."""
        names = [p.name for p in self.method.schema.parameters.values() if p.kind == "bool"]
        return [dict.fromkeys(names, value) for value in (True, False)]

    def _leaves(self, coefficients: dict[str, Any], value: float | None = None) -> dict[str, Any]:
        """The coefficients as tensors that require gradients where the method can give them, all at `value`."""
        leaves = {}
        for name, given in coefficients.items():
            leaves[name] = given
            if self.method.schema.parameters[name].smooth:
                leaf = torch.tensor(given, dtype=torch.float64)
                leaf = leaf if value is None else torch.full_like(leaf, value)
                leaves[name] = leaf.requires_grad_(name not in self.method.measured_by)
        return leaves

    def test_zero_weight_gives_the_base(self) -> None:
        """Or, where weights only compare the sources, what equal weights give."""
        if not (self.method.schema.takes_base and "weight" in self.method.schema.parameters):
            return
        sources, base = self.inputs()
        assert base is not None
        none, equal = (self.merged(sources, base, weight=[w] * len(sources)) for w in (0.0, 1.0))
        assert torch.equal(none, base) or torch.equal(none, equal)

    def test_no_base_is_a_base_of_zeros(self) -> None:
        """Where the method can do without."""
        if not self.method.schema.takes_base or self.method.schema.needs_base:
            return
        sources, _ = self.inputs()
        assert torch.equal(self.merged(sources, None), self.merged(sources, torch.zeros_like(sources[0])))

    def test_flags_work_by_rows_as_on_the_whole(self) -> None:
        """Every flag alone: any chunks give the same bits."""
        sources, base = self.inputs(LENGTH)
        names = [p.name for p in self.method.schema.parameters.values() if p.kind == "bool"]
        for flag in names:
            changed = dict.fromkeys(names, False) | {flag: True}
            arguments = self.method.arguments({**self.coefficients(len(sources)), **changed})
            whole = self.method.measured(self.chunks(sources, base), arguments, DRAWS)
            parts = [
                self.method.combine(
                    chunk.sources, chunk.base, arguments, whole=whole, start=chunk.start, row=ROW, draws=DRAWS
                )
                for chunk in _pieces(sources, base)
            ]
            assert torch.equal(torch.cat(parts), self.merged(sources, base, **changed))

    def test_equal_models_give_that_model(self) -> None:
        sources, base = self.inputs()
        same = [sources[0].clone() for _ in sources]
        neutral = {"scale": [1.0]} if "scale" in self.method.schema.parameters else {}
        result = self.merged(same, None if base is None else sources[0].clone(), **neutral)
        assert torch.allclose(result, sources[0], rtol=1e-6, atol=1e-7)

    def test_nan_shows(self) -> None:
        sources, base = self.inputs()
        for i in range(len(sources)):
            broken = [source.clone() for source in sources]
            broken[i][13] = float("nan")
            assert self.merged(broken, base).isnan().any()
        if base is not None:
            base[13] = float("nan")
            assert self.merged(sources, base)[13].isnan()


def _pieces(sources: list[Tensor], base: Tensor | None) -> Iterator[Chunk]:
    for start in range(0, sources[0].numel(), PIECE):
        part = slice(start, start + PIECE)
        yield Chunk(start, [source[part] for source in sources], None if base is None else base[part])


def _differentiable(method: Method, name: str, value: Any) -> bool:
    return isinstance(value, Tensor) and name not in method.measured_by
