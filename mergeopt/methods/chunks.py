"""One tensor of every source, seen in chunks; and sums and thresholds over the whole of it.

Methods act element by element once they know a few numbers about the whole tensor (a norm, a threshold). `Chunks` is
how they look at it without holding it: in pieces, in index order, as often as needed. Every sum is a float64 partial
sum per piece, added in index order, so that it does not depend on the number of threads or on where the tensor comes
from (streamed, resident, searched).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 16  # small enough for the cache and for malloc to keep the pages: several times as fast as 2^20
_SMALL = 1 << 17  # below it, selecting the k-th directly costs less than two histograms
_ROW = 1 << 10  # a row is summed by one thread, so its sum does not depend on their number


@dataclass(frozen=True, slots=True)
class Chunk:
    """Elements [start, start + b) of one tensor: `sources` are n tensors [b], `base` [b] or None."""

    start: int
    sources: Sequence[Tensor]
    base: Tensor | None


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of one tensor of `numel` elements, in index order, as often as asked.

    `row`: elements of a row; the chunks of a method that works by rows hold whole ones. `shape`: the tensor's. `memo`
    keeps what depends on the tensors alone, for whoever merges the same ones again with other coefficients.
    """

    numel: int
    read: Callable[[], Iterator[Chunk]]
    row: int = 1
    shape: tuple[int, ...] = ()
    memo: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Chunk]:
        return self.read()

    @classmethod
    def of(cls, sources: Sequence[Tensor], base: Tensor | None, *, multiple: int = 1) -> "Chunks":
        """From whole tensors in memory (any shape), in chunks of whole multiples of `multiple` elements."""
        size = whole_multiple(CHUNK, multiple)
        flat = [source.reshape(-1) for source in sources]
        flat_base = None if base is None else base.reshape(-1)
        numel = flat[0].numel()

        def read() -> Iterator[Chunk]:
            for start in range(0, numel, size):
                part = slice(start, start + size)
                yield Chunk(start, [x[part] for x in flat], None if flat_base is None else flat_base[part])

        return cls(numel, read, row_of(sources[0].shape), tuple(sources[0].shape))


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


