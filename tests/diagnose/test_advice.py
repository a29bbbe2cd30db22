"""What is said of given measurements."""

from dataclasses import replace
from math import nan
from pathlib import Path as File

import pytest

from mergeopt.diagnose.advice import advise
from mergeopt.diagnose.evidence import Evidence
from mergeopt.diagnose.seen import Behaviour, Own, Path
from mergeopt.diagnose.verdict import Verdict, judge
from tests.diagnose.conftest import diagnosed, refs


@pytest.fixture
def evidence(zoo: File) -> Evidence:
    """Of two unrelated fine-tunes, whose weights say nothing against a merge."""
    return diagnosed("a", "b").evidence


def seen(path: Path, *, thinned: float = 0.5, scaled: dict[float, float] | None = None) -> Behaviour:
    """A measurement of `a` and `b`, each with an eval of its own."""
    a, b = refs("a", "b")
    own = Own(("x",), 1.0, 0.8, thinned, 0.0, 1.0)
    kept = {scale: dict.fromkeys((a, b), share) for scale, share in (scaled or {0.5: 0.9}).items()}
    return Behaviour(
        metrics={}, items={"x": 100, "y": 100}, losses={}, scores={}, owners={"x": a, "y": b}, own={a: own, b: own},
        paths={(a, b): path}, scaled=kept, norm_scaled=kept[0.5], smokes={},
    )  # fmt: skip


def path(kept: float, *, lost: float = 0.0, barrier: float = 0.0, alike: float = 0.9) -> Path:
    return Path(barrier, (kept, 0.9), (lost, 0.0), alike, (("mlp of layer 0", 0.6), ("attention of layer 0", 0.4)))


def judged(evidence: Evidence, found: Path) -> Verdict:
    (pair,) = evidence.subjects.pairs
    return judge(replace(evidence, behaviour=seen(found)), pair)


@pytest.mark.parametrize(
    ("found", "word", "why"),
    [
        (path(0.8), "good", "a keeps 80% of its gain half-way"),
        (path(0.6), "tune", "a keeps 60% of its gain half-way"),
        (path(0.3), "risky", "a keeps 30% of its gain half-way"),
        (path(0.5, lost=0.4), "risky", "b disturbs a: it keeps 50%, 90% alone"),
        (path(0.8, barrier=0.1), "risky", "a barrier of 0.10 nats lies between them"),
        (path(0.8, barrier=0.6), "no", "a barrier of 0.60 nats lies between them"),
        (path(0.8, alike=0.5), "tune", "hidden states differ (CKA 0.50)"),
    ],
)
def test_verdicts_of_measurements(evidence: Evidence, found: Path, word: str, why: str) -> None:
    verdict = judged(evidence, found)
    assert (verdict.word, verdict.reasons[0]) == (word, why)


def test_where_nothing_could_be_lost_weights_speak(evidence: Evidence) -> None:
    assert judged(evidence, Path(0.0, (nan, nan), (nan, nan), 0.2, ())) == Verdict("good", ())


def advised(evidence: Evidence, found: Behaviour) -> str:
    measured = replace(evidence, behaviour=found)
    return "\n".join(advise(measured, {pair: judge(measured, pair) for pair in measured.subjects.pairs}))


def test_a_good_merge(evidence: Evidence) -> None:
    text = advised(evidence, seen(path(0.9)))
    assert text.startswith("Merge them:") and "Learn the weights" not in text
    assert "about 2,950 paired items (80 % power); the 200 used here show 7.7 points" in text


def test_dilution(evidence: Evidence) -> None:
    text = advised(evidence, seen(path(0.6), scaled={0.5: 0.6, 0.8: 0.7}))
    assert "A plain average loses much: it keeps 60%" in text
    assert "Start from task_arithmetic with weight 0.8 each: it keeps 70%, from 70% (a) to 70% (b)." in text
    assert "loses by dilution: at weight 0.5 a model alone keeps 50%, beside the others 60%; larger weights" in text
    overshot = advised(evidence, seen(path(0.6), scaled={0.5: 0.6, 0.8: 0.2}))
    assert "No equal weights do better" in overshot and "larger equal weights overshoot" in overshot


def test_interference(evidence: Evidence) -> None:
    text = advised(evidence, seen(path(0.4, lost=0.4), thinned=0.8, scaled={0.5: 0.4}))
    assert "A plain average loses more than half" in text
    assert "b disturbs a most; averaging costs most in mlp of layer 0 (60%): give it weights of its own." in text
    assert "The average loses by interference: at weight 0.5 a model alone keeps 80%, beside the others 40%." in text
