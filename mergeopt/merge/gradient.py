"""dL/d(coefficient) of a live merge, for any loss, in the memory of one model.

The live model holds the merge; the caller runs its loss and `backward`. As soon as a parameter's gradient G = dL/dW is
complete, a hook contracts it with the derivative of the merge, ⟨G, ∂W/∂α⟩, block by block, and drops it: one backward
gives the gradient of every coefficient, and no weight gradient outlives its hook.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mergeopt.merge.compute import chunks_of, whole
from mergeopt.merge.live import LiveModel
from mergeopt.merge.plan import Job, Plan
from mergeopt.methods import METHODS
from mergeopt.methods.chunks import Chunk, row_of, total
from mergeopt.methods.draws import Draws
from mergeopt.methods.kernels import one_thread_each
from mergeopt.methods.steps import deltas

Contract = Callable[[Job, Tensor], None]
"""Takes a job and dL/dW of its output tensor: the tensor's shape, the live dtype, valid only during the call. Called at
least once per backward that reaches the tensor (more often under re-entrant checkpointing): contributions add."""


@contextmanager
def contracting(live: LiveModel, jobs: Iterable[Job], contract: Contract) -> Iterator[None]:
    """While open, every backward through the live model hands each job its gradient, and drops it.

    The parameters that these jobs live in require gradients, all others do not. Verbatim jobs and buffers have none.
    Gradients that parameters hold on entry are dropped. On exit no hook is left and `requires_grad` is as it was.
    Extra memory: the largest parameter's gradient (twice that where it is tied), and what `contract` takes.
    """
    homes = _homes(live, jobs)
    before = [(parameter, parameter.requires_grad) for parameter in live.model.parameters()]
    handles = []
    try:
        for parameter, _ in before:
            parameter.grad = None
            parameter.requires_grad_(parameter in homes)
        for parameter, tenants in homes.items():
            hook = _handing(live, tenants, contract)
            handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required in before:
            parameter.requires_grad_(required)


def _homes(live: LiveModel, jobs: Iterable[Job]) -> dict[Tensor, list[Job]]:
    """The parameters that jobs are written into: fused experts share one, a tied head has its embeddings'."""
    owners = {p.untyped_storage().data_ptr(): p for p in live.model.parameters() if p.is_floating_point()}
    homes: dict[Tensor, list[Job]] = {}
    for job in jobs:
        owner = owners.get(live.view(job.tensor).untyped_storage().data_ptr())
        if owner is not None and not job.verbatim:
            homes.setdefault(owner, []).append(job)
    return homes


