"""A known recipe as a point of the space, so that the search can begin there.

Every coefficient is affine in the point, so the point that comes closest to a recipe's coefficients, weighted by the
tensors' sizes, is a least-squares problem.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergeopt.merge.plan import Job, Plan
from mergeopt.optimizers import Start
from mergeopt.recipe.recipe import Recipe
from mergeopt.recipe.schema import MethodSchema
from mergeopt.space.branch import Branch
from mergeopt.space.meaning import Affine

EXACT = 1e-3  # root mean square difference in the coefficients up to which the point counts as the recipe


@dataclass(frozen=True, slots=True)
class Fitted:
    """A start, and how far its coefficients are from the recipe's (root mean square, over elements)."""

    start: Start
    error: float

    @property
    def exact(self) -> bool:
        return self.error <= EXACT


def nearest_point(
    recipe: Recipe, plan: Plan, branches: Sequence[tuple[Branch, Recipe]], schema: MethodSchema
) -> Fitted | None:
    """The point nearest to a recipe, over the branches of its method, base and sources; None where there is none.

    Args:
        recipe: The start.
        plan: Its plan.
        branches: Each branch with its recipe at init.
        schema: Of the recipe's method.
    """
    found = []
    for index, (branch, at_init) in enumerate(branches):
        if (at_init.method, at_init.base) != (recipe.method, recipe.base):
            continue
        order = _order(recipe, at_init)
        if order is not None:
            found.append(_fit(index, branch, plan, order, schema))
    return min(found, key=lambda fitted: fitted.error, default=None)


def _order(recipe: Recipe, other: Recipe) -> list[dict[int, int]] | None:
    """Per slice: for each source position in `recipe` the position in `other`; None where they differ."""
    if len(recipe.slices) != len(other.slices):
        return None
    orders = []
    for mine, theirs in zip(recipe.slices, other.slices, strict=True):
        places = {(s.model, s.layer_range): i for i, s in enumerate(theirs.sources) if s.model != other.base}
        own = [(i, (s.model, s.layer_range)) for i, s in enumerate(mine.sources) if s.model != recipe.base]
        if {key for _, key in own} != set(places):
            return None
        orders.append({i: places[key] for i, key in own})
    return orders


def _fit(index: int, branch: Branch, plan: Plan, orders: Sequence[Mapping[int, int]], schema: MethodSchema) -> Fitted:
    rows, targets, sizes = [], [], []
    for job in plan.jobs:
        if job.verbatim:
            continue
        for affine, value in _pairs(job, branch, orders[0] if len(orders) == 1 else None, schema):
            row = np.zeros(len(branch.dimensions))
            for dimension, factor in affine.slopes:
                row[dimension] = factor
            rows.append(row)
            targets.append(value - affine.constant)
            sizes.append(np.prod(job.shape))
    low = np.array([d.low for d in branch.dimensions])
    high = np.array([d.high for d in branch.dimensions])
    if not rows:
        return Fitted(Start(index, branch.init), 0.0)
    matrix, target, weight = np.array(rows), np.array(targets), np.sqrt(np.array(sizes) / np.sum(sizes))
    init = np.array(branch.init)
    # around the init, so that a dimension that nothing determines stays there
    step = np.linalg.lstsq(matrix * weight[:, None], (target - matrix @ init) * weight, rcond=None)[0]
    point = branch.rounded(np.clip(init + step, low, high).tolist())
    error = float(np.sqrt(np.sum((weight * (matrix @ np.array(point) - target)) ** 2)))
    return Fitted(Start(index, point), error)


def _pairs(
    job: Job, branch: Branch, order: Mapping[int, int] | None, schema: MethodSchema
) -> list[tuple[Affine, float]]:
    """(how the branch makes it, what the recipe has) for every searched coefficient of one tensor."""
    pairs: list[tuple[Affine, float]] = []
    for name, parameter in schema.parameters.items():
        if not parameter.per_source:
            values: list[tuple[int | None, object]] = [(None, job.coefficients[name])]
        else:
            places = sorted(order) if order is not None else range(len(job.inputs))
            positions = [order[i] if order is not None else i for i in places]
            values = list(zip(positions, job.coefficients[name], strict=True))
        for position, value in values:
            affine = branch.affine(position, name, job.tensor)
            if isinstance(affine, Affine) and isinstance(value, int | float):
                pairs.append((affine, float(value)))
    return pairs
