"""From the gradient of every coefficient to that of a point: coefficients are affine in the point."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergeopt.merge.layout import Layout
from mergeopt.recipe.schema import MethodSchema
from mergeopt.space.branch import Branch
from mergeopt.space.meaning import Affine

Vector = NDArray[np.float64]


class Chain:
    """The Jacobian of one branch's coefficients, sparse; thresholds have no gradient, so they have no row.

    `wanted`: output tensor → the parameters of it that depend on the point.
    """

    def __init__(self, branch: Branch, layout: Layout, schema: MethodSchema) -> None:
        self._size = len(branch.dimensions)
        self._rows: list[tuple[str, str, int]] = []  # tensor, parameter, position among its values
        row, dimension, factor = [], [], []
        for slot in layout.slots:
            for name, parameter in schema.parameters.items():
                if not parameter.smooth:
                    continue
                places = [index for index, _ in slot.sources] if parameter.per_source else [None]
                for position, source in enumerate(places):
                    affine = branch.affine(source, name, slot.tensor)
                    if isinstance(affine, Affine) and affine.slopes:
                        row += [len(self._rows)] * len(affine.slopes)
                        dimension += [index for index, _ in affine.slopes]
                        factor += [slope for _, slope in affine.slopes]
                        self._rows.append((slot.tensor, name, position))
        self._row, self._dimension = np.array(row, dtype=np.int64), np.array(dimension, dtype=np.int64)
        self._factor = np.array(factor, dtype=np.float64)
        self.wanted: dict[str, frozenset[str]] = {}
        for tensor, name, _ in self._rows:
            self.wanted[tensor] = self.wanted.get(tensor, frozenset()) | {name}

    def __call__(self, values: Mapping[tuple[str, str], Tensor]) -> Vector:
        """dL/d(point) [d] from dL/d(coefficient), as `CoefficientGradient.values` gives it."""
        found = {key: value.reshape(-1).tolist() for key, value in values.items()}
        each = np.array([found[tensor, name][position] for tensor, name, position in self._rows])
        gradient = np.zeros(self._size)
        np.add.at(gradient, self._dimension, self._factor * each[self._row])
        return gradient
