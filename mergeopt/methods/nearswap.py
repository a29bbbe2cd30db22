"""NearSwap: the source where it is near the base (alchemonaut, QuartetAnemoi-70B)."""

from collections.abc import Sequence

from torch import Tensor

from mergeopt.methods.method import merge_method


@merge_method(sources=(1, 1))
def nearswap(sources: Sequence[Tensor], base: Tensor, *, t: Tensor) -> Tensor:
    """Interpolation that is stronger where source and base are alike.

    w source + (1 − w) base with w = t / |source − base| per element, within [0, 1]: no element moves by more than t.
    """
    share = (t / (sources[0] - base).abs().clamp_min(1e-6)).clamp(0, 1)
    return sources[0] * share + base * (1 - share)
