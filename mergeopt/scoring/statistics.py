"""Small statistics for noisy scores: standard errors, intervals, paired comparisons, and what can be seen at all.

Models are compared item by item on the same items, because the spread between items is far larger than the spread
between models (Miller, "Adding Error Bars to Evals", arXiv 2411.00640).
"""

from dataclasses import dataclass
from math import inf, isfinite, isnan, nan, sqrt

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from mergeopt.scoring.base import Items


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """a − b over `n` shared items: `mean`, its standard error, and the t interval [low, high] at `df` degrees."""

    mean: float
    stderr: float
    low: float
    high: float
    n: int
    df: float


def mean_stderr(items: Items) -> tuple[float, float]:
    """Mean and standard error of the mean (sample variance, n − 1); the error of fewer than two items is NaN."""
    n = len(items)
    if n == 0:
        return nan, nan
    return float(np.mean(items)), float(np.std(items, ddof=1) / sqrt(n)) if n > 1 else nan


def wilson(successes: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927): honest for few items and near 0 or 1."""
    if n == 0:
        return 0.0, 1.0
    z = float(ndtri(0.5 + level / 2))
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def interval(items: Items, *, level: float = 0.95) -> tuple[float, float]:
    """An interval for the mean of `items`: Wilson's where they are all 0 or 1, else Student's t."""
    if len(items) and bool(np.all((items == 0) | (items == 1))):
        return wilson(float(items.sum()), len(items), level=level)
    mean, stderr = mean_stderr(items)
    half = t_quantile(0.5 + level / 2, len(items) - 1) * stderr
    return mean - half, mean + half


def paired_difference(a: Items, b: Items, *, level: float = 0.95) -> PairedDifference:
    """Mean of a − b, item by item.

    Raises:
        ValueError: `a` and `b` are not the same number of items.
    """
    if len(a) != len(b):
        raise ValueError(f"paired scores need the same items, got {len(a)} and {len(b)}")
    mean, stderr = mean_stderr(a - b)
    return with_interval(mean, stderr, n=len(a), df=len(a) - 1, level=level)


def with_interval(mean: float, stderr: float, *, n: int, df: float, level: float = 0.95) -> PairedDifference:
    """A difference with its two-sided t interval; without a standard error the interval is unbounded."""
    half = inf if isnan(stderr) or df < 1 else t_quantile(0.5 + level / 2, df) * stderr
    return PairedDifference(mean, stderr, mean - half, mean + half, n, df)


def t_quantile(probability: float, df: float) -> float:
    """Student's t quantile, the normal's for infinite `df`, infinite below one degree of freedom."""
    if df < 1:
        return inf
    return float(stdtrit(df, probability)) if isfinite(df) else float(ndtri(probability))


def probability_above_zero(difference: PairedDifference) -> float:
    """One-sided probability that the true difference is above zero, given what was seen (flat prior, Student's t).

    Identical non-zero differences have no spread to judge by; there the sign test speaks: 1 − 2⁻ⁿ.
    """
    if difference.n == 0 or isnan(difference.mean):
        return 0.5
    if difference.stderr > 0 and difference.df >= 1:
        return float(stdtr(min(difference.df, 1e9), difference.mean / difference.stderr))
    if difference.mean == 0:
        return 0.5
    wrong = 0.5**difference.n
    return 1 - wrong if difference.mean > 0 else wrong


def enough_evidence(difference: PairedDifference, *, probability: float = 0.95) -> bool:
    """Whether the difference is above zero with at least this probability."""
    return probability_above_zero(difference) >= probability


def detectable(n: int, *, discordance: float = 0.15, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest true difference of a 0/1 score that `n` paired items show with probability `power`.

    δ = (z_{(1+level)/2} + z_power) · sqrt(q/n), where q is the share of items on which the two models differ.
    """
    if n <= 0:
        return inf
    return float((ndtri(0.5 + level / 2) + ndtri(power)) * sqrt(discordance / n))
