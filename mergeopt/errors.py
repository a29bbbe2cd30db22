"""The two ways a run ends badly: the user can mend it, or we cannot go on.

Every message is one line: where, what was given, and the way out. The command line prints it without a traceback and
exits with 2 for `InputError` and 1 for any other `MergeoptError`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 2000  # characters of a message: names from files may have any length


class MergeoptError(Exception):
    """Something went wrong that is not a bug: disk full, a device lost, an interrupted study."""


class InputError(MergeoptError):
    """A mistake in what the user gave: a file, a key, a path, a model.

    Args:
        problem: What is wrong, naming what was given.
        where: File, and if known line and key, e.g. ``"recipe.yaml:12 models[1].parameters.weight"``.
        remedy: The way out, e.g. ``"did you mean 'density'?"``.
    """

    def __init__(self, problem: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.problem, self.where, self.remedy = problem, where, remedy
        super().__init__(problem, where, remedy)

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem}" if self.where else self.problem
        if self.remedy:
            text += f"; {self.remedy}"
        text = " ".join(_cut(word, _LONGEST // 10) for word in text.split())
        return _cut(text, _LONGEST)

    def at(self, where: str) -> "InputError":
        """The same mistake, placed: callers that know the file add it to what the inner code found."""
        return InputError(self.problem, where=f"{where} {self.where}" if self.where else where, remedy=self.remedy)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 :]}"


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Mistakes found inside without a file are said to be in this one."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(where) or "/" in (error.where or ""):
            raise
        raise error.at(where) from None


def visible(text: str) -> str:
    """`text` with every character that could command a terminal spelled out: an escape code as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def did_you_mean(given: str, known: "list[str] | tuple[str, ...] | set[str] | frozenset[str]") -> str | None:
    """``"did you mean 'weight'?"`` when one of `known` is close to `given`, else the list of what is known."""
    import difflib

    names = sorted(known)
    folded = {name.lower().replace("-", "_"): name for name in names}
    close = difflib.get_close_matches(given.lower().replace("-", "_"), folded, n=1, cutoff=0.7)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    return f"known: {', '.join(names)}" if 0 < len(names) <= 30 else None
