"""Passthrough: one source's tensor as it is, for stacking layers ("frankenmerges")."""

from collections.abc import Sequence

from torch import Tensor

from mergeopt.methods.method import merge_method


@merge_method(sources=(1, 1))
def passthrough(sources: Sequence[Tensor], scale: Tensor | None = None) -> Tensor:
    """The source's tensor, times `scale` where one is given."""
    return sources[0] if scale is None else sources[0] * scale[0]
