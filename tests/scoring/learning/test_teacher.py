"""What a teacher says, and that it is asked once."""

import copy

import pytest
import torch

from mergeopt.errors import InputError, MergeoptError
from mergeopt.scoring.base import NonFiniteError
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.generate import Generator
from mergeopt.scoring.learning.prompts import encode
from mergeopt.scoring.learning.teacher import Teacher
from mergeopt.scoring.learning.vocabulary import check_same_vocabulary
from tests.scoring.conftest import make_model, make_tokenizer

WORDS = ("ab", "bcd", "h", "gfedc", "abcde", "dd", "cafe", "bed")


class Resident:
    """Counts how often the teacher's weights are wanted."""

    def __init__(self, model):
        self.model, self.loads = model, 0

    def __call__(self):
        self.loads += 1
        return self.model


@pytest.fixture
def resident(model):
    return Resident(model)


@pytest.fixture
def teacher(resident, encoder, tmp_path):
    return Teacher("letters", resident, encoder, tmp_path / "cache", Batching(rows=3))


@pytest.fixture
def generation(encoder):
    return encoder.generation({"until": ["\n"], "max_gen_toks": 8})


@pytest.fixture
def prompts(encoder, generation):
    return encode([f"upper: {word} =>" for word in WORDS], encoder, generation)


def test_answers_are_what_generation_gives_with_the_stop(teacher, model, encoder, generation, prompts):
    lessons = teacher.answers(prompts, generation)
    texts, _ = Generator(model, encoder, Batching(rows=2)).run([list(p.tokens) for p in prompts], generation)
    assert [encoder.decode(list(lesson.answer)) for lesson in lessons] == [text + "\n" for text in texts]
    assert [(lesson.context, lesson.key) for lesson in lessons] == [(p.tokens, p.key) for p in prompts]


def test_an_answer_ends_with_its_stop_and_not_with_its_batch(model, encoder, prompts):
    generation = encoder.generation({"until": ["\n", "B"], "max_gen_toks": 8})
    lessons = Teacher("letters", lambda: model, encoder).answers(prompts, generation)
    ends = {encoder.decode(list(lesson.answer))[-1] for lesson in lessons}
    assert ends == {"\n", "B"} and not any(encoder.pad_id in lesson.answer for lesson in lessons)


def test_an_answer_ends_with_its_eos(model, encoder, generation, prompts):
    ending = copy.deepcopy(model)
    with torch.no_grad():  # everything ends at once
        ending.lm_head.weight.zero_()
        ending.lm_head.weight[2] = 1
        ending.lm_head.weight[3] = -1
    lessons = Teacher("ends", lambda: ending, encoder).answers(prompts, generation)
    assert {lesson.answer for lesson in lessons} <= {(2,), (3,) * 8} and (2,) in {x.answer for x in lessons}


def test_an_answer_without_an_end_is_kept_whole(encoder, prompts):
    generation = encoder.generation({"until": ["\n\n\n"], "max_gen_toks": 5})
    lessons = Teacher("random", lambda: make_model(seed=3), encoder).answers(prompts, generation)
    assert {len(lesson.answer) for lesson in lessons} == {5}


def test_sampled_answers_follow_their_seed(model, encoder, prompts):
    generation = encoder.generation({"until": ["\n"], "max_gen_toks": 8, "do_sample": True, "temperature": 3.0})
    teacher = Teacher("letters", lambda: model, encoder, batching=Batching(rows=4))
    state = torch.get_rng_state()
    first, again, other = (teacher.answers(prompts, generation, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    same = teacher.answers(prompts[:1] * 8, generation, seed=1)
    assert len({lesson.answer for lesson in same}) > 4  # also in the second batch of equal prompts
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("top", [1, 7, 64])
def test_distributions_equal_one_pass_per_lesson(top, teacher, model, make_lessons):
    lessons = make_lessons(12)
    found = teacher.targets(lessons, top=top)
    with torch.no_grad():
        scores = [model(torch.tensor([x.context + x.answer])).logits[0, len(x.context) - 1 : -1] for x in lessons]
    expected = torch.cat(scores).log_softmax(-1)
    assert found.ids.shape == (len(expected), min(top, expected.shape[1])) and found.ids.dtype == torch.int32
    torch.testing.assert_close(found.top, expected.topk(found.ids.shape[1]).values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.top, expected.gather(1, found.ids.long()), rtol=1e-4, atol=1e-5)
    rest = expected.exp().scatter(1, found.ids.long(), 0).sum(1)
    torch.testing.assert_close(found.tail.exp(), rest, rtol=1e-4, atol=1e-6)


def test_what_was_made_is_read_again_bit_for_bit(teacher, resident, generation, prompts):
    lessons = teacher.answers(prompts, generation)
    made = teacher.targets(lessons)
    assert resident.loads == 2
    assert teacher.answers(prompts, generation) == lessons
    read = teacher.targets(lessons)
    assert resident.loads == 2
    for name in ("ids", "top", "tail"):
        assert torch.equal(getattr(made, name), getattr(read, name))


def test_another_teacher_lesson_or_size_is_made_anew(teacher, resident, encoder, make_lessons):
    lessons = make_lessons(4)
    teacher.targets(lessons)
    Teacher("others", resident, encoder, teacher.cache).targets(lessons)
    teacher.targets(lessons[:3])
    teacher.targets(lessons[::-1])
    teacher.targets(lessons, top=3)
    assert resident.loads == len(list(teacher.cache.iterdir())) == 5


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed"])
def test_a_damaged_file_is_made_again(damage, teacher, resident, make_lessons):
    lessons = make_lessons(4)
    made = teacher.targets(lessons).top.clone()
    (file,) = teacher.cache.iterdir()
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes({"cut": data[: len(data) // 2], "emptied": b"", "changed": data}[damage])
    assert torch.equal(teacher.targets(lessons).top, made) and resident.loads == 2
    teacher.targets(lessons)
    assert resident.loads == 2


def test_a_cache_that_cannot_be_written_is_told(resident, encoder, make_lessons, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MergeoptError, match="cannot be written"):
        Teacher("letters", resident, encoder, tmp_path / "file" / "cache").targets(make_lessons(2))


def test_a_broken_teacher_leaves_nothing_behind(encoder, make_lessons, tmp_path):
    broken = make_model()
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    with pytest.raises(NonFiniteError):
        Teacher("broken", lambda: broken, encoder, tmp_path / "cache").targets(make_lessons(2))
    assert not (tmp_path / "cache").exists()


def test_ids_must_mean_the_same_tokens():
    ours, longer, moved = make_tokenizer(), make_tokenizer(), make_tokenizer()
    longer.add_tokens(["<more>"])
    check_same_vocabulary(longer, ours)
    check_same_vocabulary(ours, longer)
    moved.add_tokens(["<other>"])
    with pytest.raises(InputError, match=r"'<other>'.*loss: nll"):
        check_same_vocabulary(moved, longer)
