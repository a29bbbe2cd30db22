"""Losses and gradients against the plain formulas, one lesson at a time, and autograd on the same model."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div

from mergeopt.scoring.base import NonFiniteError
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.learning.curriculum import Curriculum, Domain
from mergeopt.scoring.learning.distribution import coarse
from mergeopt.scoring.learning.loss import backward, evaluate
from mergeopt.scoring.learning.teacher import Teacher
from tests.scoring.conftest import make_model

CPU = torch.device("cpu")


def scores(model, lesson):
    """[answer tokens, V] log-probabilities of one lesson, by one unpadded pass."""
    logits = model(torch.tensor([lesson.context + lesson.answer])).logits[0]
    return logits.float().log_softmax(-1)[len(lesson.context) - 1 : -1]


def by_hand(model, lesson, kind, teacher=None):
    mine = scores(model, lesson)
    if kind == "nll":
        return -mine[range(len(lesson.answer)), list(lesson.answer)].mean()
    if kind == "entropy":
        return -(mine.exp() * mine).sum(-1).mean()
    with torch.no_grad():
        theirs = scores(teacher, lesson)
    return kl_div(mine, theirs, log_target=True, reduction="none").sum(-1).mean()


@pytest.fixture(scope="module")
def teacher_model():
    return make_model(seed=5)


@pytest.fixture(scope="module")
def taught(teacher_model, encoder):
    return Teacher("five", lambda: teacher_model, encoder)


def curriculum(*domains, tokens=40, held_out=0.0):
    return Curriculum(domains, seed=0, held_out=held_out, batching=Batching(tokens=tokens), device=CPU)


def domain(kind, lessons, taught, *, top=64, **arguments):
    targets = taught.targets(lessons, top=top) if kind == "kl" else None
    return Domain(kind, lessons, kind, targets=targets, **arguments)


@pytest.mark.parametrize("kind", ["nll", "kl", "entropy"])
def test_each_loss_equals_the_formula(kind, model, teacher_model, taught, make_lessons):
    lessons = make_lessons(17)
    found = evaluate(model, curriculum(domain(kind, lessons, taught)).part("train"))
    with torch.no_grad():
        expected = [float(by_hand(model, lesson, kind, teacher_model)) for lesson in lessons]
    assert found.lessons.tolist() == list(range(17))
    assert found.values == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-5)
    assert found.tokens == sum(len(x.context) + len(x.answer) - 1 for x in lessons)


def test_few_top_tokens_are_a_lower_bound_that_sees_the_rest(model, teacher_model, taught, make_lessons):
    lessons = make_lessons(6)
    found = evaluate(model, curriculum(domain("kl", lessons, taught, top=5)).part("train"))
    for value, lesson in zip(found.values, lessons, strict=True):
        with torch.no_grad():
            p, q = scores(teacher_model, lesson).exp(), scores(model, lesson).exp()
        best = p.topk(5, dim=1).indices
        top_p, top_q = p.gather(1, best), q.gather(1, best)
        rest_p, rest_q = 1 - top_p.sum(1), 1 - top_q.sum(1)
        expected = ((top_p * (top_p / top_q).log()).sum(1) + rest_p * (rest_p / rest_q).log()).mean()
        assert value == pytest.approx(float(expected), rel=1e-3)
        assert value < float(kl_div(q.log(), p, reduction="none").sum(1).mean())


@pytest.mark.parametrize("top", [3, 64])
def test_a_model_that_equals_its_teacher_has_no_loss(top, teacher_model, taught, make_lessons):
    found = evaluate(teacher_model, curriculum(domain("kl", make_lessons(9), taught, top=top)).part("train"))
    assert np.abs(found.values).max() < 1e-6


def test_the_rest_keeps_its_digits_and_its_gradient_where_the_model_is_sure():
    logits = torch.zeros(1, 50)
    logits[0, 0] = 30.0
    logits.requires_grad_()
    _, rest = coarse(logits, torch.tensor([[0]]))
    assert float(rest.detach()) == pytest.approx(np.log(49) - 30, rel=1e-6)
    rest.sum().backward()
    assert logits.grad[0, 1:] == pytest.approx(1 / 49, rel=1e-5) and float(logits.grad[0, 0]) == pytest.approx(-1)


def gradients(model):
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_the_gradient_is_that_of_the_mean_over_domains_of_the_mean_over_lessons(
    tokens, teacher_model, taught, make_lessons
):
    model = make_model()
    lists = {"nll": make_lessons(7, seed=1), "kl": make_lessons(4, seed=2), "entropy": make_lessons(5, seed=3)}
    weights = {"nll": 1.0, "kl": 2.0, "entropy": 1.0}
    domains = [domain(kind, lessons, taught, weight=weights[kind]) for kind, lessons in lists.items()]
    batches = curriculum(*domains, tokens=tokens).part("train")
    found = backward(model, batches)
    ours = gradients(model)
    total = sum(
        weights[kind] / 4 * sum(by_hand(model, x, kind, teacher_model) for x in lessons) / len(lessons)
        for kind, lessons in lists.items()
    )
    total.backward()
    assert found.mean == pytest.approx(total.item(), rel=1e-5)
    for name, expected in gradients(model).items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-6)
    assert len(batches) == {1: 16, 10_000: 3}.get(tokens, len(batches))
    assert np.array_equal(found.values, evaluate(model, batches).values)


def test_two_teachers_share_a_pass(model, encoder, teacher_model, taught, make_lessons):
    other = Teacher("other", lambda: make_model(seed=6), encoder)
    first, second = make_lessons(5, seed=1), make_lessons(6, seed=2)
    both = curriculum(
        Domain("a", first, "kl", targets=taught.targets(first)),
        Domain("b", second, "kl", targets=other.targets(second)),
        tokens=10_000,
    )
    (batch,) = both.part("train")
    with torch.no_grad():
        expected = [float(by_hand(model, x, "kl", teacher_model)) for x in first]
        expected += [float(by_hand(model, x, "kl", make_model(seed=6))) for x in second]
    assert evaluate(model, [batch]).values == pytest.approx(expected, rel=1e-5)


def test_a_model_without_logits_to_keep_gives_the_same(model, taught, make_lessons, monkeypatch):
    batches = curriculum(domain("nll", make_lessons(6), taught)).part("train")
    expected = evaluate(model, batches).values
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids: forward(ids))
    assert evaluate(model, batches).values == pytest.approx(expected, rel=1e-6)


def test_half_precision_models_have_losses_in_full_precision(model, taught, make_lessons):
    lessons = make_lessons(6)
    half = copy.deepcopy(model).bfloat16()
    found = backward(half, curriculum(domain("nll", lessons, taught)).part("train"))
    with torch.no_grad():
        expected = [float(by_hand(half, lesson, "nll")) for lesson in lessons]
    assert found.values == pytest.approx(expected, rel=0.02)
    assert any(v != float(torch.tensor(v).bfloat16()) for v in found.values.tolist())


@pytest.mark.parametrize("run", [backward, evaluate])
def test_a_broken_model_is_told(run, taught, make_lessons):
    broken = make_model()
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    with pytest.raises(NonFiniteError):
        run(broken, curriculum(domain("nll", make_lessons(3), taught)).part("train"))
