import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergeopt.scoring.forward import Batching, LikelihoodPlan

CPU = torch.device("cpu")


def plan(pairs, *, max_length=128, batching=None):
    return LikelihoodPlan.of(pairs, max_length=max_length, batching=batching or Batching(rows=3), device=CPU)


def one_by_one(model, context, continuation):
    with torch.no_grad():
        logits = model(torch.tensor([context + continuation])).logits[0]
    scores = logits.log_softmax(-1)[len(context) - 1 : -1]
    found = scores[range(len(continuation)), continuation].sum()
    return float(found), scores.argmax(-1).tolist() == continuation


def test_likelihoods_equal_one_pass_per_request(model):
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(4, 38, rng.integers(1, 12)).tolist(), rng.integers(4, 38, rng.integers(1, 6)).tolist())
        for _ in range(20)
    ]
    logprobs, greedy = plan(pairs).run(model)
    expected = [one_by_one(model, *pair) for pair in pairs]
    assert logprobs == pytest.approx([e[0] for e in expected], rel=1e-5)
    assert greedy.tolist() == [e[1] for e in expected]


def test_choices_of_one_token_share_a_pass():
    pairs = [([5, 6, 7], [token]) for token in range(8, 20)]
    assert plan(pairs, batching=Batching(rows=64)).tokens == 3


def test_a_greedy_continuation_is_recognised(model):
    context = [5, 6, 7]
    with torch.no_grad():
        best = int(model(torch.tensor([context])).logits[0, -1].argmax())
    _, greedy = plan([(context, [best]), (context, [best - 1])]).run(model)
    assert greedy.tolist() == [True, False]


def test_a_model_without_logits_to_keep_gives_the_same(model, monkeypatch):
    pairs = [([5, 6, 7, 8], [9, 10]), ([5], [9])]
    expected, _ = plan(pairs).run(model)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids: forward(ids))
    assert plan(pairs).run(model)[0] == pytest.approx(expected, rel=1e-6)


def test_log_probabilities_keep_the_dtype_of_the_logits(model):
    half = torch.float16
    pairs = [([5, 6, 7], [8, 9])]
    import copy

    small = copy.deepcopy(model).to(half)
    (found,), _ = plan(pairs).run(small)
    assert found == float(torch.tensor(found, dtype=half))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 200), st.one_of(st.none(), st.integers(1, 9))
)
def test_batches_hold_everything_once_and_fit(lengths, tokens, rows):
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches = Batching(rows, tokens).split(order, lambda i: lengths[i])
    assert [i for batch in batches for i in batch] == order
    for batch in batches:
        assert len(batch) <= (rows or max(1, tokens // lengths[batch[0]]))
