"""Whole merges of bfloat16 tensors in one pass, compiled by numba: the same bits that torch takes twenty passes for.

Every loop is one that LLVM turns into vector instructions, over tiles that stay in a core's first cache: from bfloat16
to bfloat16 no number in between meets the memory, which is what a merge on a CPU waits for. Sums and products are
rounded one by one, as written. The interpreter's lock is free meanwhile, so threads do not wait for each other.
Compiled when first called, and kept beside the package or in the user's cache.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

TILE = 2048  # elements
QUARTER = 256  # of the elements of a row that are first added in float32: see `chunks.totals`
_SIGN, _ONE, _ZERO = np.uint32(1 << 31), np.uint32(0x3F800000), np.float32(0)


def _compiled(function: F) -> F:
    try:
        kept: Any = numba.njit(nogil=True, error_model="numpy", cache=True)
        return kept(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep it in
        made: Any = numba.njit(nogil=True, error_model="numpy")
        return made(function)  # type: ignore[no-any-return]


@_compiled
def _widen(narrow: Any, wide: Any) -> None:
    bits = wide.view(np.uint32)
    for j in range(len(narrow)):
        bits[j] = np.uint32(narrow[j]) << np.uint32(16)


@_compiled
def _round(wide: Any, narrow: Any) -> None:
    """To the nearest, of two the even one."""
    bits = wide.view(np.uint32)
    for j in range(len(narrow)):
        x = bits[j]
        up = np.uint32(x + np.uint32(0x7FFF) + ((x >> np.uint32(16)) & np.uint32(1)))
        nan = (x & ~_SIGN) > np.uint32(0x7F800000)
        narrow[j] = np.uint16(0x7FC0) if nan else np.uint16(up >> np.uint32(16))


@_compiled
def _subtract(narrow: Any, base: Any, delta: Any) -> None:
    """δ = x − base: x in bfloat16, the others float32."""
    _widen(narrow, delta)
    for j in range(len(delta)):
        delta[j] -= base[j]


@_compiled
def _trim(delta: Any, limit: Any) -> None:
    """Zero where |δ| ≤ limit; NaN stays."""
    for j in range(len(delta)):
        x = delta[j]
        delta[j] = _ZERO if (x >= -limit) & (x <= limit) else x


@_compiled
def _signs(x: Any, out: Any) -> None:
    """±1 by the sign bit."""
    bits, signs = x.view(np.uint32), out.view(np.uint32)
    for j in range(len(bits)):
        signs[j] = bits[j] & _SIGN | _ONE


@_compiled
def merge(
    rows: Any, has_base: bool, share: Any, limits: Any, within: Any, masks: Any, scale: Any, election: Any, out: Any
) -> None:
    """base + Σ_i scale_i mask_i δ_i, or TIES' election over these terms: what `steps` says, element by element.

    Args:
        rows: The sources and last the base, bits of bfloat16, at least [n + has_base, b].
        has_base: False where the terms are the sources themselves.
        share: The base's, float32 [1], where the terms are the sources all the same; or [0].
        limits: float32 [n, 2]: magnitudes up to the first are pruned in the elements before `within`, up to the second
            from there on. Negative ones prune nothing.
        within: int64 [n].
        masks: uint8 [n, b]: what to multiply with; or [0, 0].
        scale: float32 [n].
        election: float32 [n + 2]: the w_i of the divisor (NaN where the sum is not divided), the least of them, and λ;
            [0] for the plain sum.
        out: bits of bfloat16 [b].
    """
    n, length = len(scale), len(out)
    terms = np.empty((n, TILE), np.float32)
    sums, grounds = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for start in range(0, length, TILE):
        count = min(TILE, length - start)  # all slices below have this length
        summed, ground = sums[:count], grounds[:count]
        if has_base:
            _widen(rows[n, start : start + count], ground)
        for i in range(n):
            term, weight = terms[i, :count], scale[i]
            if has_base and len(share) == 0:
                _subtract(rows[i, start : start + count], ground, term)
            else:
                _widen(rows[i, start : start + count], term)
            edge = min(max(within[i] - start, 0), count)
            if limits[i, 0] >= 0:
                _trim(term[:edge], limits[i, 0])
            if limits[i, 1] >= 0:
                _trim(term[edge:], limits[i, 1])
            if len(masks):
                mask = masks[i, start : start + count]
                for j in range(count):
                    term[j] *= np.float32(mask[j])
            for j in range(count):
                term[j] *= weight
            _add(term, summed, i == 0)
        if len(election):
            _elect(terms, election, summed)
        if len(share):
            for j in range(count):
                ground[j] *= share[0]
        if has_base:
            for j in range(count):
                summed[j] = ground[j] + summed[j]
        _round(summed, out[start : start + count])


@_compiled
def _add(x: Any, total: Any, first: bool) -> None:
    if first:
        for j in range(len(total)):
            total[j] = x[j]
    else:
        for j in range(len(total)):
            total[j] += x[j]


@_compiled
def _elect(terms: Any, election: Any, summed: Any) -> None:
    """`summed` [b], Σ_i of terms [n, ≥ b], becomes the mean of those that agree with its sign; the terms are lost."""
    n, count = len(terms), len(summed)
    least, lambda_, normalize = election[n], election[n + 1], election[0] == election[0]
    signs, divisors, shared = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    sign, divisor, share = signs[:count], divisors[:count], shared[:count]
    _signs(summed, sign)
    for i in range(n):
        term, weight = terms[i, :count], election[i]
        for j in range(count):
            x = term[j] * sign[j]
            term[j] = _ZERO if x <= 0 else x
        _add(term, summed, i == 0)
        if normalize:
            for j in range(count):
                share[j] = weight if term[j] > 0 else _ZERO
            _add(share, divisor, i == 0)
    for j in range(count):
        summed[j] *= sign[j]
    if normalize:
        for j in range(count):
            by = divisor[j]
            if least > 0:
                by = by if by > least else least
            else:
                by = np.float32(1) if by == 0 else by
            summed[j] /= by
    if lambda_ != 1:
        for j in range(count):
            summed[j] *= lambda_


@_compiled
def look(narrow: Any, base: Any, low: Any, high: Any, bits: Any, places: Any) -> tuple[int, int]:
    """How many |source − base| [b] have bits below `low` (uint32), and how many are in [low, high).

    Of the latter come first the bits in `bits`, uint32 [b + 1], and the places in `places`, int64 [b + 1].
    """
    grounds, deltas, flags = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.uint8)
    some, eights = np.empty(TILE // 8 + 1, np.int32), flags.view(np.uint64)
    below, found, width = 0, 0, np.uint32(high - low)
    for start in range(0, len(narrow), TILE):
        count = min(TILE, len(narrow) - start)
        ground, delta, inside = grounds[:count], deltas[:count], flags[:count]
        _widen(base[start : start + count], ground)
        _subtract(narrow[start : start + count], ground, delta)
        sizes, under, few = delta.view(np.uint32), np.uint32(0), 0
        for j in range(count):  # sums and loops of one width, and no branches: all of it in vectors
            under = np.uint32(under + (np.uint32((sizes[j] & ~_SIGN) - low) >> np.uint32(31)))
        for j in range(count):
            inside[j] = np.uint8(np.uint32((sizes[j] & ~_SIGN) - low) < width)
        below += int(under)
        for eight in range((count + 7) // 8):
            some[few] = eight
            few += eights[eight] != 0
        for k in range(few):
            for j in range(8 * some[k], min(8 * some[k] + 8, count)):
                bits[found] = sizes[j] & ~_SIGN
                places[found] = start + j
                found += inside[j]
    return below, found


@_compiled
def norms(narrow: Any, base: Any, mask: Any) -> tuple[float, float]:
    """Σ|δ| and Σ|mask δ| of a chunk in float64, the first additions as in `chunks.totals`; mask: uint8 [b]."""
    grounds, deltas = np.empty(4 * QUARTER, np.float32), np.empty(4 * QUARTER, np.float32)
    lanes, whole, kept = np.zeros((2, QUARTER), np.float64), 0.0, 0.0
    for start in range(0, len(narrow), 4 * QUARTER):
        count = min(4 * QUARTER, len(narrow) - start)
        delta, few = deltas[:count], mask[start : start + count]
        _widen(base[start : start + count], grounds[:count])
        _subtract(narrow[start : start + count], grounds[:count], delta)
        for j in range(count):
            delta[j] = abs(delta[j])
        whole += _sum_row(delta, lanes[0])
        for j in range(count):
            delta[j] *= np.float32(few[j])
        kept += _sum_row(delta, lanes[1])
    for j in range(QUARTER):
        whole += lanes[0, j]
        kept += lanes[1, j]
    return whole, kept


@_compiled
def products(a: Any, b: Any) -> tuple[float, float, float]:
    """Σa², Σab and Σb² of bfloat16 numbers, in float64."""
    wide, other = np.empty(QUARTER, np.float32), np.empty(QUARTER, np.float32)
    lanes = np.zeros((3, QUARTER), np.float64)
    for start in range(0, len(a), QUARTER):
        count = min(QUARTER, len(a) - start)
        x, y = wide[:count], other[:count]
        _widen(a[start : start + count], x)
        _widen(b[start : start + count], y)
        for j in range(count):
            lanes[0, j] += np.float64(x[j]) * np.float64(x[j])
        for j in range(count):
            lanes[1, j] += np.float64(x[j]) * np.float64(y[j])
        for j in range(count):
            lanes[2, j] += np.float64(y[j]) * np.float64(y[j])
    return lanes[0].sum(), lanes[1].sum(), lanes[2].sum()


@_compiled
def _sum_row(x: Any, lanes: Any) -> float:
    """Adds a whole row to the lanes, float64 [QUARTER]; of a shorter one gives the sum."""
    rest = 0.0
    if len(x) == 4 * QUARTER:
        a, b, c, d = x[:QUARTER], x[QUARTER : 2 * QUARTER], x[2 * QUARTER : 3 * QUARTER], x[3 * QUARTER :]
        for j in range(QUARTER):
            lanes[j] += np.float64((a[j] + c[j]) + (b[j] + d[j]))
    else:
        for j in range(len(x)):
            rest += np.float64(x[j])
    return rest


@_compiled
def draw(counters: Any, keys: Any, factors: Any, first: int, out: Any) -> None:
    """The hash of `draws`: int32 [b].

    Args:
        counters: Of one span, mixed: uint32 [s].
        keys: Of every span: uint32 [spans, 2].
        factors: uint32 [2].
        first: Where in the first span it begins.
    """
    for span in range(len(keys)):
        begin = max(span * len(counters) - first, 0)
        drawn = out[begin : (span + 1) * len(counters) - first]
        some = counters[begin + first - span * len(counters) :]
        key0, key1, factor0, factor1 = keys[span, 0], keys[span, 1], factors[0], factors[1]
        for j in range(len(drawn)):
            x = np.uint32((some[j] ^ key0) * factor0)
            drawn[j] = np.int32(np.uint32(np.uint32((x ^ (x >> np.uint32(15))) + key1) * factor1))


@_compiled
def draw_below(counters: Any, keys: Any, factors: Any, first: int, limit: Any, out: Any) -> None:
    """Where that hash is below a limit: uint8 [b]."""
    tile = np.empty(TILE, np.int32)
    for start in range(0, len(out), TILE):
        kept = out[start : start + TILE]
        drawn, at = tile[: len(kept)], first + start
        span, last = at // len(counters), (at + len(kept) - 1) // len(counters)
        draw(counters, keys[span : last + 1], factors, at - span * len(counters), drawn)
        for j in range(len(kept)):
            kept[j] = np.uint8(drawn[j] < limit)


@_compiled
def magnitudes(narrow: Any, base: Any, flipped: bool, out: Any) -> None:
    """Bits of |source − base| as int32 [b], which order like the magnitudes; the other way round if `flipped`."""
    grounds, deltas = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for start in range(0, len(narrow), TILE):
        count = min(TILE, len(narrow) - start)
        ground, delta, keys = grounds[:count], deltas[:count], out[start : start + count]
        _widen(base[start : start + count], ground)
        _subtract(narrow[start : start + count], ground, delta)
        bits, flip = delta.view(np.uint32), np.uint32(0xFFFFFFFF) if flipped else np.uint32(0)
        for j in range(count):
            keys[j] = np.int32((bits[j] & ~_SIGN) ^ flip)


@_compiled
def keep_ranked(keys: Any, ascending: Any, draws: Any, slope: Any, offset: Any, limit: Any, out: Any) -> None:
    """DELLA's mask uint8 [b]: see `della`.

    Args:
        keys: int32 [rows, n].
        ascending: Each row sorted.
        draws: int32 [b].
        slope, offset: float32: an element is kept from rank draw · slope + offset on.
        limit: None at or above this draw is kept.
    """
    rows, n = keys.shape
    places, firsts = np.empty(TILE, np.int32), np.empty(TILE, np.int32)
    last = np.float32(n - 1)
    for row in range(rows):
        for start in range(0, n, TILE):
            count = min(TILE, n - start)
            begin = row * n + start
            drawn, kept = draws[begin : begin + count], out[begin : begin + count]
            key, place, first = keys[row, start : start + count], places[:count], firsts[:count]
            for j in range(count):
                least = np.float32(np.float32(drawn[j]) * slope) + offset
                least = min(max(least, _ZERO), last)
                above = np.int32((drawn[j] & np.int32(1) == 0) & (least >= np.float32(1)))
                place[j], first[j] = np.int32(least) - above, above
            for j in range(count):
                place[j] = ascending[row, place[j]]
            for j in range(count):
                kept[j] = np.uint8((key[j] >= place[j] + first[j]) & (drawn[j] < limit))