def row_totals(x: Tensor, row: int) -> Tensor:
    """Sums of the rows of a chunk [b] of whole rows, in float64 [b / row], the same for any number of threads."""
    rows, pieces = x.view(-1, row), row // _ROW
    whole = pieces * _ROW
    parts = rows[:, :whole].reshape(rows.shape[0], pieces, _ROW).sum(2, dtype=torch.float64)
    return parts.sum(1) + rows[:, whole:].sum(1, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Cutoff:
    """The k largest magnitudes of a tensor: all above `magnitude`, and of the equal ones those up to index `last`.

    Magnitudes are compared in float32. Equal ones (common in bfloat16) are kept in index order, so exactly k elements
    are kept. NaN is always kept: a broken source must show.
    """

    magnitude: float
    last: int

    def keep(self, delta: Tensor, start: int) -> Tensor:
        """Mask [b] of the elements kept, by their magnitude, in a chunk that begins at `start`."""
        size = delta.float().abs()
        if self.last < start:
            return ~(size <= self.magnitude)
        kept = ~(size < self.magnitude)
        beyond = self.last - start + 1
        if beyond < size.numel():
            kept[beyond:] = ~(size[beyond:] <= self.magnitude)
        return kept


EVERYTHING = Cutoff(-1.0, -1)
NOTHING = Cutoff(float("inf"), -1)


Streams = Callable[[Chunk], Sequence[Tensor]]
"""Makes of a chunk several streams of numbers [b]; the same bits whenever it is asked."""


def source_deltas(chunk: Chunk) -> list[Tensor]:
    """source − base [b] of every source; the sources where there is no base."""
    return [x if chunk.base is None else x - chunk.base for x in chunk.sources]


def cutoffs(
    chunks: Chunks, kept: Sequence[int], streams: Streams = source_deltas, name: str | None = "delta"
) -> list[Cutoff]:
    """For each i, the cutoff that keeps the kept[i] largest magnitudes of stream i, by default of source − base.

    Streams that depend on the tensors alone are remembered by `name`. Exact, without a sort: the bits of a non-negative
    float32 order like the float, so a histogram of the upper 16 bits finds the bin of the k-th largest and a second one
    of the lower 16 bits, inside that bin, finds its value.
    """
    n = len(kept)
    wanted = [i for i in range(n) if 0 < kept[i] < chunks.numel]
    result = [EVERYTHING if k >= chunks.numel else NOTHING for k in kept]
    if not wanted:
        return result
    if chunks.numel <= _SMALL:
        ranked = chunks.memo.get(f"ranked {name}") or _ranked(chunks, streams)
        if name is not None:
            chunks.memo[f"ranked {name}"] = ranked
        for i in wanted:
            bits, ascending = ranked[i]
            result[i] = _selected(bits, ascending, kept[i])
        return result
    upper = {i: torch.zeros(1 << 16, dtype=torch.int64) for i in wanted}
    for chunk in chunks:
        found = streams(chunk)
        for i in wanted:
            upper[i] += torch.bincount(_bits(found[i]) >> 16, minlength=1 << 16).cpu()
    bins = {i: _kth(upper[i], kept[i]) for i in wanted}
    lower = {i: torch.zeros(1 << 16, dtype=torch.int64) for i in wanted}
    for chunk in chunks:
        found = streams(chunk)
        for i in wanted:
            bits = _bits(found[i])
            inside = bits[(bits >> 16) == bins[i][0]] & 0xFFFF
            lower[i] += torch.bincount(inside, minlength=1 << 16).cpu()
    exact = {i: _kth(lower[i], bins[i][1]) for i in wanted}
    values = {i: (bins[i][0] << 16) | exact[i][0] for i in wanted}
    some = {i: exact[i][1] for i in wanted if exact[i][1] < int(lower[i][exact[i][0]])}
    last = _last_equal(chunks, streams, values, some) if some else {}
    for i in wanted:
        magnitude = torch.tensor(values[i], dtype=torch.int32).view(torch.float32).item()
        result[i] = Cutoff(magnitude, last.get(i, chunks.numel - 1))
    return result


def _ranked(chunks: Chunks, streams: Streams) -> list[tuple[Tensor, Tensor]]:
    """Per stream: the bits of its magnitudes [numel] as they stand, and in ascending order."""
    parts = [[_bits(x) for x in streams(chunk)] for chunk in chunks]
    return [(bits, bits.sort().values) for bits in map(torch.cat, zip(*parts, strict=True))]


def _selected(bits: Tensor, ascending: Tensor, k: int) -> Cutoff:
    """The cutoff of the k largest of a whole tensor [numel]."""
    numel = bits.numel()
    value = ascending[numel - k]
    above = numel - int(torch.searchsorted(ascending, value, right=True))
    equal = numel - above - int(torch.searchsorted(ascending, value))
    last = numel - 1 if k - above == equal else int((bits == value).nonzero()[k - above - 1])
    return Cutoff(float(value.view(torch.float32)), last)


def _bits(x: Tensor) -> Tensor:
    """Bits of |x| [b] as int32, ordered like the magnitudes."""
    return x.float().abs().view(torch.int32)


def _kth(counts: Tensor, k: int) -> tuple[int, int]:
    """The bin of the k-th largest, and how many are still wanted inside that bin."""
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, k))
    above = int(from_top[place - 1]) if place else 0
    return counts.numel() - 1 - place, k - above


def _last_equal(chunks: Chunks, streams: Streams, values: dict[int, int], wanted: dict[int, int]) -> dict[int, int]:
    """Index of the wanted[i]-th element whose magnitude bits equal values[i]."""
    left, last = dict(wanted), {}
    for chunk in chunks:
        found = streams(chunk)
        for i in [i for i in left if i not in last]:
            places = (_bits(found[i]) == values[i]).nonzero().view(-1)
            if places.numel() >= left[i]:
                last[i] = chunk.start + int(places[left[i] - 1])
            else:
                left[i] -= places.numel()
        if len(last) == len(wanted):
            break
    return last
