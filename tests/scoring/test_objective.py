import numpy as np
import pytest

from mergeopt.errors import InputError
from mergeopt.scoring.base import EvalInfo, EvalScore, Scores
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.objective import Reference, contributions, objective, paired, stderr
from mergeopt.scoring.statistics import paired_difference

N = 100


def info(name, *, higher=True, **entry):
    return EvalInfo(name, "m,none", higher, ObjectiveEntry(eval=name, **entry), {"search": ("x",) * N})


def scores(infos, **values):
    """Items around each value with little noise, the same noise for everyone."""
    noise = np.random.default_rng(0).normal(0, 0.01, N)
    noise -= noise.mean()
    drift = np.random.default_rng(1).normal(0, 0.001, N)
    made = {}
    for i in infos:
        value = values[i.name]
        items = value + noise + value * (drift - drift.mean())
        made[i.name] = EvalScore(i.name, i.metric, float(items.mean()), items, i.higher_is_better)
    return Scores("search", made)


@pytest.fixture
def infos():
    return [info("up"), info("down", higher=False, weight=3.0)]


@pytest.fixture
def reference(infos):
    parents = {"a": scores(infos, up=0.8, down=4.0), "b": scores(infos, up=0.5, down=1.0)}
    return Reference(infos, scores(infos, up=0.4, down=3.0), parents)


def test_base_is_zero_and_the_best_parents_are_one(infos, reference):
    assert objective(reference.base, reference).value == pytest.approx(0)
    assert objective(scores(infos, up=0.8, down=1.0), reference).value == pytest.approx(1)
    half = objective(scores(infos, up=0.6, down=3.0), reference)
    assert half.per_eval == pytest.approx({"up": 0.5, "down": 0.0})
    assert half.value == pytest.approx(0.5 / 4)  # weights 1 and 3


def test_lower_is_better_is_turned_around(infos, reference):
    better, worse = (objective(scores(infos, up=0.4, down=d), reference).value for d in (2.0, 3.5))
    assert better > 0 > worse


def test_a_way_that_is_short_for_its_noise_counts_as_ten_standard_errors():
    one = info("up")
    right = np.zeros(N)
    right[:40] = 1.0
    better = right.copy()
    better[40:52] = 1.0  # 12 points better, a standard error of 3.3: sure, but one item more or less is a tenth of it

    def of(items):
        return Scores("search", {"up": EvalScore("up", "m,none", float(items.mean()), items, True)})

    reference = Reference([one], of(right), {"a": of(better)})
    way = 10 * paired_difference(better, right).stderr
    assert way > 0.12
    assert reference.terms[0].normalised
    assert objective(of(better), reference).value == pytest.approx(0.12 / way)


def test_raw_where_no_parent_beats_the_base(infos):
    same = Reference(infos, scores(infos, up=0.4, down=3.0), {"a": scores(infos, up=0.4, down=3.5)})
    assert [t.normalised for t in same.terms] == [False, False]
    found = objective(scores(infos, up=0.6, down=2.0), same)
    assert found.per_eval == pytest.approx({"up": 0.6, "down": -2.0})


def test_raw_within_two_standard_errors():
    infos = [info("up")]
    rng = np.random.default_rng(0)
    base, parent = (rng.random(N) < 0.5).astype(float), (rng.random(N) < 0.5).astype(float)
    made = [Scores("search", {"up": EvalScore("up", "m,none", x.mean(), x, True)}) for x in (base, parent)]
    reference = Reference(infos, made[0], {"p": made[1]})
    gain = paired_difference(parent, base)
    assert gain.mean < 2 * gain.stderr and not reference.terms[0].normalised


@pytest.mark.parametrize(
    ("bound", "value", "violation"),
    [
        ({"at_most": {"base": 1.02}}, 3.0, 0.0),
        ({"at_most": {"base": 1.02}}, 3.06 * 1.1, 0.1),
        ({"at_most": 2.0}, 3.0, 0.5),
        ({"at_least": {"best_parent": 0.5}}, 0.25, 0.5),
        ({"at_least": {"uniform": 1.0}}, 1.0, 0.5),
        ({"at_most": 0}, 0.25, 0.25),
    ],
)
def test_constraints_are_relative_to_their_bound(bound, value, violation):
    infos = [info("up"), info("limit", higher=False, **bound)]
    reference = Reference(
        infos,
        scores(infos, up=0.4, limit=3.0),
        {"a": scores(infos, up=0.8, limit=1.0), "b": scores(infos, up=0.8, limit=5.0)},
        scores(infos, up=0.5, limit=2.0),
    )
    found = objective(scores(infos, up=0.8, limit=value), reference)
    assert found.violation == pytest.approx(violation)
    assert found.value == pytest.approx(1) and list(found.per_eval) == ["up"]  # a constraint is no term


def test_a_constraint_on_what_was_not_scored_is_refused():
    infos = [info("up", at_least={"uniform": 1.0})]
    reference = Reference(infos, scores(infos, up=0.4), {})
    with pytest.raises(InputError, match="no uniform to compare with"):
        objective(scores(infos, up=0.5), reference)


def test_paired_is_the_difference_of_the_objectives(infos, reference):
    a, b = scores(infos, up=0.7, down=2.0), scores(infos, up=0.6, down=2.5)
    found = paired(a, b, reference)
    assert found.mean == pytest.approx(objective(a, reference).value - objective(b, reference).value)
    parts = contributions(a, reference)
    assert sum(part.mean() for part in parts.values()) == pytest.approx(objective(a, reference).value)
    assert found.low < found.mean < found.high and found.n == 2 * N


def test_paired_of_one_eval_is_a_plain_t_test():
    infos = [info("up")]
    rng = np.random.default_rng(2)
    made = [Scores("search", {"up": EvalScore("up", "m,none", x.mean(), x, True)}) for x in rng.random((2, N))]
    reference = Reference(infos, made[0], {})
    ours, plain = paired(*made, reference), paired_difference(made[0]["up"].items, made[1]["up"].items)
    assert (ours.mean, ours.low, ours.high, ours.df) == pytest.approx((plain.mean, plain.low, plain.high, plain.df))


def test_the_error_of_a_value_adds_up_over_evals(infos, reference):
    mine = scores(infos, up=0.7, down=2.0)
    parts = contributions(mine, reference).values()
    assert stderr(mine, reference) == pytest.approx(np.sqrt(sum(np.var(p, ddof=1) / N for p in parts)))
    assert stderr(mine, reference) > 0


def test_equal_candidates_have_no_difference(infos, reference):
    a = scores(infos, up=0.7, down=2.0)
    found = paired(a, a, reference)
    assert (found.mean, found.stderr, found.low, found.high) == (0, 0, 0, 0)
