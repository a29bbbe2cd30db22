"""What a merge method is: a function whose signature is its schema.

::

    @merge_method()
    def linear(sources, weight, *, normalize=True): ...

The inputs come first: `sources`, and `base` where the method takes deltas. Parameters before the ``*`` have one value
per source and arrive as 1-D float64 tensors; parameters after it have one value for the merge and arrive as 0-D
tensors, or as plain values where they are bool or int. A base that may be missing is
`base: Tensor | None = None`. A parameter annotated `Threshold` arrives as a plain number: the merge jumps where it
moves, so it has no gradient. Four more names are filled in where a method asks for them: `whole` (what its `measure`
found in the whole tensor), `start` (index of the first element), `row` (elements of a row: the chunks are then whole
rows) and `draws` (addressed random numbers). A trailing underscore keeps clear of Python's keywords (`lambda_`).

The function is elementwise and differentiable in its coefficients: the same code streams a checkpoint, fills a live
model and carries gradients.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, row_of
from mergeopt.methods.draws import Draws
from mergeopt.methods.fused import Terms
from mergeopt.recipe.schema import REQUIRED, MethodSchema, ParameterSchema

INPUTS = ("sources", "base")
INJECTED = ("whole", "start", "row", "draws")

Threshold = Annotated[float, "no gradient"]
"""Marks a parameter that the arithmetic only compares with (an epsilon, a tolerance)."""

Coefficients = Mapping[str, Any]  # per source: a sequence of values or a 1-D tensor; for the merge: a value


@dataclass(frozen=True, slots=True)
class Method:
    """A merge method: its schema, the elementwise `function`, and `measure` for what it must know of a whole tensor.

    `shares` of a method that is linear in its sources: of its parameters, the c [n] with which it gives
    base + Σ c_i (source_i − base), without a base Σ c_i source_i. `terms`: see `fused`; of the parameters, `whole`,
    `row` and `draws`.
    """

    schema: MethodSchema
    function: Callable[..., Tensor]
    measure: Callable[..., Any] | None
    asks: frozenset[str]
    shares: Callable[..., Tensor] | None = None
    terms: Callable[..., Terms] | None = None

    @property
    def name(self) -> str:
        return self.schema.name

    @property
    def by_row(self) -> bool:
        """Whether it works on whole rows."""
        return "row" in self.asks

    def multiple(self, shape: Sequence[int]) -> int:
        """A chunk of a tensor of this shape holds whole multiples of so many elements."""
        return row_of(shape) if self.by_row else 1

    @property
    def measured_by(self) -> tuple[str, ...]:
        """The parameters that `whole` depends on."""
        if self.measure is None:
            return ()
        wanted = {name.rstrip("_") for name in inspect.signature(self.measure).parameters}
        return tuple(name for name in self.schema.parameters if name in wanted)

    def arguments(self, coefficients: Coefficients) -> dict[str, Any]:
        """Coefficients as the function's keyword arguments: 1-D float64 tensors per source, 0-D for the merge."""
        result: dict[str, Any] = {}
        for name, parameter in self.schema.parameters.items():
            value = coefficients[name]
            if value is None or not parameter.smooth:
                pass
            elif parameter.per_source and not isinstance(value, Tensor):
                value = None if any(v is None for v in value) else torch.tensor(value, dtype=torch.float64)
            elif not isinstance(value, Tensor):
                value = torch.tensor(value, dtype=torch.float64)
            result[name + "_" if name == "lambda" else name] = value
        return result

    def measured(self, chunks: Chunks, arguments: Mapping[str, Any], draws: Draws) -> Any:
        """What the method must know of the whole tensor before it can merge any element; None where nothing."""
        if self.measure is None:
            return None
        with torch.no_grad():
            return self.measure(chunks, **_asked(self.measure, {**arguments, "draws": draws}))

    def fused(self, arguments: Mapping[str, Any], whole: Any, draws: Draws, row: int) -> Terms | None:
        """The merge of a tensor with rows of `row` elements as terms; None where the method has none."""
        if self.shares is not None:
            return Terms(self.shares(**arguments))
        if self.terms is None:
            return None
        return self.terms(**_asked(self.terms, {**arguments, "draws": draws, "whole": whole, "row": row}))

    def combine(
        self,
        sources: Sequence[Tensor],
        base: Tensor | None,
        arguments: Mapping[str, Any],
        *,
        whole: Any,
        start: int,
        row: int,
        draws: Draws,
    ) -> Tensor:
        """Merges elements [start, start + b): n tensors [b] and the base's [b] to one [b]."""
        injected = {"whole": whole, "start": start, "row": row, "draws": draws}
        extra = {name: injected[name] for name in self.asks}
        if self.schema.takes_base:
            extra["base"] = base
        return self.function(sources, **extra, **arguments)

    def __call__(
        self,
        sources: Sequence[Tensor],
        base: Tensor | None = None,
        *,
        draws: Draws | None = None,
        **coefficients: Any,
    ) -> Tensor:
        """Merges whole tensors in memory, any shape: the plain form, for notebooks and tests.

        Coefficients left out take their defaults. Computes in float32 (float64 for float64 sources).
        """
        filled = {
            p.name: coefficients.get(p.name, [p.default] * len(sources) if p.per_source else p.default)
            for p in self.schema.parameters.values()
        }
        missing = [
            p.name for p in self.schema.parameters.values() if p.default is REQUIRED and p.name not in coefficients
        ]
        if missing or set(coefficients) - set(filled):
            raise TypeError(f"{self.name}: missing {missing}, unknown {sorted(set(coefficients) - set(filled))}")
        wide = torch.float64 if sources[0].dtype == torch.float64 else torch.float32
        sources = [source.to(wide) for source in sources]
        base = None if base is None else base.to(wide)
        draws = draws or Draws(0, "")
        arguments = self.arguments(filled)
        chunks = Chunks.of(sources, base, multiple=self.multiple(sources[0].shape))
        whole = self.measured(chunks, arguments, draws)
        flat, flat_base = [source.reshape(-1) for source in sources], None if base is None else base.reshape(-1)
        merged = self.combine(flat, flat_base, arguments, whole=whole, start=0, row=chunks.row, draws=draws)
        return merged.reshape(sources[0].shape)


