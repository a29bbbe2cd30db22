"""Choosing the winner: no harm, no luck, constraints first; and the result as a file."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mergeopt.errors import InputError
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.scoring.base import EvalInfo, EvalScore, Scores
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.objective import Reference
from mergeopt.study.log import plain
from mergeopt.study.references import Contender
from mergeopt.study.result import Importance, Result, choose, report_rows, rival_of

ITEMS = 200
ANY = Recipe("passthrough", (Slice((Source(ModelRef("m")),)),))


def contender(name: str, kind: str = "fixed") -> Contender:
    return Contender(name, kind, ANY)  # type: ignore[arg-type]


def scores(right: float, *, seed: int = 0, perplexity: float = 1.0) -> Scores:
    """An accuracy of about `right`, on items whose difficulty is the same for everyone but for some luck."""
    difficulty = np.random.default_rng(7).random(ITEMS) * 0.9 + np.random.default_rng(seed).random(ITEMS) * 0.1
    items = (difficulty < right).astype(np.float64)
    bits = np.full(ITEMS, perplexity)
    return Scores(
        "select",
        {
            "acc": EvalScore("acc", "acc,none", float(items.mean()), items, True),
            "bpb": EvalScore("bpb", "bits_per_byte,none", perplexity, bits, False),
        },
    )


def reference() -> Reference:
    infos = (
        EvalInfo("acc", "acc,none", True, ObjectiveEntry(eval="acc"), {}),
        EvalInfo("bpb", "bits_per_byte,none", False, ObjectiveEntry(eval="bpb", at_most={"base": 1.02}), {}),
    )
    return Reference(infos, scores(0.3), {"a": scores(0.7), "b": scores(0.5)})


KNOWN = [(contender("a", "parent"), scores(0.7)), (contender("uniform"), scores(0.75))]


def test_a_clear_gain_is_taken() -> None:
    assert choose([(contender("trial 3", "learned"), scores(0.9, seed=1))], KNOWN, reference()).name == "trial 3"


def test_luck_is_not() -> None:
    winners = []
    for seed in range(60):
        lucky, known = scores(0.75, seed=seed), [(contender("uniform"), scores(0.75, seed=seed + 100))]
        winners.append(choose([(contender("trial", "learned"), lucky)], known, reference()).name)
    assert winners.count("trial") <= 12  # one in ten is what the acceptance allows


def test_the_same_model_is_no_gain() -> None:
    assert choose([(contender("trial 0", "learned"), scores(0.75))], KNOWN, reference()).name == "uniform"


def test_without_finalists_the_best_known_is_returned() -> None:
    assert choose([], KNOWN, reference()).name == "uniform"


def test_infeasible_never_beats_feasible() -> None:
    better = (contender("trial 1", "learned"), scores(0.95, seed=1, perplexity=1.5))
    assert choose([better], KNOWN, reference()).name == "uniform"
    known = [(c, Scores("select", s.evals | {"bpb": scores(0.1, perplexity=2.0)["bpb"]})) for c, s in KNOWN]
    worse = (contender("trial 2", "learned"), scores(0.2, seed=1))
    assert choose([better, worse], known, reference()).name == "trial 2"
    assert choose([better], known, reference()).name == "trial 1"  # both miss it: the nearer one


def test_the_table_has_paired_differences() -> None:
    won = contender("trial 3", "learned")
    scored = [(won, scores(0.9, seed=1)), *KNOWN, (contender("published", "compare"), scores(0.95, seed=2))]
    rows = report_rows(scored, won, reference())
    assert [row.name for row in rows] == ["trial 3", "a", "uniform", "published"]
    assert rows[0].against is None
    for row, (_, other) in zip(rows[1:], scored[1:], strict=True):
        assert row.against is not None
        difference = (scored[0][1]["acc"].items - other["acc"].items) / (
            scores(0.7)["acc"].value - scores(0.3)["acc"].value
        )
        assert row.against.mean == pytest.approx(difference.mean())
        assert row.against.stderr == pytest.approx(difference.std(ddof=1) / np.sqrt(ITEMS))
        assert row.against.mean == pytest.approx(rows[0].objective - row.objective)
        assert row.evals["acc"].value == other["acc"].value
        assert row.evals["acc"].low < row.evals["acc"].value < row.evals["acc"].high
    rival = rival_of(rows, won)
    assert rival is not None and rival.name == "uniform"  # what is only compared cannot be had without searching


def test_a_result_is_read_as_it_was_written() -> None:
    won, other = contender("trial 1", "learned"), contender("uniform")
    rows = report_rows([(won, scores(0.8)), (other, scores(0.6, seed=1))], won, reference())
    rival = rival_of(rows, won)
    assert rival is not None and rival.against is not None
    result = Result(
        "trial 1", True, rows, rival.name, rival.against, 3, 0, 4, 1.5, 100, {"acc": {"report": 200}}, 0.9,
        (Importance("x", 0.5, 2.0),), ("a note",),
    )  # fmt: skip
    assert Result.parse(json.loads(json.dumps(plain(result.data()))), "result.json") == result
    alone = replace(result, gain=replace(rival.against, stderr=math.nan, low=-math.inf, high=math.inf, df=0.0))
    again = Result.parse(json.loads(json.dumps(plain(alone.data()))), "result.json").gain
    assert again is not None and (again.low, again.high) == (-math.inf, math.inf) and math.isnan(again.stderr)
    with pytest.raises(InputError, match=r"result.json: is of format 7, not 1"):
        Result.parse({"format": 7}, "result.json")
    with pytest.raises(InputError, match=r"is not a whole result: 'winner'"):
        Result.parse({"format": 1}, "result.json")
