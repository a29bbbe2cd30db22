"""One job becomes one tensor, chunk by chunk: the only place where plan and arithmetic meet.

Streaming merges, live candidates and tests all come through here, so a searched candidate and a written model are the
same numbers. Inside everything is float32 (float64 where an input or the output is), rounded once, at the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mergeopt.errors import InputError
from mergeopt.merge.plan import Input, Job
from mergeopt.merge.sources import TensorSource
from mergeopt.methods import Method
from mergeopt.methods.chunks import Chunk, Chunks
from mergeopt.methods.draws import Draws


def compute(job: Job, method: Method, source: TensorSource, seed: int, remembered: Any = None) -> Iterator[Tensor]:
    """The job's output in blocks, in order, in the job's dtype.

    Args:
        job: What to compute.
        method: The plan's method.
        source: Where input elements come from.
        seed: The recipe's, for addressed random numbers.
        remembered: What `whole` gave for this job before, if nothing it depends on has changed.

    Raises:
        InputError: a tensor that cannot be merged (integers) differs between the sources.
    """
    if job.verbatim:
        yield from _verbatim(job, source)
        return
    arguments = method.arguments(job.coefficients)
    draws = Draws(seed, job.tensor)
    chunks = _chunks(job, source)
    measured = remembered if remembered is not None else method.measured(chunks, arguments, draws)
    target = getattr(torch, job.dtype)
    for chunk in chunks:
        merged = method.combine(chunk.sources, chunk.base, arguments, whole=measured, start=chunk.start, draws=draws)
        yield merged.to(target)


def whole(job: Job, method: Method, source: TensorSource, seed: int, memo: dict[str, Any]) -> Any:
    """What the method must know of the whole tensor, for `compute` to remember.

    `memo` is kept by the caller as long as the job's inputs are the same tensors.
    """
    if job.verbatim or method.measure is None:
        return None
    arguments = method.arguments(job.coefficients)
    chunks = replace(_chunks(job, source), memo=memo)
    return method.measured(chunks, arguments, Draws(seed, job.tensor))


def depends(job: Job, method: Method) -> Mapping[str, Any]:
    """The coefficients that `whole` depends on."""
    return {name: job.coefficients[name] for name in method.measured_by}


def _chunks(job: Job, source: TensorSource) -> Chunks:
    numel = _numel(job)

    def wide(item: Input, start: int) -> Tensor:
        part = source.chunk(item, start, min(start + source.block, numel))
        if job.dtype == "float64":
            return part.double()
        return part if part.dtype in (torch.float32, torch.float64) else part.float()

    def read() -> Iterator[Chunk]:
        for start in range(0, numel, source.block):
            base = None if job.base is None else wide(job.base, start)
            yield Chunk(start, [wide(item, start) for item in job.inputs], base)

    return Chunks(numel, read)


def _verbatim(job: Job, source: TensorSource) -> Iterator[Tensor]:
    numel = _numel(job)
    for start in range(0, numel, source.block):
        stop = min(start + source.block, numel)
        first = source.chunk(job.reads[0], start, stop).clone()
        for item in job.reads[1:]:
            if not torch.equal(first, source.chunk(item, start, stop)):
                raise InputError(
                    f"tensor {job.tensor!r} holds {job.dtype} and differs between "
                    f"{str(job.reads[0].model)!r} and {str(item.model)!r}",
                    remedy="numbers that are not floating point cannot be merged",
                )
        yield first


def _numel(job: Job) -> int:
    numel = 1
    for size in job.shape:
        numel *= size
    return numel
