import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergeopt.errors import InputError
from mergeopt.scoring.splits import Shares, check_sizes, content_hash, cut, limited, shuffled

SHARES = Shares().all()


def split(hashes, *, seed=0, shares=SHARES):
    """Contents per split, in order."""
    parts = cut(shuffled(hashes, seed=seed), hashes, shares)
    return {name: [hashes[i] for i in part] for name, part in parts.items()}


def test_order_of_the_file_does_not_matter():
    hashes = [content_hash({"n": i}) for i in range(200)]
    other = random.Random(3).sample(hashes, len(hashes))
    assert split(hashes) == split(other)


def test_key_order_of_a_document_does_not_matter():
    assert content_hash({"a": 1, "b": "é"}) == content_hash({"b": "é", "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": "1"})


def test_another_seed_divides_differently():
    hashes = [content_hash({"n": i}) for i in range(200)]
    assert split(hashes, seed=0)["search"] != split(hashes, seed=1)["search"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=120), st.integers(0, 5))
def test_equal_items_stay_together_and_nothing_is_lost(numbers, seed):
    hashes = [content_hash({"n": n}) for n in numbers]
    parts = split(hashes, seed=seed)
    assert sorted(h for part in parts.values() for h in part) == sorted(hashes)
    seen = [set(part) for part in parts.values()]
    assert sum(map(len, seen)) == len(set(hashes))


def test_sizes_are_near_the_shares():
    parts = split([content_hash({"n": n}) for n in range(1000)])
    assert {name: len(part) for name, part in parts.items()} == {
        "calibrate": 200,
        "search": 400,
        "select": 200,
        "report": 200,
    }


def test_unused_calibrate_joins_search_and_an_own_report_takes_nothing():
    assert Shares().of_pool(calibrate_used=False, own_report=True) == pytest.approx({"search": 0.6, "select": 0.2})


@pytest.mark.parametrize("shares", [(-0.1, 1, 0, 0), (0, 0, 0, 0), (float("nan"), 1, 1, 1)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(InputError):
        Shares(*shares)


@pytest.mark.parametrize(("count", "limit", "left"), [(10, None, 10), (10, 3, 3), (10, 30, 10), (10, 0.25, 3)])
def test_limit_is_a_number_or_a_share(count, limit, left):
    assert limited(count, limit) == left


def test_small_splits_are_named():
    notices = list(check_sizes("sort", {"search": 29, "select": 5, "report": 199}))
    assert len(notices) == 2 and "29 items to search" in notices[0] and "199 items to report" in notices[1]
    assert list(check_sizes("sort", {"search": 30, "report": 200})) == []
    with pytest.raises(InputError, match="1 item in the select split of sort"):
        list(check_sizes("sort", {"search": 30, "select": 1}))
