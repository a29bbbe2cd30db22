import string

from mergeopt.zoo.tasks import TASKS
from mergeopt.zoo.tokenizer import BOS, EOS, PAD, make_tokenizer


def test_one_token_per_byte_and_back() -> None:
    tokenizer = make_tokenizer(512)
    for text in (string.printable, "reverse(abc)=cba\n", " two  spaces .", "Žluť → 猫"):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text


def test_special_tokens_are_set_and_not_added() -> None:
    tokenizer = make_tokenizer(512)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD, BOS, EOS)
    assert tokenizer("<s>a</s>")["input_ids"] == [BOS, *tokenizer("a")["input_ids"], EOS]
    assert not set(tokenizer("reverse(abc)=")["input_ids"]) & {PAD, BOS, EOS}


def test_batches_are_padded_on_the_left() -> None:
    batch = make_tokenizer(512)(["abc", "a"], padding=True)
    assert batch["input_ids"][1][:2] == [PAD, PAD]
    assert batch["attention_mask"][1] == [0, 0, 1]


def test_the_length_of_a_question_is_the_length_of_its_tokens() -> None:
    tokenizer = make_tokenizer(512)
    assert all(len(tokenizer(f"{name}(abc)=")["input_ids"]) == len(name) + 6 for name in TASKS)
