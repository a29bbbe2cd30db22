"""Held-out losses: domain by domain, lesson by lesson, so that two points are compared in pairs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mergeopt.optimizers.base import Outcome
from mergeopt.optimizers.cube import Vector
from mergeopt.optimizers.search import Point


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The losses at `point`: domain -> one per lesson. `mean` is over domains, of their means."""

    point: Point
    losses: Mapping[str, Vector]
    mean: float

    @classmethod
    def of(cls, outcome: Outcome) -> "HeldOut | None":
        """What an outcome says; None where the candidate failed."""
        losses = {name: np.asarray(items, dtype=np.float64) for name, items in (outcome.items or {}).items()}
        if outcome.value is None or not losses:
            return None
        mean = float(np.mean([items.mean() for items in losses.values()]))
        return cls(outcome.point, losses, mean) if math.isfinite(mean) else None

    def gain_over(self, other: "HeldOut") -> float:
        """How much lower the loss is than the other's, in standard errors: paired by lesson, stratified by domain."""
        differences = [other.losses[name] - items for name, items in self.losses.items()]
        variance = sum(float(d.var(ddof=1)) / len(d) for d in differences if len(d) > 1) / len(differences) ** 2
        gain = other.mean - self.mean
        return gain / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gain) if gain else 0.0