def _handing(live: LiveModel, jobs: list[Job], contract: Contract) -> Callable[[Tensor], None]:
    def hand(parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        parameter.grad = None
        if gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
        for job in jobs:
            view = live.view(job.tensor)
            place = gradient.storage_offset() + view.storage_offset() - parameter.storage_offset()
            contract(job, gradient.as_strided(view.shape, view.stride(), place))

    return hand


@dataclass(frozen=True, slots=True)
class _End:
    """The merge with one share moved: its arguments, and what they make of the whole tensor."""

    arguments: Mapping[str, Any]
    whole: Any


@dataclass(frozen=True, slots=True)
class _Secant:
    """Two merges that differ in one share (element `index` of a parameter), `width` apart."""

    name: str
    index: int
    low: _End
    high: _End
    width: float


class CoefficientGradient:
    """A `Contract` that sums dL/d(coefficient) over backwards; the live model must hold `plan`.

    A method linear in its sources, W = base + Σ c_i δ_i, costs an inner product per source, p_i = ⟨G, δ_i⟩, and the vjp
    of its `shares` c with p once, at the end. Other coefficients go through a vjp of the method's elementwise function.
    Those that its `measure` reads (densities) move masks: piecewise constant, no derivative. They are taken to be
    shares in (0, 1], and their gradient is a symmetric secant of the merged tensor, ⟨G, W(ρ+h) − W(ρ−h)⟩ / 2h, one
    source at a time and on common random numbers: the mean of G·δ at the threshold. Bool and int parameters, and those
    without a value, have none.

    Args:
        live: The model, and where its sources' elements come from.
        plan: What the model holds.
        wanted: Output tensor → names of the parameters asked for.
    """

    def __init__(self, live: LiveModel, plan: Plan, wanted: Mapping[str, frozenset[str]]) -> None:
        self._live, self._plan, self._method = live, plan, METHODS[plan.method]
        self._names: dict[str, list[str]] = {}  # output tensor -> the parameters followed
        self._sums: dict[tuple[str, str], Tensor] = {}
        self._products: dict[str, tuple[Job, Tensor]] = {}  # float64 [n], where the gradients are
        self._secants: dict[str, list[_Secant]] = {}
        for job in plan.jobs:
            if job.verbatim:
                continue
            arguments = self._arguments(job)
            followed = [name for name in sorted(wanted.get(job.tensor, ())) if isinstance(arguments[name], Tensor)]
            self._names[job.tensor] = followed
            self._sums |= {(job.tensor, name): torch.zeros_like(arguments[name]) for name in followed}

    def values(self) -> dict[tuple[str, str], Tensor]:
        """(output tensor, parameter) → the gradient so far, float64 on the CPU: [n sources], 0-D for the merge.

        Zero where no backward reached the tensor.
        """
        found = {key: value.clone() for key, value in self._sums.items()}
        for job, products in self._products.values():
            names, arguments = self._names[job.tensor], self._arguments(job)
            leaves = {name: arguments[name].requires_grad_() for name in names}
            assert self._method.shares is not None
            shares = self._method.shares(**self._method.arguments({**arguments, **leaves}))
            slopes = torch.autograd.grad(shares, list(leaves.values()), products.cpu(), materialize_grads=True)
            found |= {(job.tensor, name): slope for name, slope in zip(names, slopes, strict=True)}
        return found

    def __call__(self, job: Job, gradient: Tensor) -> None:
        names = self._names[job.tensor]
        if names:
            with one_thread_each():
                if self._method.shares is None:
                    self._add(job, gradient, names)
                else:
                    self._multiply(job, gradient.reshape(-1))

    def _multiply(self, job: Job, flat: Tensor) -> None:
        """Adds ⟨G, δ_i⟩, ⟨G, source_i⟩ without a base: products in float32, their sums over blocks in float64."""
        zeros = torch.zeros(len(job.inputs), dtype=torch.float64, device=flat.device)
        _, found = self._products.setdefault(job.tensor, (job, zeros))
        for chunk in chunks_of(job, self._live.source, differing=job.base is not None):
            part = flat[chunk.start : chunk.start + chunk.sources[0].numel()]
            vectors = torch.stack(list(chunk.sources)) if chunk.base is None else deltas(chunk.sources, chunk.base)
            found += vectors @ part.to(vectors)

    def _add(self, job: Job, gradient: Tensor, names: list[str]) -> None:
        smooth = [name for name in names if name not in self._method.measured_by]
        measured = self._live.whole(job, self._plan)
        arguments = self._arguments(job)
        secants = self._secants_of(job, [name for name in names if name not in smooth])
        draws, flat, row = Draws(self._plan.seed, job.tensor), gradient.reshape(-1), row_of(job.shape)
        for chunk in chunks_of(job, self._live.source, self._method.multiple(job.shape)):
            part = flat[chunk.start : chunk.start + chunk.sources[0].numel()]
            if smooth:
                for name, found in self._vjp(chunk, part, _End(arguments, measured), row, draws, smooth).items():
                    self._sums[job.tensor, name] += found
            for secant in secants:
                ends = [self._combine(chunk, end, row, draws) for end in (secant.low, secant.high)]
                slope = total((ends[1] - ends[0]) * part).cpu() / secant.width
                self._sums[job.tensor, secant.name].view(-1)[secant.index] += slope

    def _arguments(self, job: Job) -> dict[str, Any]:
        """By parameter name, tensors where a gradient is possible."""
        values = self._method.arguments(job.coefficients).values()
        return dict(zip(self._method.schema.parameters, values, strict=True))

    def _combine(self, chunk: Chunk, end: _End, row: int, draws: Draws) -> Tensor:
        arguments = self._method.arguments(end.arguments)
        return self._method.combine(
            chunk.sources, chunk.base, arguments, whole=end.whole, start=chunk.start, row=row, draws=draws
        )

    def _vjp(
        self, chunk: Chunk, gradient: Tensor, at: _End, row: int, draws: Draws, names: list[str]
    ) -> dict[str, Tensor]:
        leaves = {name: at.arguments[name].detach().requires_grad_() for name in names}
        with torch.enable_grad():  # hooks run without
            merged = self._combine(chunk, _End({**at.arguments, **leaves}, at.whole), row, draws)
        found = torch.autograd.grad(merged, list(leaves.values()), gradient.to(merged.dtype), materialize_grads=True)
        return dict(zip(names, found, strict=True))

    def _secants_of(self, job: Job, names: list[str]) -> list[_Secant]:
        """Kept for the next backward: finding thresholds costs several passes over the sources, applying them one."""
        if names and job.tensor not in self._secants:
            arguments = self._arguments(job)
            self._secants[job.tensor] = [
                secant
                for name in names
                for index in range(arguments[name].numel())
                if (secant := self._secant(job, arguments, name, index)) is not None
            ]
        return self._secants.get(job.tensor, [])

    def _secant(self, job: Job, arguments: Mapping[str, Any], name: str, index: int) -> _Secant | None:
        numel = self._live.view(job.tensor).numel()
        share = float(arguments[name].view(-1)[index])
        step = _step(numel)
        low, high = (min(max(share + side * step, 1 / numel), 1.0) for side in (-1, 1))
        if low == high:
            return None  # beyond 1 all is kept: flat

        def end(value: float) -> _End:
            moved = arguments[name].clone()
            moved.view(-1)[index] = value
            there = {**arguments, name: moved}
            memo = self._live.memo(job)
            found = whole(replace(job, coefficients=there), self._method, self._live.source, self._plan.seed, memo)
            return _End(there, found)

        return _Secant(name, index, end(low), end(high), high - low)


def _step(numel: int) -> float:
    """Half the width of a secant: about as far as an optimiser moves a share in one step, and at least one element.

    The width matters most: on a family of 4-layer Llamas (4 sources, 60 densities of matrices; ties at 0.3 and 0.7,
    dare_linear at 0.5) a secant correlates 1.00 with the loss's own difference over the same width. With that over
    ±.02, h = .005 correlates .64, .51, .67; .03 .94, .86, .86; .1 .81, .61, .64; over ±.1, .005 .38, .14, .51; .03 .87,
    .69, .66. A straight-through mask (backward: sigmoid((|δ| − q)/T), q the threshold, T = q/20) is one more window,
    wider: .87, .74, .83 over ±.02 and .96, .62, .88 over ±.1 (`scripts/bench_gradient.py --shares`).
    """
    return max(0.03, 1 / numel)
