"""One job becomes one tensor, chunk by chunk: the only place where plan and arithmetic meet.

Streaming merges, live candidates and tests all come through here, so a searched candidate and a written model are the
same numbers. Inside everything is float32 (float64 where an input or the output is), rounded once, at the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mergeopt.errors import InputError
from mergeopt.merge.plan import Job
from mergeopt.merge.refinement import Refinement, delta, rescaled
from mergeopt.merge.sources import TensorSource
from mergeopt.methods import Method
from mergeopt.methods.chunks import Chunk, Chunks, Narrow, row_of, whole_multiple
from mergeopt.methods.draws import Draws
from mergeopt.methods.kernels import one_thread_each

LARGE = 1 << 18  # elements
BLOCK = 1 << 20  # elements: fewer and the threads meet too often at the interpreter's lock

Factors = tuple[Tensor, Tensor, Tensor]
"""U [rows, r], σ [r], Vᵀ [r, rest] of a delta [rows, rest]."""


def compute(
    job: Job,
    method: Method,
    source: TensorSource,
    seed: int,
    remembered: Any = None,
    refinement: Refinement | None = None,
    memo: dict[str, Any] | None = None,
) -> Iterator[Tensor]:
    """The job's output in blocks, in order, in the job's dtype.

    Args:
        job: What to compute.
        method: The plan's method.
        source: Where input elements come from.
        seed: The recipe's, for addressed random numbers.
        remembered: What `whole` gave for this job before, if nothing it depends on has changed.
        refinement: What is added below the tensor.
        memo: As for `whole`: keeps the factors of singular components.

    Raises:
        InputError: a tensor that cannot be merged (integers) differs between the sources, or one whose singular
            components are refined is not finite.
    """
    if job.verbatim or not job.inputs:
        yield from _verbatim(job, source)
        return
    arguments = method.arguments(job.coefficients)
    draws = Draws(seed, job.tensor)
    linear = method.shares is not None and job.base is not None
    chunks = chunks_of(job, source, method.multiple(job.shape), differing=linear)
    measured = remembered if remembered is not None else method.measured(chunks, arguments, draws)
    target = getattr(torch, job.dtype)
    scaled = [] if refinement is None else refinement.scaled(job)
    singular = {} if refinement is None else refinement.singular(job)
    change = _singular(job, source, singular, {} if memo is None else memo) if singular else None
    if chunks.narrow is not None and not scaled and change is None:
        terms = method.fused(arguments, measured, draws, chunks.row)
        if terms is not None:
            yield from map(terms.merged, chunks.narrow())
            return
    for chunk in chunks:
        merged = method.combine(
            chunk.sources, chunk.base, arguments, whole=measured, start=chunk.start, row=chunks.row, draws=draws
        )
        merged = rescaled(merged, chunk, job, scaled)
        if change is not None:
            merged = merged + change[chunk.start : chunk.start + merged.numel()]
        yield merged.to(target, copy=any(merged is source for source in chunk.sources))


def whole(job: Job, method: Method, source: TensorSource, seed: int, memo: dict[str, Any]) -> Any:
    """What the method must know of the whole tensor, for `compute` to remember.

    `memo` is kept by the caller as long as the job's inputs are the same tensors.
    """
    if job.verbatim or not job.inputs or method.measure is None:
        return None
    arguments = method.arguments(job.coefficients)
    chunks = replace(chunks_of(job, source, method.multiple(job.shape)), memo=memo)
    return method.measured(chunks, arguments, Draws(seed, job.tensor))


def depends(job: Job, method: Method) -> Mapping[str, Any]:
    """The coefficients that `whole` depends on."""
    return {name: job.coefficients[name] for name in method.measured_by}


def factors(job: Job, index: int, source: TensorSource, memo: dict[str, Any]) -> Factors:
    """The SVD of one source's delta as [first axis, rest], kept in `memo`. Holds the whole delta.

    The same bits on one machine and device: LAPACK's depend on the number of threads, so there is one.

    Raises:
        InputError: the delta holds NaN or infinity.
    """
    key = f"svd {index}"
    if key not in memo:
        matrix = torch.cat([delta(chunk, index) for chunk in chunks_of(job, source)]).view(job.shape[0], -1)
        if not bool(torch.isfinite(matrix).all()):
            problem = f"the delta of {str(job.inputs[index].model)!r} in tensor {job.tensor!r} holds NaN or infinity"
            raise InputError(problem, remedy="it has no singular components to refine")
        with one_thread_each():
            memo[key] = tuple(torch.linalg.svd(matrix, full_matrices=False))
    found: Factors = memo[key]
    return found


def _singular(job: Job, source: TensorSource, shares: Mapping[int, Tensor], memo: dict[str, Any]) -> Tensor:
    """Σ_k U_k diag(s_k σ_k) V_kᵀ, flat [numel]: whole at once, as a product's bits depend on how it is cut."""
    found: Tensor | None = None
    for index, share in shares.items():
        left, sigma, right = factors(job, index, source, memo)
        with one_thread_each():
            part = (left * (share.to(sigma) * sigma)) @ right
        found = part if found is None else found + part
    assert found is not None
    return found.view(-1)


