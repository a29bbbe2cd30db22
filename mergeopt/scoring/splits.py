"""Which items are searched on, and which are kept away from the search.

An item's place follows from its content and the study's seed alone, so it does not depend on the order of a file, and
equal items never end up on both sides of a fence. Within a split the items have one fixed order.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from mergeopt.errors import InputError

SEARCH_MINIMUM = 30  # below this a search follows noise
REPORT_MINIMUM = 200  # a paired difference of less than 8 points is invisible below this


@dataclass(frozen=True, slots=True)
class Shares:
    """How a pool of items is divided. The numbers are relative: they need not add to 1."""

    calibrate: float = 0.2
    search: float = 0.4
    select: float = 0.2
    report: float = 0.2

    def __post_init__(self) -> None:
        for name, share in self.all().items():
            if not 0 <= share < float("inf"):
                raise InputError(f"a share of {share} of the items", where=f"splits.{name}", remedy="give 0 or more")
        if not any(self.all().values()):
            raise InputError("all shares are 0", where="splits")

    def all(self) -> dict[str, float]:
        """Every split's share, in the order in which the pool is cut."""
        return {"calibrate": self.calibrate, "search": self.search, "select": self.select, "report": self.report}

    def of_pool(self, *, calibrate_used: bool, own_report: bool) -> dict[str, float]:
        """The shares of the source pool: an unused calibrate share joins search; a report split of its own takes
        nothing from the pool."""
        shares = self.all()
        if not calibrate_used:
            shares["search"] += shares.pop("calibrate")
        if own_report:
            del shares["report"]
        return shares


def content_hash(doc: Mapping[str, Any]) -> str:
    """What identifies an item: 16 hex digits of the sha256 of its canonical JSON."""
    text = json.dumps(doc, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def shuffled(hashes: Sequence[str], *, seed: int) -> list[int]:
    """The positions of `hashes` in the study's order: by a hash of content and seed, equal items side by side."""
    keys = [sha256(f"{seed}:{h}".encode()).hexdigest() for h in hashes]
    return sorted(range(len(hashes)), key=lambda i: (keys[i], i))


def cut(order: Sequence[int], hashes: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[int]]:
    """Cuts the ordered items by share. A cut that falls between equal items moves behind them."""
    total = sum(shares.values())
    parts: dict[str, list[int]] = {}
    start, share_so_far = 0, 0.0
    for name, share in shares.items():
        share_so_far += share
        end = max(start, round(len(order) * share_so_far / total)) if total else start
        while share and 0 < end < len(order) and end > start and hashes[order[end]] == hashes[order[end - 1]]:
            end += 1
        parts[name] = list(order[start:end])
        start = end
    return parts


def limited(count: int, limit: float | None) -> int:
    """How many of `count` items a limit leaves: a number of them, or below 1 a share (rounded up, as lm-eval does)."""
    if limit is None:
        return count
    return min(count, -int(-(count * limit) // 1) if limit < 1 else int(limit))


def check_sizes(name: str, sizes: Mapping[str, int]) -> Iterable[str]:
    """Yields a plain sentence for every split that is too small to do its work well.

    Raises:
        InputError: A split has fewer than two items.
    """
    for split, size in sizes.items():
        if size < 2:
            raise InputError(
                f"{size} item{'s' * (size != 1)} in the {split} split of {name}",
                where=name,
                remedy="give more items, or other shares under `splits`",
            )
    if sizes.get("search", SEARCH_MINIMUM) < SEARCH_MINIMUM:
        yield (
            f"{name}: {sizes['search']} items to search on; below {SEARCH_MINIMUM} the best candidate is mostly "
            "the luckiest one"
        )
    if sizes.get("report", REPORT_MINIMUM) < REPORT_MINIMUM:
        yield (
            f"{name}: {sizes['report']} items to report on; below {REPORT_MINIMUM} only large differences can be told "
            "from chance"
        )
