"""Nothing said about tokenizers vanishes: it is done, it changes nothing, or it is refused."""

import json
import re
from pathlib import Path

import pytest

from mergeopt.errors import InputError
from mergeopt.merge.folder import merge_to_folder
from tests.merge.conftest import prepared

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
JINJA = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tokenizer(folder: Path, words: str = "abc", **config: object) -> None:
    vocab = {word: i for i, word in enumerate(words)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture
def folders(models: Path) -> Path:
    for name in "ab":
        tokenizer(models / name)
    return models


@pytest.mark.parametrize("source", ["union", "base", "a", "b"])
def test_equal_tokenizers_honour_any_source(folders: Path, source: str):
    of = prepared(LINEAR + f"tokenizer_source: {source}\n")
    assert of.notices == () and of.vocabulary.donor.path == ("b" if source == "b" else "a")


@pytest.mark.parametrize("words", ["abd", "acb", "abcd"])
def test_other_vocabularies_are_refused_where_a_vocabulary_is_asked_for(folders: Path, words: str):
    tokenizer(folders / "b", words)
    with pytest.raises(InputError, match=r"tokenizer_source 'union' cannot be applied yet: .*'a' and 'b' differ \("):
        prepared(LINEAR + "tokenizer_source: union\n")
    (notice,) = prepared(LINEAR).notices
    assert "the tokenizers of 'a' and 'b' differ" in notice and "carries that of 'a'" in notice


def test_the_named_tokenizer_is_carried(folders: Path):
    tokenizer(folders / "b", eos_token="</s>")
    of = prepared(LINEAR + "tokenizer_source: b\n")
    assert "eos_token" in of.notices[0]
    merge_to_folder(of, folders / "out")
    assert (folders / "out/tokenizer_config.json").read_bytes() == (folders / "b/tokenizer_config.json").read_bytes()


def test_a_source_outside_the_recipe_is_refused(folders: Path):
    with pytest.raises(InputError, match=r"names 'bse', which is no model of this recipe; did you mean 'base'\?"):
        prepared(LINEAR + "tokenizer_source: bse\n")


def test_models_without_a_tokenizer_have_nothing_to_disagree_on(models: Path):
    assert prepared(LINEAR + "tokenizer_source: union\n").notices == ()


def test_a_template_that_is_given_is_written(folders: Path):
    of = prepared(LINEAR + f"chat_template: '{JINJA}'\n")
    merge_to_folder(of, folders / "out")
    assert (folders / "out/chat_template.jinja").read_text() == JINJA


def test_auto_takes_the_one_template_there_is(folders: Path):
    assert prepared(LINEAR + "chat_template: auto\n").vocabulary.chat_template is None
    tokenizer(folders / "b", chat_template=JINJA)
    assert prepared(LINEAR + "chat_template: auto\n").vocabulary.chat_template == JINJA
    (folders / "a/chat_template.jinja").write_text(JINJA)
    assert prepared(LINEAR + "chat_template: auto\n").vocabulary.chat_template == JINJA
    (folders / "a/chat_template.jinja").write_text(JINJA + "!")
    with pytest.raises(InputError, match=r"2 different templates \('b', 'a'\)"):
        prepared(LINEAR + "chat_template: auto\n")


@pytest.mark.parametrize("template", ["chatml", "llama3", "nonsense without a brace in it"])
def test_other_words_for_a_template_are_refused(folders: Path, template: str):
    with pytest.raises(InputError, match=re.escape(f"chat_template {template!r} is neither 'auto' nor a Jinja text")):
        prepared(LINEAR + f"chat_template: {template}\n")
