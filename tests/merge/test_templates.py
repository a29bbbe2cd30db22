"""Chat templates by name render the public formats; `auto` counts."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mergeopt.errors import InputError
from mergeopt.merge.folder import merge_to_folder
from tests.merge.conftest import prepared
from tests.speakers import write_speaker

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}, {model: c}]\nparameters: {weight: 1}\n"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
JINJA = "{% for m in messages %}{{ m.content }}{% endfor %}"
RENDERED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST] Hello.</s>[INST] Bye [/INST]",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello.</s>\n\n### Instruction:\nBye\n\n"
    "### Response:\n",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello.[|endofturn|]\n[|user|]Bye\n"
    "[|assistant|]",
}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate("abc"):
        write_speaker(tmp_path / name, seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text: str, folder: Path) -> tuple[str | None, tuple[str, ...]]:
    of = prepared(LINEAR + text)
    merge_to_folder(of, folder / "out")
    file = folder / "out/chat_template.jinja"
    return file.read_text() if file.exists() else None, of.notices


@pytest.mark.parametrize("name", list(RENDERED))
def test_formats_by_name(folders: Path, name: str):
    written(f"chat_template: {name}\n", folders)
    loaded = AutoTokenizer.from_pretrained(folders / "out")
    assert loaded.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True) == RENDERED[name]


def test_auto_takes_the_most_frequent(folders: Path):
    assert written("chat_template: auto\n", folders) == (None, ("chat_template 'auto': no model has a chat template",))
    (folders / "a/chat_template.jinja").write_text(JINJA)
    assert written("chat_template: auto\n", folders) == (JINJA, ())
    (folders / "b/chat_template.jinja").write_text(JINJA + "!")
    text, (notice,) = written("chat_template: auto\n", folders)
    assert text == JINJA and "2 different templates; the output carries that of 'a', which 1 of 2 have" in notice
    (folders / "c/chat_template.jinja").write_text(JINJA + "!")
    text, (notice,) = written("chat_template: auto\n", folders)
    assert text == JINJA + "!" and "that of 'b', which 2 of 3 have" in notice


def test_a_text_is_written_as_it_is(folders: Path):
    assert written(f"chat_template: '{JINJA}'\n", folders)[0] == JINJA


@pytest.mark.parametrize(
    "template, hint",
    [("chatmll", "did you mean 'chatml'?"), ("{{ m }}", "known: alpaca, auto, chatml"), ("x" * 30, "")],
)
def test_other_words_are_refused(folders: Path, template: str, hint: str):
    with pytest.raises(InputError) as caught:
        prepared(LINEAR + f"chat_template: '{template}'\n")
    assert "is neither a known format nor a Jinja text" in str(caught.value) and hint in str(caught.value)
