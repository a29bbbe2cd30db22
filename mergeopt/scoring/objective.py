"""Scores of many evals become one number to maximise, and a violation to bring to zero.

Scores have different units, so each is measured against what is already there: 0 is the base model, 1 the best parent
on that eval. A way from base to best parent that is short for its noise counts as `SURE` of its standard errors:
divided by its own length it would let a handful of items rule the whole. Where parents and base cannot be told apart
the score stays in its own unit, oriented upwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan

import numpy as np

from mergeopt.errors import InputError
from mergeopt.scoring.base import EvalInfo, EvalScore, Items, Scores
from mergeopt.scoring.entry import Anchor
from mergeopt.scoring.statistics import PairedDifference, mean_stderr, paired_difference, with_interval

SURE = 10  # standard errors of the way from base to best parent that it counts as at least


@dataclass(frozen=True, slots=True)
class Term:
    """How a score becomes a part of the objective: ``weight · factor · (score − origin)``; weights add to 1.

    `factor` holds the orientation. `normalised` says whether the unit is the way from base to best parent.
    """

    name: str
    weight: float
    factor: float
    origin: float
    normalised: bool


@dataclass(frozen=True, slots=True)
class Bound:
    """A constraint: the score of `name` may not go above (`upper`) or below `limit`."""

    name: str
    limit: float
    upper: bool

    def violation(self, value: float) -> float:
        """How far the score is beyond the limit, relative to it (absolutely for a limit of 0); 0 where it holds."""
        beyond = value - self.limit if self.upper else self.limit - value
        return max(0.0, beyond / (abs(self.limit) or 1.0))


@dataclass(frozen=True)
class Reference:
    """What scores are measured against, all on the search split: base, parents, and the uniform average."""

    evals: Sequence[EvalInfo]
    base: Scores
    parents: Mapping[str, Scores]
    uniform: Scores | None = None

    def best_parent(self, name: str) -> EvalScore | None:
        """The parent that is best on this eval; None without parents."""
        found = [scores[name] for scores in self.parents.values()]
        return max(found, key=_oriented, default=None)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """One per eval that is no constraint, in order."""
        infos = [info for info in self.evals if not info.entry.is_constraint]
        total = sum(info.entry.weight for info in infos)
        return tuple(self._term(info, info.entry.weight / total) for info in infos)

    def _term(self, info: EvalInfo, weight: float) -> Term:
        base, best = self.base[info.name], self.best_parent(info.name)
        sign = 1.0 if info.higher_is_better else -1.0
        if best is not None:
            gain = paired_difference(best.items, base.items)
            if not isnan(gain.stderr) and sign * gain.mean > 2 * gain.stderr:
                way = max(sign * (best.value - base.value), SURE * gain.stderr)
                return Term(info.name, weight, sign / way, base.value, True)
        return Term(info.name, weight, sign, 0.0, False)

    @cached_property
    def bounds(self) -> tuple[Bound, ...]:
        """Every constraint as a number.

        Raises:
            InputError: A constraint refers to something that was not scored.
        """
        return tuple(
            Bound(info.name, self._limit(info.name, limit), upper)
            for info in self.evals
            for limit, upper in ((info.entry.at_most, True), (info.entry.at_least, False))
            if limit is not None
        )

    def _limit(self, name: str, limit: float | Mapping[Anchor, float]) -> float:
        if not isinstance(limit, Mapping):
            return float(limit)
        ((anchor, factor),) = limit.items()
        if anchor == "best_parent":
            found = self.best_parent(name)
        else:
            scores = self.base if anchor == "base" else self.uniform
            found = scores[name] if scores is not None else None
        if found is None:
            raise InputError(f"there is no {anchor} to compare with", where=f"objective {name}", remedy="give a number")
        return factor * found.value


@dataclass(frozen=True, slots=True)
class Objective:
    """`value`: higher is better. `violation`: 0 where every constraint holds. `per_eval`: each term, unweighted."""

    value: float
    violation: float
    per_eval: Mapping[str, float]


def objective(scores: Scores, reference: Reference) -> Objective:
    """The weighted mean of the terms, and by how much the constraints are missed in all."""
    per_eval = {t.name: t.factor * (scores[t.name].value - t.origin) for t in reference.terms}
    return Objective(
        value=sum(t.weight * per_eval[t.name] for t in reference.terms),
        violation=sum(bound.violation(scores[bound.name].value) for bound in reference.bounds),
        per_eval=per_eval,
    )


def contributions(scores: Scores, reference: Reference) -> dict[str, Items]:
    """Per eval, each item's part of the objective: the sum over evals of their means is the objective's value."""
    return {t.name: t.weight * t.factor * (scores[t.name].items - t.origin) for t in reference.terms}


def stderr(scores: Scores, reference: Reference) -> float:
    """The standard error of the objective's value: errors of the evals' parts add in squares."""
    return float(np.sqrt(sum(mean_stderr(items)[1] ** 2 for items in contributions(scores, reference).values())))


def paired(a: Scores, b: Scores, reference: Reference, *, level: float = 0.95) -> PairedDifference:
    """a − b in the objective, from the items both answered.

    Stratified by eval: means and variances add; the degrees of freedom are Welch and Satterthwaite's.

    Raises:
        ValueError: The two were not scored on the same items.
    """
    first, second = contributions(a, reference), contributions(b, reference)
    mean, variance, spread, n = 0.0, 0.0, 0.0, 0
    for name, items in first.items():
        difference = paired_difference(items, second[name])
        mean += difference.mean
        variance += difference.stderr**2
        spread += difference.stderr**4 / difference.df if difference.df else np.nan
        n += difference.n
    df = variance**2 / spread if spread > 0 else float(max(n - len(first), 0))
    return with_interval(mean, float(np.sqrt(variance)), n=n, df=df, level=level)


def _oriented(score: EvalScore) -> float:
    return score.value if score.higher_is_better else -score.value
