import numpy as np
import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.learning.curriculum import Curriculum, Domain
from mergeopt.scoring.learning.lessons import Lesson
from mergeopt.scoring.learning.packing import PackedLessons

CPU = torch.device("cpu")


def make(domains, *, seed=0, held_out=0.2, tokens=100):
    return Curriculum(domains, seed=seed, held_out=held_out, batching=Batching(tokens=tokens), device=CPU)


def taken(batches):
    return sorted(np.concatenate([batch.padded.lessons for batch in batches]).tolist())


@pytest.fixture
def two(make_lessons):
    return [Domain("a", make_lessons(50, seed=1), "nll"), Domain("b", make_lessons(23, seed=2), "nll", weight=3.0)]


def test_padded_passes_hold_every_token_of_every_lesson(make_lessons):
    lessons = make_lessons(40)
    packed = PackedLessons(lessons)
    seen, rows = [], []
    for batch in packed.batches(np.arange(40), Batching(tokens=50), CPU):
        assert batch.ids.numel() <= 50
        for row, number in enumerate(batch.lessons):
            lesson = lessons[number]
            whole = [*lesson.context, *lesson.answer]
            here = batch.row == row
            assert batch.ids[row].tolist() == whole[:-1] + [0] * (batch.ids.shape[1] - len(whole) + 1)
            assert tuple(batch.target[here].tolist()) == lesson.answer
            assert (batch.column[here] + batch.first).tolist() == list(range(len(lesson.context) - 1, len(whole) - 1))
            assert batch.place[here].tolist() == list(range(len(lesson.answer)))
            seen.append(number)
        rows += batch.answer.tolist()
    assert sorted(seen) == list(range(40)) and sorted(rows) == list(range(packed.answer_tokens))


def test_held_out_lessons_are_never_trained_on(two):
    curriculum = make(two)
    train, held = taken(curriculum.part("train")), taken(curriculum.part("held_out"))
    assert sorted(train + held) == list(range(73))
    assert np.bincount(curriculum.domain_of[held]).tolist() == [10, 8]  # a fifth, but at least 8
    assert set(train) == {i for step in range(20) for i in taken(curriculum.minibatch(step, 16))}


def test_the_division_follows_the_content_and_not_the_order(two, make_lessons):
    domain = two[0]
    again = Domain("a", domain.lessons[::-1], "nll")
    first, second = ({d.lessons[i].key for i in taken(make([d]).part("held_out"))} for d in (domain, again))
    assert first == second
    assert first != {domain.lessons[i].key for i in taken(make([domain], seed=1).part("held_out"))}


def test_lessons_of_one_item_stay_together():
    lessons = [Lesson((5, i), (6,), key=f"{i // 5}") for i in range(30)]
    curriculum = make([Domain("windows", lessons, "nll")], held_out=0.3)
    train, held = ({lessons[i].key for i in taken(curriculum.part(part))} for part in ("train", "held_out"))
    assert train and held and not train & held
    (only,) = make([Domain("one text", lessons[:5], "nll")]).part("train")
    assert len(only.padded.lessons) == 5


@pytest.mark.parametrize("size", [1, 8, 22, 1000])
def test_an_epoch_covers_each_lesson_once_in_another_order_each_time(size, two):
    curriculum = make(two)
    for number, domain in enumerate(two):
        pool = {i for i in taken(curriculum.part("train")) if curriculum.domain_of[i] == number}
        share = min(size, len(pool))
        steps = [
            [i for i in taken(curriculum.minibatch(step, size)) if curriculum.domain_of[i] == number]
            for step in range(2 * len(pool))
        ]
        assert {len(step) for step in steps} == {share}, domain.name
        whole = len(pool) // share  # steps that lie within the first epoch
        assert len({i for step in steps[:whole] for i in step}) == whole * share
        drawn = [i for step in steps for i in step]
        assert share > 1 or drawn[: len(pool)] != drawn[len(pool) :]
        assert set(np.bincount(drawn, minlength=73)[sorted(pool)]) <= {
            len(drawn) // len(pool),
            -(-len(drawn) // len(pool)),
        }


def test_a_minibatch_is_a_function_of_seed_and_step(two):
    first, second, other = make(two), make(two), make(two, seed=1)
    for step in (7, 3, 7):
        for a, b in zip(first.minibatch(step, 16), second.minibatch(step, 16), strict=True):
            assert np.array_equal(a.padded.lessons, b.padded.lessons) and torch.equal(a.padded.ids, b.padded.ids)
    assert taken(first.minibatch(7, 16)) != taken(first.minibatch(8, 16))
    assert taken(first.minibatch(7, 16)) != taken(other.minibatch(7, 16))


def test_weights_are_those_of_the_domains_over_their_lessons(two):
    curriculum = make(two, tokens=60)
    batches = curriculum.minibatch(0, 6)
    assert len(batches) > 2
    lessons = np.concatenate([b.padded.lessons for b in batches])
    weights = torch.cat([b.weight for b in batches]).numpy()
    assert weights == pytest.approx(np.where(curriculum.domain_of[lessons] == 0, 0.25, 0.75) / 6)


def test_a_domain_without_held_out_lessons_takes_no_weight(make_lessons):
    curriculum = make([Domain("many", make_lessons(20), "nll"), Domain("one", make_lessons(1, seed=4), "nll")])
    held = curriculum.part("held_out")
    assert sum(float(b.weight.sum()) for b in held) == pytest.approx(1) and max(taken(held)) < 20


def test_everything_is_trained_on_where_nothing_is_held_out(two):
    curriculum = make(two, held_out=0.0)
    assert curriculum.part("held_out") == [] and taken(curriculum.part("train")) == list(range(73))


def test_mistakes_are_told(two, make_lessons):
    with pytest.raises(InputError, match="nothing to learn"):
        Domain("a", [], "nll")
    with pytest.raises(InputError, match="two domains of one name"):
        make([two[0], two[0]])
    with pytest.raises(ValueError, match="distributions"):
        Domain("a", make_lessons(2), "kl")
