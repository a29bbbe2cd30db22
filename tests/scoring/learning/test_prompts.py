import csv
import json

import datasets
import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.scoring.encoding import Encoder
from mergeopt.scoring.learning.prompts import PromptList, read_prompts
from mergeopt.scoring.learning.selfmade import user_turns
from tests.scoring.conftest import make_tokenizer

ROWS = [{"id": i, "question": q} for i, q in enumerate(["abc", "bad", "abc", "", "h g", "dead"])]
WANTED = ["abc", "bad", "h g", "dead"]
CHAT = "{% for m in messages %}{{ '<s>' if m.role == 'user' else '' }}{{ m.content }}</s>{% endfor %}=>"


@pytest.fixture
def generation(encoder):
    return encoder.generation({"until": ["\n"], "max_gen_toks": 8})


@pytest.fixture(scope="module")
def chat_encoder(model):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT
    return Encoder(model, tokenizer)


def write(path):
    kind = path.suffix
    if kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == ".json":
        path.write_text(json.dumps(ROWS))
    elif kind == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "question"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == ".parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(path)
    else:
        path.write_text("".join(row["question"] + "\n" for row in ROWS))
    return path


def texts(prompts, encoder):
    return [encoder.tokenizer.decode(prompt.tokens) for prompt in prompts]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "txt"])
def test_every_format_gives_its_different_prompts(kind, tmp_path, encoder, generation):
    file = write(tmp_path / f"prompts.{kind}")
    column = None if kind == "txt" else "question"
    prompts = read_prompts(PromptList(file=file, column=column), encoder, generation)
    assert texts(prompts, encoder) == WANTED
    assert len({prompt.key for prompt in prompts}) == len(WANTED)


def test_a_local_dataset_is_read_up_to_its_limit(tmp_path, encoder, generation):
    write(tmp_path / "train.parquet")
    source = PromptList(dataset=str(tmp_path), column="question", limit=3)
    assert texts(read_prompts(source, encoder, generation), encoder) == WANTED[:3]


def test_prompts_go_through_the_chat_template(tmp_path, chat_encoder, generation):
    turns = [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "A"}]
    rows = [{"turns": turns[:1]}, {"turns": turns}, {"turns": [*turns, {"role": "user", "content": "bad"}]}]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts(PromptList(file=file, chat_template=True), chat_encoder, generation)
    assert texts(found, chat_encoder) == ["<s>abc</s>=>", "<s>abc</s>A</s><s>bad</s>=>"]
    plain = PromptList(file=write(tmp_path / "prompts.txt"), chat_template=True, limit=1)
    assert texts(read_prompts(plain, chat_encoder, generation), chat_encoder) == ["<s>abc</s>=>"]


def test_a_long_prompt_leaves_room_for_its_answer(tmp_path, short_model, tokenizer):
    encoder = Encoder(short_model, tokenizer)
    file = tmp_path / "long.txt"
    file.write_text("a" * 50 + "h\n")
    (prompt,) = read_prompts(PromptList(file=file), encoder, encoder.generation({"max_gen_toks": 10}))
    assert texts([prompt], encoder) == ["a" * 13 + "h"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"file": "none.jsonl"}, "no such file"),
        ({"file": "prompts.yaml"}, "cannot be read from a .yaml"),
        ({"file": "prompts.jsonl"}, "any of id, question; name one"),
        ({"file": "prompts.jsonl", "column": "qestion"}, "no column 'qestion'; did you mean 'question'"),
        ({"file": "prompts.jsonl", "column": "id"}, "column 'id' holds int"),
        ({"file": "prompts.jsonl", "column": "question", "chat_template": True}, "no chat template"),
        ({"file": "empty.txt"}, "there are no prompts"),
        ({"file": "broken.jsonl", "column": "question"}, "broken.jsonl: prompts cannot be read"),
    ],
)
def test_mistakes_are_told(source, message, tmp_path, encoder, generation):
    write(tmp_path / "prompts.jsonl")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "broken.jsonl").write_text('{"question": "a"}\n{"question"')
    with pytest.raises(InputError, match=message):
        read_prompts(PromptList(**source | {"file": tmp_path / source["file"]}), encoder, generation)


@pytest.mark.parametrize("source", [{}, {"file": "a.txt", "dataset": "a/b"}])
def test_prompts_have_one_source(source):
    with pytest.raises(InputError, match="`file` or from a `dataset`"):
        PromptList(**source)


def test_a_model_writes_its_own_prompts(model, chat_encoder):
    state = torch.get_rng_state()
    turns = user_turns(model, chat_encoder, 20, seed=0, max_tokens=12)
    assert len(set(turns)) == len(turns) == 20 and not any("</s>" in turn or turn != turn.strip() for turn in turns)
    assert turns == user_turns(model, chat_encoder, 20, seed=0, max_tokens=12)
    assert turns != user_turns(model, chat_encoder, 20, seed=1, max_tokens=12)
    assert torch.equal(state, torch.get_rng_state())


def test_a_turn_ends_with_the_text_that_the_template_writes_after_it(model):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "upper: {{ messages[0].content }} =>"
    turns = user_turns(model, Encoder(model, tokenizer), 10, seed=0, max_tokens=30)
    assert turns and not any("=>" in turn for turn in turns) and min(map(len, turns)) < 20


def test_one_who_repeats_himself_gives_fewer(model, chat_encoder):
    assert len(user_turns(model, chat_encoder, 60, seed=0, max_tokens=1)) < 60


def test_a_template_without_a_beginning_is_refused(model):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}=>"
    with pytest.raises(InputError, match="nothing before the user's turn"):
        user_turns(model, Encoder(model, tokenizer), 1, seed=0)
