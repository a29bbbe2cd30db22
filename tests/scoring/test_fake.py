import pytest

from mergeopt.scoring.base import NonFiniteError, Scorer
from mergeopt.scoring.fake import FakeScorer, constant_quality


def test_scores_follow_quality_and_are_paired():
    now = {"a": 0.3}
    scorer = FakeScorer({"a": lambda: now["a"]})
    low = scorer.score("search")["a"]
    assert scorer.score("search")["a"].items.tolist() == low.items.tolist()
    now["a"] = 0.8
    high = scorer.score("search")["a"]
    assert low.value == pytest.approx(0.3, abs=0.15) and high.value == pytest.approx(0.8, abs=0.15)
    assert (high.items >= low.items).all()


def test_nan_is_a_failed_trial():
    with pytest.raises(NonFiniteError):
        FakeScorer(constant_quality({"a": float("nan")})).score("search")


def test_it_is_a_scorer():
    scorer: Scorer = FakeScorer(constant_quality({"a": 0.5, "b": 0.2}))
    assert [info.name for info in scorer.evals] == ["a", "b"]
    assert scorer.evals[0].count("report") == len(scorer.score("report")["a"].items) == 200
    assert scorer.forcing_agrees("search") == {}
