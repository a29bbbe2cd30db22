"""mergekit 0.1.5's arithmetic on whole tensors, with its roundings and its random draws, bit for bit.

Not how a merge should be computed (sums of 16 bits, coefficients rounded to 16 bits), but how published ones were.
`mergeopt.methods` says what the methods mean; the functions here, in which dtype and order mergekit adds up. Found by
experiment; tests/golden/test_match.py compares every one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import Tensor

from mergeopt.methods.as_mergekit.average import linear, model_stock, passthrough
from mergeopt.methods.as_mergekit.delta import bernoulli, magnitude, magprune, merge_deltas, outliers
from mergeopt.methods.as_mergekit.select import arcee_fusion, nearswap, ram, ramplus_tl, sce
from mergeopt.methods.as_mergekit.sphere import karcher, multislerp, nuslerp, slerp

Arithmetic = Callable[..., Tensor]
"""Takes `Inputs` and the method's parameters by name (`lambda_`); per-source ones as sequences."""

ARITHMETIC: Mapping[str, Arithmetic] = MappingProxyType(
    {
        "linear": linear,
        "passthrough": passthrough,
        "model_stock": model_stock,
        "slerp": slerp,
        "nuslerp": nuslerp,
        "multislerp": multislerp,
        "karcher": karcher,
        "task_arithmetic": partial(merge_deltas, sparsify=None, elect=False),
        "ties": partial(merge_deltas, sparsify=magnitude, elect=True),
        "dare_linear": partial(merge_deltas, sparsify=bernoulli, elect=False),
        "dare_ties": partial(merge_deltas, sparsify=bernoulli, elect=True),
        "della_linear": partial(merge_deltas, sparsify=magprune, elect=False),
        "della": partial(merge_deltas, sparsify=magprune, elect=True),
        "breadcrumbs": partial(merge_deltas, sparsify=outliers, elect=False),
        "breadcrumbs_ties": partial(merge_deltas, sparsify=outliers, elect=True),
        "nearswap": nearswap,
        "sce": sce,
        "ram": ram,
        "ramplus_tl": ramplus_tl,
        "arcee_fusion": arcee_fusion,
    }
)
PROMOTED = frozenset({"arcee_fusion", "ramplus_tl"})
"""Methods whose result is float32 whatever the inputs are: so is their mask."""

__all__ = ["ARITHMETIC", "PROMOTED", "Arithmetic"]
