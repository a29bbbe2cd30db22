"""A recipe becomes tensors: plan, then act.

The package has the name of what it does, so it can be called: `mergeopt.merge(recipe, out)` is `mergeopt.api.merge`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Merge(ModuleType):
    """This package, as a function too: Python sets the package as `mergeopt.merge` as soon as a part of it is used."""

    def __call__(self, recipe: Any, out: Any, **options: Any) -> Any:
        """Makes a model folder from a recipe; see `mergeopt.api.merge`."""
        return import_module("mergeopt.api").merge(recipe, out, **options)


sys.modules[__name__].__class__ = _Merge