def _asked(function: Callable[..., Any], available: Mapping[str, Any]) -> dict[str, Any]:
    """What a function asks for by its parameters' names."""
    return {name: available[name] for name in inspect.signature(function).parameters if name in available}


def merge_method(
    *,
    sources: tuple[int, int | None] = (1, None),
    measure: Callable[..., Any] | None = None,
    refuses: Callable[[Coefficients], str | None] | None = None,
    shares: Callable[..., Tensor] | None = None,
    terms: Callable[..., Terms] | None = None,
) -> Callable[[Callable[..., Tensor]], Method]:
    """Makes a `Method` of a function.

    Args:
        sources: Fewest and most sources (not counting the base of a method that takes one).
        measure: ``measure(chunks, <any of the method's parameters>, draws)``: looks over the whole tensor once or more
            and returns what the function receives as `whole`.
        refuses: Of a tensor's coefficients, why they cannot be meant; None where they can.
        shares: Of a method linear in its sources, how much of each it takes: its gradients then cost an inner product.
        terms: ``terms(<any of the parameters>, whole, row, draws)``: what a compiled merge needs, see `fused`. A
            method with `shares` needs none.
    """

    def decorate(function: Callable[..., Tensor]) -> Method:
        parameters = inspect.signature(function).parameters
        given = [p for p in parameters.values() if p.name not in INPUTS and p.name not in INJECTED]
        asks = frozenset(name for name in parameters if name in INJECTED)
        schema = MethodSchema(
            name=function.__name__,
            takes_base="base" in parameters,
            needs_base="base" in parameters and parameters["base"].default is inspect.Parameter.empty,
            min_sources=sources[0],
            max_sources=sources[1],
            parameters={p.name.rstrip("_"): _schema(p) for p in given},
            random="draws" in asks,
            refuses=refuses,
            summary=(inspect.getdoc(function) or "").split("\n", 1)[0],
        )
        return Method(schema, function, measure, asks, shares, terms)

    return decorate


def _schema(parameter: inspect.Parameter) -> ParameterSchema:
    default = REQUIRED if parameter.default is inspect.Parameter.empty else parameter.default
    kind = "bool" if isinstance(default, bool) else "int" if isinstance(default, int) else "float"
    per_source = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    smooth = kind == "float" and parameter.annotation != Threshold
    return ParameterSchema(parameter.name.rstrip("_"), per_source, kind, default, smooth)