def chunks_of(job: Job, source: TensorSource, multiple: int = 1, *, differing: bool = False) -> Chunks:
    """The job's inputs in blocks of whole multiples of `multiple` elements, widened, in memory used again.

    `differing`: for who only takes differences from the base (the first source where there is none). A GPU subtracts
    narrow numbers from a wide one as fast as it widens them, so there only the base is widened.
    """
    numel, block = _numel(job), whole_multiple(source.block, multiple)
    wide = torch.float64 if job.dtype == "float64" else torch.float32
    ground = 0 if job.base is None else len(job.reads) - 1
    widened = [ground] if differing and source.device.type != "cpu" else range(len(job.reads))

    def stored(start: int, stop: int) -> list[Tensor]:
        return [source.chunk(item, start, stop) for item in job.reads]  # of different models, so each its own memory

    def chunk(start: int, parts: Sequence[Tensor], memory: Sequence[Tensor]) -> Chunk:
        found = list(parts)
        for place, row in zip(widened, memory, strict=True):
            found[place] = _widened(parts[place], row)
        return Chunk(start, found[: len(job.inputs)], None if job.base is None else found[-1])

    def memory(length: int, parts: Sequence[Tensor]) -> list[Tensor]:
        return list(parts[0].new_empty((len(widened), length), dtype=wide).unbind())

    def part(start: int, stop: int) -> Chunk:
        parts = stored(start, stop)
        return chunk(start, parts, memory(stop - start, parts))

    def read() -> Iterator[Chunk]:
        again: list[Tensor] = []
        for start in range(0, numel, block):
            parts = stored(start, min(start + block, numel))
            again = again or memory(min(block, numel), parts)
            yield chunk(start, parts, again)

    narrow = None
    if _is_narrow(job, source, numel):
        narrow = partial(_narrow, job, source, numel, whole_multiple(BLOCK, multiple))
    return Chunks(numel, read, row_of(job.shape), job.shape, part=part, narrow=narrow)


def _is_narrow(job: Job, source: TensorSource, numel: int) -> bool:
    """Whether the tensor is bfloat16 throughout, on a CPU, and large enough to load the compiled kernels for."""
    if job.dtype != "bfloat16" or numel < LARGE:
        return False
    return source.device.type == "cpu" and all(source.dtype(item) == torch.bfloat16 for item in job.reads)


def _narrow(job: Job, source: TensorSource, numel: int, block: int) -> Iterator[Narrow]:
    memory = torch.empty(len(job.reads), min(block, numel), dtype=torch.bfloat16)
    for start in range(0, numel, block):
        length = min(block, numel - start)
        for row, item in zip(memory, job.reads, strict=True):
            source.fill(item, start, row[:length])
        yield Narrow(start, length, memory.view(torch.uint16).numpy(), job.base is not None)


def _widened(part: Tensor, memory: Tensor) -> Tensor:
    """The part in at least the memory's dtype: itself, or in the memory."""
    if part.dtype in (memory.dtype, torch.float64):
        return part
    return memory[: part.numel()].copy_(part)


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
        yield first.to(getattr(torch, job.dtype))


def _numel(job: Job) -> int:
    numel = 1
    for size in job.shape:
        numel *= size
    return numel
