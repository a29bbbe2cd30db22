"""Groups of tensors as an ordered list of filters.

mergekit's filters are plain substrings and the first match wins, so which filter is safe depends on what was settled
before it. `arrange` finds an order: a filter is taken only if the unsettled names it matches all belong to its group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mergeopt.errors import InputError


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that get one value.

    Attributes:
        members: Their names as filters see them.
        wanted: Filters to try first.
        paths: For layer tensors, what follows the layer number: where other filters are looked for. Without, every
            tensor is named in full.
        fallback: The user wrote this entry without a filter: close the list with it if nothing else is left.
    """

    members: tuple[str, ...]
    wanted: tuple[str, ...]
    paths: tuple[str, ...]
    fallback: bool


class Names:
    """The names that a setting is asked for, and which of them a filter matches (bit i: name i)."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.all = (1 << len(self.names)) - 1
        self._index = {name: i for i, name in enumerate(self.names)}
        self._masks: dict[str, int] = {}

    def members(self, names: Sequence[str]) -> int:
        return sum(1 << i for i in {self._index[name] for name in names})

    def matches(self, word: str) -> int:
        if word not in self._masks:
            self._masks[word] = sum(1 << i for i, name in enumerate(self.names) if word in name)
        return self._masks[word]


def arrange(names: Names, groups: Sequence[Group]) -> list[tuple[str | None, int]]:
    """(filter, index of its group) in the order to write; filter None matches all that is left.

    Names in no group stay unmatched: a lower scope answers for them.

    Raises:
        InputError: no order of substrings can tell the groups apart.
    """
    unsettled = names.all
    left = [names.members(group.members) for group in groups]
    written: list[tuple[str | None, int]] = []
    while any(left):
        before = len(written)
        for i, group in enumerate(groups):
            while left[i]:
                word = _next(names, group, left[i], unsettled)
                if word == "":
                    break
                settled = unsettled if word is None else names.matches(word) & unsettled
                written.append((word, i))
                unsettled &= ~settled
                left[i] &= ~settled
        if len(written) == before:
            stuck = next(mask for mask in left if mask)
            name = names.names[stuck.bit_length() - 1]
            raise InputError(
                f"no filter can give tensor {name!r} a value of its own: its name is part of others",
                remedy="do not split it from them",
            )
    return written


def _next(names: Names, group: Group, left: int, unsettled: int) -> str | None:
    """The best filter for what is left of the group; "" where none is safe yet."""
    if group.fallback and unsettled == left:
        return None

    def covers(word: str) -> int:
        mask = names.matches(word) & unsettled
        return mask.bit_count() if mask & ~left == 0 else 0

    for word in group.wanted:
        if covers(word):
            return word
    candidates = dict.fromkeys(word for path in group.paths for word in _subpaths(path))
    best = max(candidates, key=covers, default="")
    if best and covers(best):
        return best
    named = next((name for name in group.members if names.members([name]) & left and covers(name)), "")
    return None if not named and unsettled == left else named


def _subpaths(path: str) -> Iterator[str]:
    """``mlp.up_proj.weight`` → ``mlp``, ``up_proj``, ``mlp.up_proj``, …, the short ones first, then with their dots."""
    segments = path.split(".")
    runs = [
        (i, ".".join(segments[i : i + length]))
        for length in range(1, len(segments) + 1)
        for i in range(len(segments) - length + 1)
    ]
    yield from (run for _, run in runs)
    for i, run in runs:
        yield f".{run}"
        if i + len(run.split(".")) < len(segments):
            yield f".{run}."
