"""Learn how to merge language models.

A recipe says how sources become one model; methods are the arithmetic; checkpoint holds the tensors; merge joins
the two; a space says what may vary; an optimizer proposes; scoring measures; a study repeats and remembers; a
report tells.

From Python: `merge(recipe, out)`, `search(space, out)`, `evaluate(models, evals)`, `load(out)`. They are in
`mergeopt.api`, which is imported when one of them is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergeopt.api import Evaluation, LearnedMerge, MergedModel, evaluate, load, search

__version__ = "0.1.0"
__all__ = ["Evaluation", "LearnedMerge", "MergedModel", "evaluate", "load", "merge", "search"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "merge":  # the package of this name, which can be called
        return import_module("mergeopt.merge")
    if name in __all__:
        return getattr(import_module("mergeopt.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
