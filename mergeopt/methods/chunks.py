"""One tensor of every source, seen in chunks; and sums and thresholds over the whole of it.

Methods act element by element once they know a few numbers about the whole tensor (a norm, a threshold). `Chunks` is
how they look at it without holding it: in pieces, in index order, as often as needed. Every sum is a float64 partial
sum per piece, added in index order, so that it does not depend on the number of threads or on where the tensor comes
from (streamed, resident, searched).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CHUNK = 1 << 19
"""Elements. Those of 2^16 fit a core's cache and are a tenth faster on one thread; but threads meet at Python's
lock after every pass, and two of them took longer over TIES in chunks of 2^16 than one."""
_ROW = 1 << 10  # a row is summed by one thread, so its sum does not depend on their number


@dataclass(frozen=True, slots=True)
class Chunk:
    """Elements [start, start + b) of one tensor: `sources` are n tensors [b], `base` [b] or None.

    Good until the next chunk is asked for, which may lie in the same memory.
    """

    start: int
    sources: Sequence[Tensor]
    base: Tensor | None


@dataclass(frozen=True, slots=True)
class Narrow:
    """Elements [start, start + length) as they are stored, the bits of bfloat16 numbers.

    `rows` is uint16 [n sources, ≥ length], one more for the base where there is one. Good until the next elements are
    asked for, which lie in the same memory.
    """

    start: int
    length: int
    rows: "npt.NDArray[np.uint16]"
    has_base: bool

    @property
    def sources(self) -> "npt.NDArray[np.uint16]":
        """[n, length]."""
        return self.rows[: len(self.rows) - self.has_base, : self.length]

    @property
    def base(self) -> "npt.NDArray[np.uint16]":
        """[length]."""
        return self.rows[-1, : self.length]


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of one tensor of `numel` elements, in index order, as often as asked.

    `row`: elements of a row; the chunks of a method that works by rows hold whole ones. `shape`: the tensor's. `memo`
    keeps what depends on the tensors alone, for whoever merges the same ones again with other coefficients.
    `part(start, stop)` gives some elements out of turn, where the tensor can be read so. `narrow` gives all of a large
    tensor on a CPU as it is stored, where that is bfloat16 throughout, for the kernels of `fused`.
    """

    numel: int
    read: Callable[[], Iterator[Chunk]]
    row: int = 1
    shape: tuple[int, ...] = ()
    memo: dict[str, Any] = field(default_factory=dict)
    part: Callable[[int, int], Chunk] | None = None
    narrow: Callable[[], Iterator[Narrow]] | None = None

    def __iter__(self) -> Iterator[Chunk]:
        return self.read()

    @classmethod
    def of(cls, sources: Sequence[Tensor], base: Tensor | None, *, multiple: int = 1) -> "Chunks":
        """From whole tensors in memory (any shape), in chunks of whole multiples of `multiple` elements."""
        size = whole_multiple(CHUNK, multiple)
        flat = [source.reshape(-1) for source in sources]
        flat_base = None if base is None else base.reshape(-1)
        numel = flat[0].numel()

        def part(start: int, stop: int) -> Chunk:
            base_part = None if flat_base is None else flat_base[start:stop]
            return Chunk(start, [x[start:stop] for x in flat], base_part)

        def read() -> Iterator[Chunk]:
            for start in range(0, numel, size):
                yield part(start, min(start + size, numel))

        return cls(numel, read, row_of(sources[0].shape), tuple(sources[0].shape), part=part)


def row_of(shape: Sequence[int]) -> int:
    """Elements of a row: what lies along the last axis; a tensor of one axis is one row."""
    return shape[-1] if shape else 1


def whole_multiple(block: int, multiple: int) -> int:
    """The largest multiple of `multiple` within `block`, at least one."""
    return max(1, block // multiple) * multiple


def total(x: Tensor) -> Tensor:
    """Sum of a chunk [b] in float64, the same for any number of threads."""
    whole = x.numel() - x.numel() % _ROW
    rows = x[:whole].view(-1, _ROW).sum(1, dtype=torch.float64)
    return rows.sum() + x[whole:].sum(dtype=torch.float64)


def totals(x: Tensor) -> Tensor:
    """Sums of chunks [n, b] of magnitudes, in float64 [n]: the same on every device, for any number of threads.

    The first additions, of a quarter row each, are of float32 elements at fixed places: each rounds to 2⁻²⁵, and all
    of them together to far less than what is asked of a sum; they save widening three elements in four.
    """
    whole = x.shape[1] - x.shape[1] % _ROW
    rows = x[:, :whole].view(len(x), -1, 2, _ROW // 2)
    rows = rows[:, :, 0] + rows[:, :, 1]
    rows = (rows[..., : _ROW // 4] + rows[..., _ROW // 4 :]).sum(2, dtype=torch.float64)
    return rows.sum(1) + x[:, whole:].sum(1, dtype=torch.float64)


def row_totals(x: Tensor, row: int) -> Tensor:
    """Sums of the rows of a chunk [b] of whole rows, in float64 [b / row], the same for any number of threads."""
    rows, pieces = x.view(-1, row), row // _ROW
    whole = pieces * _ROW
    parts = rows[:, :whole].reshape(rows.shape[0], pieces, _ROW).sum(2, dtype=torch.float64)
    return parts.sum(1) + rows[:, whole:].sum(1, dtype=torch.float64)


def source_deltas(chunk: Chunk) -> list[Tensor]:
    """source − base [b] of every source; the sources where there is no base."""
    return [x if chunk.base is None else x - chunk.base for x in chunk.sources]
