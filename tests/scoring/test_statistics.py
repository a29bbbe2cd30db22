from math import inf, isnan

import numpy as np
import pytest
from scipy import stats

from mergeopt.scoring.statistics import (
    PairedDifference,
    detectable,
    enough_evidence,
    interval,
    mean_stderr,
    paired_difference,
    probability_above_zero,
    wilson,
)


def test_paired_difference_is_the_textbook_t_interval():
    rng = np.random.default_rng(0)
    a, b = rng.random(40), rng.random(40)
    found = paired_difference(a, b)
    test = stats.ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx(((a - b).mean(), low, high))
    one_sided = 1 - stats.ttest_rel(a, b, alternative="greater").pvalue
    assert probability_above_zero(found) == pytest.approx(one_sided)


def test_wilson_agrees_with_scipy_and_never_leaves_the_unit_interval():
    for k, n in [(0, 20), (3, 20), (20, 20)]:
        expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson(0, 0) == (0.0, 1.0)


def test_interval_is_wilsons_for_zero_one_scores():
    assert interval(np.array([0.0, 1, 1, 1])) == wilson(3, 4)
    low, high = interval(np.array([0.1, 0.2, 0.4]))
    assert low < 0.7 / 3 < high


def test_one_item_has_no_error_and_an_unbounded_interval():
    mean, stderr = mean_stderr(np.array([0.5]))
    assert mean == 0.5 and isnan(stderr)
    found = paired_difference(np.array([1.0]), np.array([0.0]))
    assert (found.low, found.high) == (-inf, inf)
    assert not enough_evidence(found)


def test_different_items_cannot_be_paired():
    with pytest.raises(ValueError, match="same items"):
        paired_difference(np.zeros(3), np.zeros(4))


def test_detectable_matches_the_power_formula():
    # n = (1.96 + 0.84)² q / δ²: 471 items show 5 points at a discordance of 0.15
    assert detectable(471) == pytest.approx(0.05, abs=2e-4)
    assert detectable(0) == inf


def test_detectable_is_detected_as_often_as_promised():
    rng, n, q = np.random.default_rng(1), 400, 0.15
    delta = detectable(n, discordance=q)
    better, worse = (q + delta) / 2, (q - delta) / 2
    draws = rng.choice([1.0, -1.0, 0.0], p=[better, worse, 1 - q], size=(1000, n))
    hits = [paired_difference(d, np.zeros(n)).low > 0 for d in draws]
    assert 0.74 < np.mean(hits) < 0.86


@pytest.mark.parametrize(("mean", "expected"), [(0.0, 0.5), (1.0, 1 - 2**-5), (-1.0, 2**-5)])
def test_without_spread_the_sign_test_speaks(mean, expected):
    assert probability_above_zero(PairedDifference(mean, 0.0, mean, mean, 5, 4)) == expected
