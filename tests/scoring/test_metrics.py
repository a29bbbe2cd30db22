from math import exp, log

import numpy as np
import pytest
from lm_eval.api import metrics as lm_metrics

from mergeopt.scoring.metrics import ChoiceFacts, RollingFacts, TextFacts, fast_outcomes, shares, text_normaliser


@pytest.mark.parametrize(
    "compare",
    [
        {},
        {"ignore_case": True},
        {"ignore_punctuation": True, "ignore_case": True},
        {"ignore_numbers": True},
        {"regexes_to_ignore": [r"\s+", "a"]},
    ],
)
@pytest.mark.parametrize("texts", [("Abc!", "abc"), ("a b", "ab"), ("x1", "x2"), ("x", "x "), ("a", "A."), ("", "1")])
def test_exact_match_compares_as_lm_eval(compare, texts):
    given, gold = texts
    expected = lm_metrics.exact_match_hf_evaluate([given], [gold], **compare)["exact_match"]
    assert fast_outcomes("exact_match", TextFacts([[gold]], compare), [[given]]) == [expected]


def test_any_of_several_answers_counts():
    facts = TextFacts([["a", "b"], ["a"]], {})
    assert fast_outcomes("exact_match", facts, [["b"], ["b"]]) == [1.0, 0.0]


def test_choices_take_the_first_of_equals_and_divide_by_length():
    facts = ChoiceFacts(
        [frozenset({0}), frozenset({1}), frozenset({0, 2})],
        chars=[[1, 1], [1, 4, 1], [1, 1, 1]],
        bytes=[[1, 1], [1, 4, 1], [1, 1, 1]],
    )
    responses = [
        [(-1.0, False), (-1.0, False)],
        [(-1.0, False), (-2.0, False), (-3.0, False)],
        [(-3.0, False), (-2.0, False), (-1.0, False)],
    ]
    assert fast_outcomes("acc", facts, responses) == [1.0, 0.0, 1.0]
    assert fast_outcomes("acc_norm", facts, responses) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("metric", ["f1", "acc_mutual_info", "bleu"])
def test_other_metrics_have_no_shortcut(metric):
    assert fast_outcomes(metric, ChoiceFacts([frozenset({0})], [[1.0]], [[1.0]]), [[(-1.0, True)]]) is None
    assert fast_outcomes(metric, TextFacts([["a"]], {}), [["a"]]) is None
    assert fast_outcomes(metric, RollingFacts([1], [1]), [[-1.0]]) is None


def test_lists_from_a_filter_have_no_shortcut():
    assert fast_outcomes("exact_match", TextFacts([["a"]], {}), [[["a"]]]) is None


OUTCOMES = [(-3.0, 4), (-9.5, 10), (-2.0, 7), (-6.0, 6)]


@pytest.mark.parametrize("name", ["bits_per_byte", "weighted_perplexity"])
def test_shares_of_a_ratio_have_the_aggregate_as_their_mean(name):
    aggregate = getattr(lm_metrics, name)
    found = shares(OUTCOMES, name, aggregate)
    assert found.mean() == pytest.approx(aggregate(OUTCOMES), rel=1e-12)


def test_shares_of_perplexity():
    logprobs = [-1.0, -2.0, -0.5]
    found = shares(logprobs, "perplexity", lm_metrics.perplexity)
    assert found.mean() == pytest.approx(exp(3.5 / 3))


def test_shares_carry_the_spread_of_the_aggregate():
    """Their standard error agrees with the bootstrap of the aggregate itself, for ratios and for any other."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 50, 300)
    ratio = list(zip((-sizes * rng.gamma(4, 0.3, 300)).tolist(), sizes.tolist(), strict=True))
    plain = rng.normal(3, 1, 300).tolist()
    cases = [
        (ratio, "bits_per_byte", lm_metrics.bits_per_byte),
        (plain, "other", lambda items: float(np.mean(items) ** 2)),
    ]
    for outcomes, name, aggregate in cases:
        draws = [aggregate([outcomes[i] for i in rng.integers(0, 300, 300)]) for _ in range(400)]
        found = shares(outcomes, name, aggregate)
        assert found.mean() == pytest.approx(aggregate(outcomes), rel=1e-3)
        assert found.std(ddof=1) / np.sqrt(300) == pytest.approx(np.std(draws), rel=0.3)


def test_bits_per_byte_of_equal_items_is_their_own():
    found = shares([(-log(2) * 8, 8)] * 3, "bits_per_byte", lm_metrics.bits_per_byte)
    assert found == pytest.approx([1.0] * 3)


def test_normaliser_ignores_keys_that_do_not_change_the_comparison():
    assert text_normaliser(hf_evaluate=False)("A b") == "A b"
