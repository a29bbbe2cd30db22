"""The arithmetic of merging: pure functions of tensors, one file per method or close family.

A new method is one file and its name in `METHODS`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mergeopt.methods.arcee_fusion import arcee_fusion
from mergeopt.methods.breadcrumbs import breadcrumbs, breadcrumbs_ties
from mergeopt.methods.dare import dare_linear, dare_ties
from mergeopt.methods.della import della, della_linear
from mergeopt.methods.karcher import karcher
from mergeopt.methods.linear import linear
from mergeopt.methods.method import Method, merge_method
from mergeopt.methods.model_stock import model_stock
from mergeopt.methods.multislerp import multislerp
from mergeopt.methods.nearswap import nearswap
from mergeopt.methods.nuslerp import nuslerp
from mergeopt.methods.passthrough import passthrough
from mergeopt.methods.ram import ram, ramplus_tl
from mergeopt.methods.sce import sce
from mergeopt.methods.slerp import slerp
from mergeopt.methods.task_arithmetic import task_arithmetic
from mergeopt.methods.ties import ties
from mergeopt.methods.tsv import tsv
from mergeopt.recipe.schema import MethodSchema

_ALL = (
    *(linear, slerp, nuslerp, multislerp, karcher, passthrough),
    *(task_arithmetic, ties, dare_linear, dare_ties, della, della_linear, breadcrumbs, breadcrumbs_ties),
    *(model_stock, sce, ram, ramplus_tl, nearswap, arcee_fusion, tsv),
)
METHODS: Mapping[str, Method] = MappingProxyType({m.name: m for m in _ALL})
SCHEMAS: Mapping[str, MethodSchema] = MappingProxyType({name: m.schema for name, m in METHODS.items()})

__all__ = ["METHODS", "SCHEMAS", "Method", "merge_method"]
