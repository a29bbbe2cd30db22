import pytest

from mergeopt.scoring.encoding import Encoder
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.learning.lessons import Lesson, lessons_of
from mergeopt.scoring.suite import Suite


def whole(tokenizer, path, **entry):
    return Suite.whole([ObjectiveEntry(eval=str(path), **entry)], tokenizer=tokenizer)


def texts(tokenizer, lessons):
    return [(tokenizer.decode(lesson.context), tokenizer.decode(lesson.answer)) for lesson in lessons]


@pytest.mark.parametrize(("kind", "end"), [("generate", "\n"), ("choice", "")])
def test_an_item_teaches_its_right_answer(kind, end, encoder, tokenizer, make_task):
    suite = whole(tokenizer, make_task(kind, train=12))
    docs = suite.docs(kind, "all")
    right = [d["a"] if kind == "generate" else d["choices"][d["label"]] for d in docs]
    lessons = lessons_of(suite, kind, "all", encoder)
    assert texts(tokenizer, lessons) == [
        (tokenizer.decode(tokenizer.encode(f"upper: {d['q']} =>")), f" {answer}{end}")
        for d, answer in zip(docs, right, strict=True)
    ]
    assert [lesson.key for lesson in lessons] == [item.hash for item in suite.items(kind, "all")]


def test_the_first_accepted_answer_that_is_right_is_taught(encoder, tokenizer, make_task):
    two = make_task("generate", train=6, doc_to_target="{{['0', a]}}", filter_list=[
        {"name": "none", "filter": [{"function": "regex", "regex_pattern": "^ ?([A-Z])"}, {"function": "take_first"}]}
    ])  # fmt: skip
    lessons = lessons_of(whole(tokenizer, two), "generate", "all", encoder)
    assert len(lessons) == 6
    assert all(answer.endswith("\n") and "0" not in answer for _, answer in texts(tokenizer, lessons))


def test_an_item_that_no_answer_makes_right_teaches_nothing(encoder, tokenizer, make_task):
    impossible = make_task("generate", train=6, filter_list=[
        {"name": "none", "filter": [{"function": "regex", "regex_pattern": "(0)"}, {"function": "take_first"}]}
    ])  # fmt: skip
    assert lessons_of(whole(tokenizer, impossible), "generate", "all", encoder) == []


def test_a_rolling_text_teaches_its_windows_under_one_key(short_model, tokenizer, make_task):
    suite = whole(tokenizer, make_task("rolling", train=5, doc_to_target="{{q * 20}}"))
    lessons = lessons_of(suite, "rolling", "all", Encoder(short_model, tokenizer))
    assert len(lessons) > len({lesson.key for lesson in lessons}) == 5
    whole_text = "".join(tokenizer.decode(x.answer) for x in lessons if x.key == lessons[0].key)
    assert whole_text == suite.docs("rolling", "all")[0]["q"] * 20
    assert max(len(lesson.context) + len(lesson.answer) for lesson in lessons) <= 25


def test_a_long_context_is_cut_from_the_left(short_model, tokenizer, make_task):
    suite = whole(tokenizer, make_task("choice", train=5, doc_to_text="{{q * 20}} =>"))
    lessons = lessons_of(suite, "choice", "all", Encoder(short_model, tokenizer))
    assert {len(lesson.context) + len(lesson.answer) for lesson in lessons} == {25}
    assert all(context.endswith(" =>") for context, _ in texts(tokenizer, lessons))
    assert Lesson.of(([1, 2, 3], [4, 5]), "", max_length=3).context == (2, 3)


def test_a_scorer_of_its_own_teaches_nothing(encoder, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "ownscorer_of_learning.py").write_text(
        "def score(model, tokenizer, items):\n    return [1.0] * len(items)\n"
        "score.items, score.higher_is_better = [{'q': 'a'}] * 3, True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = ObjectiveEntry(eval="python:ownscorer_of_learning.score")
    suite = Suite.whole([entry], tokenizer=tokenizer, trust_eval_code=True)
    assert lessons_of(suite, suite.evals[0].name, "all", encoder) == []
