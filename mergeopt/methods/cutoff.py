"""Thresholds without a sort: the k largest magnitudes of a tensor, exactly k, equal ones in index order.

The bits of a non-negative float32 order like the float, so everything here counts bits. A few thousand elements from
all over the tensor say roughly where the k-th largest lies; one pass counts what lies above that range and keeps what
lies inside, and the k-th is among the few kept. Where the range was missed, or holds too many equal ones, two
histograms find it: of the upper 16 bits, then of the lower 16 in the bin that matters.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunk, Chunks, Narrow, source_deltas
from mergeopt.methods.kernels import at_least
from mergeopt.methods.steps import as_number

_SMALL = 1 << 17  # below it, sorting the whole tensor costs less than passing over it twice
_PIECE = 1 << 13  # elements of the sample that are read at once
_PIECES = (8, 512)  # fewest and most: a hundredth of the tensor
_SPREAD = 5  # half the width of the range, in standard errors of a sample's quantile were its elements independent
_INSIDE = 1 << 23  # elements kept inside all the ranges of one tensor

_Bits = npt.NDArray[np.uint32]

Streams = Callable[[Chunk], Sequence[Tensor]]
"""Makes of a chunk several streams of numbers [b]; the same bits whenever it is asked."""


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
        size = _bits(delta)
        limit = -1 if self.magnitude < 0 else _bits_of(self.magnitude)
        if self.last < start:
            return at_least(size, limit + 1)
        kept = at_least(size, limit)
        beyond = self.last - start + 1
        if beyond < size.numel():
            kept[beyond:] = at_least(size[beyond:], limit + 1)
        return kept

    def trim_(self, delta: Tensor, start: int) -> None:
        """Makes the delta [b] 0 where it is not kept, in place; NaN stays."""
        if delta.dtype != torch.float32:
            delta.mul_(as_number(self.keep(delta, start), delta))
            return
        if self.magnitude <= 0:  # what is not kept is 0 anyway
            return
        before, beyond = self.limits()
        within = self.within(start, delta.numel())
        if 0 < within < delta.numel():
            torch.hardshrink(delta[within:], beyond, out=delta[within:])
        torch.hardshrink(delta, before if within > 0 else beyond, out=delta)

    def limits(self) -> tuple[float, float]:
        """Magnitudes up to the first are not kept before `last` is past, up to the second from there on."""
        if self.magnitude <= 0:
            return -1.0, -1.0
        return _float_of(_bits_of(self.magnitude) - 1), self.magnitude

    def within(self, start: int, length: int) -> int:
        """How many elements of [start, start + length) lie before `last` is past."""
        return min(max(self.last - start + 1, 0), length)


EVERYTHING = Cutoff(-1.0, -1)
NOTHING = Cutoff(float("inf"), -1)


@dataclass(slots=True)
class _Search:
    """One cutoff to be found: of stream `stream`, `k` elements; `found` when it is."""

    stream: int
    k: int
    found: Cutoff | None = None


@dataclass(slots=True)
class _Range:
    """Bits [low, high) that should hold the k-th largest; what a pass found inside.

    Where the range is of one number (of a bfloat16 model's deltas many are equal), its count in each chunk is enough:
    start, length and count. Else the elements and their places.
    """

    search: _Search
    low: np.uint32
    high: np.uint32
    below: int = 0
    inside: list[_Bits] = field(default_factory=list)
    places: list[npt.NDArray[np.int64]] = field(default_factory=list)
    equal: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def one(self) -> bool:
        return int(self.high) - int(self.low) == 1


def cutoffs(
    chunks: Chunks,
    kept: Sequence[int],
    streams: Streams = source_deltas,
    name: str | None = "delta",
    of: Sequence[int] | None = None,
) -> list[Cutoff]:
    """Cutoffs that keep the kept[j] largest magnitudes of a stream each.

    Args:
        chunks: The tensor.
        kept: k.
        streams: What is ranked, by default source − base of every source.
        name: Streams that depend on the tensors alone are remembered by it.
        of: Which stream each is of; by default the j-th of stream j.
    """
    searches = [_Search(i, k) for i, k in zip(of or range(len(kept)), kept, strict=True)]
    for search in searches:
        if not 0 < search.k < chunks.numel:
            search.found = EVERYTHING if search.k >= chunks.numel else NOTHING
    if chunks.numel <= _SMALL:
        _by_sorting(chunks, _open(searches), streams, name)
    else:
        _by_sample(chunks, _open(searches), streams)
        _by_histogram(chunks, _open(searches), streams)
    return [search.found or NOTHING for search in searches]


def _open(searches: Sequence[_Search]) -> list[_Search]:
    return [search for search in searches if search.found is None]


def _bits(x: Tensor) -> Tensor:
    """Bits of |x| [b] as int32, ordered like the magnitudes."""
    return x.detach().float().abs().view(torch.int32)


def _bits_of(magnitude: float) -> int:
    return int(np.float32(magnitude).view(np.int32))


def _float_of(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))


def _by_sorting(chunks: Chunks, searches: Sequence[_Search], streams: Streams, name: str | None) -> None:
    """Small tensors, sorted once for every k that is ever asked for."""
    if not searches:
        return
    ranked = chunks.memo.get(f"ranked {name}")
    if ranked is None:
        parts = [[_bits(x) for x in streams(chunk)] for chunk in chunks]
        whole = [torch.cat(each) for each in zip(*parts, strict=True)]
        ranked = [(bits, torch.from_numpy(np.sort(bits.cpu().numpy()))) for bits in whole]
        if name is not None:
            chunks.memo[f"ranked {name}"] = ranked
    for search in searches:
        bits, ascending = ranked[search.stream]
        value = ascending[chunks.numel - search.k]
        above = chunks.numel - int(torch.searchsorted(ascending, value, right=True))
        equal = chunks.numel - above - int(torch.searchsorted(ascending, value))
        left, last = search.k - above, chunks.numel - 1
        if left < equal:
            last = int((bits == int(value)).nonzero()[left - 1])
        search.found = Cutoff(_float_of(int(value)), last)


def _by_sample(chunks: Chunks, searches: Sequence[_Search], streams: Streams) -> None:
    """Finds what it can in one pass over the tensor; on a CPU."""
    ranges = _ranges(chunks, searches, streams)
    if ranges and chunks.narrow is not None and streams is source_deltas:
        room = _look_narrowly(chunks.narrow(), ranges)
    else:
        room = _look_widely(chunks if ranges else (), ranges, streams)
    if room < 0:
        return
    for one in ranges:
        one.search.found = _of_equal(chunks, one, streams) if one.one else _within(chunks.numel, one)


def _look_narrowly(chunks: Iterable[Narrow], ranges: Sequence[_Range]) -> int:
    """Looks at the deltas of stored bits; what room is left."""
    from mergeopt.methods import compiled

    room, bits, places = _INSIDE, np.empty(0, np.uint32), np.empty(0, np.int64)
    for chunk in chunks:
        if len(bits) <= chunk.length:
            bits, places = np.empty(chunk.length + 1, np.uint32), np.empty(chunk.length + 1, np.int64)
        for one in ranges:
            source = chunk.sources[one.search.stream]
            below, count = compiled.look(source, chunk.base, one.low, one.high, bits, places)
            one.below += below
            if one.one:
                one.equal.append((chunk.start, chunk.length, count))
                continue
            one.inside.append(bits[:count].copy())
            one.places.append(places[:count] + chunk.start)
            room -= count
        if room < 0:
            break
    return room


def _look_widely(chunks: Iterable[Chunk], ranges: Sequence[_Range], streams: Streams) -> int:
    """Looks at the streams of chunks; what room is left."""
    room, scratch = _INSIDE, _Scratch(0)
    for chunk in chunks:
        found = streams(chunk)
        if len(scratch.bits) < found[0].numel():
            scratch = _Scratch(found[0].numel())
        for one in ranges:
            room -= _look(one, found[one.search.stream], chunk.start, scratch)
        if room < 0:
            break
    return room


class _Scratch:
    """Memory for one look at a chunk, used again for the next: fresh memory costs more than what is done in it."""

    def __init__(self, length: int) -> None:
        self.magnitudes = torch.empty(length)
        self.bits: _Bits = self.magnitudes.numpy().view(np.uint32)
        self.masks = np.empty((2, length), dtype=np.bool_)


def _look(one: _Range, x: Tensor, start: int, scratch: _Scratch) -> int:
    """Counts what lies below the range and keeps what lies inside: how many."""
    length = x.numel()
    bits, (below, reached) = scratch.bits[:length], scratch.masks[:, :length]
    torch.abs(x.float(), out=scratch.magnitudes[:length])
    under = int(np.count_nonzero(np.less(bits, one.low, out=below)))
    count = int(np.count_nonzero(np.less(bits, one.high, out=reached))) - under
    one.below += under
    if one.one:
        one.equal.append((start, length, count))
        return 0
    inside = np.flatnonzero(np.logical_xor(below, reached, out=reached))
    one.inside.append(bits[inside])
    one.places.append(inside + start)
    return count


def _ranges(chunks: Chunks, searches: Sequence[_Search], streams: Streams) -> list[_Range]:
    """Around the sample's quantiles; none where the tensor cannot be sampled."""
    if chunks.part is None or not searches:
        return []
    count = min(max(chunks.numel >> 20, _PIECES[0]), _PIECES[1])
    parts: dict[int, list[Tensor]] = {search.stream: [] for search in searches}
    size = min(_PIECE, chunks.numel)
    for piece in range(count):
        start = piece * (chunks.numel - size) // (count - 1)
        found = streams(chunks.part(start, start + size))
        if found[0].device.type != "cpu":
            return []
        for i, those in parts.items():
            those.append(_bits(found[i]))
    sample = {i: np.sort(torch.cat(those).numpy().view(np.uint32)) for i, those in parts.items()}
    return [_range(search, sample[search.stream], chunks.numel) for search in searches]


def _range(search: _Search, sample: _Bits, numel: int) -> _Range:
    place, half = len(sample) * (1 - search.k / numel), _SPREAD * 0.5 * len(sample) ** 0.5
    first, last = int(place - half), int(place + half) + 1
    low = int(sample[first]) if first > 0 else 0
    high = int(sample[last]) if last < len(sample) else (1 << 31) - 1
    return _Range(search, np.uint32(low), np.uint32(high + 1))


def _within(numel: int, found: _Range) -> Cutoff | None:
    """The cutoff, if the k-th largest lies in the range."""
    bits, places = np.concatenate(found.inside), np.concatenate(found.places)
    rank = numel - found.search.k - found.below  # of the k-th largest, from the smallest inside
    if not 0 <= rank < len(bits):
        return None
    value = np.partition(bits, rank)[rank]
    equal = places[bits == value]
    beyond = rank - int(np.count_nonzero(bits < value))  # equal ones that are not kept
    return Cutoff(_float_of(value), int(equal[len(equal) - 1 - beyond]) if beyond else numel - 1)


def _of_equal(chunks: Chunks, found: _Range, streams: Streams) -> Cutoff | None:
    """The same where all that lies in the range are equal: in the chunk of the last one kept, its place."""
    left = sum(count for _, _, count in found.equal) - (chunks.numel - found.search.k - found.below)
    if not 0 < left <= sum(count for _, _, count in found.equal):
        return None
    magnitude = _float_of(int(found.low))
    for start, length, count in found.equal:
        if left <= count:
            assert chunks.part is not None
            bits = _bits(streams(chunks.part(start, start + length))[found.search.stream])
            return Cutoff(magnitude, start + int((bits == int(found.low)).nonzero()[left - 1]))
        left -= count
    return None


def _by_histogram(chunks: Chunks, searches: Sequence[_Search], streams: Streams) -> None:
    """Whatever the tensor looks like, in two passes and a part of a third."""
    if not searches:
        return
    upper = [torch.zeros(1 << 16, dtype=torch.int64) for _ in searches]
    for chunk in chunks:
        found = streams(chunk)
        for search, counts in zip(searches, upper, strict=True):
            counts.add_(torch.bincount(_bits(found[search.stream]) >> 16, minlength=1 << 16).cpu())
    bins = [_kth(counts, search.k) for search, counts in zip(searches, upper, strict=True)]
    lower = [torch.zeros(1 << 16, dtype=torch.int64) for _ in searches]
    for chunk in chunks:
        found = streams(chunk)
        for search, (place, _), counts in zip(searches, bins, lower, strict=True):
            bits = _bits(found[search.stream])
            inside = bits[(bits >> 16) == place] & 0xFFFF
            counts.add_(torch.bincount(inside, minlength=1 << 16).cpu())
    for search, (place, left), counts in zip(searches, bins, lower, strict=True):
        low, equal = _kth(counts, left)
        value, last = place << 16 | low, chunks.numel - 1
        if equal < int(counts[low]):
            last = _place(chunks, streams, search.stream, value, equal)
        search.found = Cutoff(_float_of(value), last)


def _kth(counts: Tensor, k: int) -> tuple[int, int]:
    """The bin of the k-th largest, and how many are still wanted inside that bin."""
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, k))
    above = int(from_top[place - 1]) if place else 0
    return counts.numel() - 1 - place, k - above


def _place(chunks: Chunks, streams: Streams, stream: int, value: int, count: int) -> int:
    """Index of the count-th element whose magnitude has the bits `value`."""
    left = count
    for chunk in chunks:
        places = (_bits(streams(chunk)[stream]) == value).nonzero().view(-1)
        if places.numel() >= left:
            return chunk.start + int(places[left - 1])
        left -= places.numel()
    return chunks.numel - 1
