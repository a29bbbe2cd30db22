"""Every token keeps its row, whatever its number; files, config and rows agree; nothing asked changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.errors import InputError
from mergeopt.merge.embeddings import vocabulary_tensors
from mergeopt.merge.folder import merge_to_folder
from tests.conftest import llama_weights, read_weights, write_adapter, write_model
from tests.merge.conftest import merged, prepared
from tests.speakers import Speaker, write_speaker, write_tokenizer


def linear(*models: str) -> str:
    listed = ", ".join(f"{{model: {name}}}" for name in models)
    return f"merge_method: linear\nmodels: [{listed}]\nparameters: {{weight: 1}}\n"


LINEAR = linear("a", "b")
TASK = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
TURN, END = (AddedToken(f"<|im_{x}|>", special=True, normalized=False) for x in ("start", "end"))
HEADS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture
def speakers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_speaker(tmp_path / "base", 0, spare=4)
    write_speaker(tmp_path / "a", 1, [("h", "e")], [TURN])
    write_speaker(tmp_path / "b", 2, [("h", "e"), ("x", "y")], [TURN, END], spare=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / name).read_text())
    return loaded


def made(text: str, folder: Path) -> tuple[Speaker, tuple[str, ...]]:
    of = prepared(text)
    merge_to_folder(of, folder / "out")
    out = Speaker(folder / "out")
    for tensor in HEADS:
        assert len(out.weights[tensor]) == config_of(folder / "out")["vocab_size"]
    return out, of.notices


def close(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(x, y, rtol=1e-5, atol=1e-6)


# rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tensor", HEADS)
def test_union_by_token(speakers: Path, tensor: str):
    out, _ = made(LINEAR + "tokenizer_source: union\n", speakers)
    a, b = Speaker(speakers / "a"), Speaker(speakers / "b")
    assert list(out.ids) and sorted(out.ids, key=out.ids.__getitem__)[-2:] == ["xy", "<|im_end|>"]
    for token in out.ids:
        x = a.row(token, tensor) if a.has(token) else b.row(token, tensor)
        y = b.row(token, tensor)
        assert close(out.row(token, tensor), (x + y) / 2), token


def test_what_stands_in_for_a_row(speakers: Path):
    write_speaker(speakers / "c", 3, spare=1)
    text = (
        "merge_method: linear\nmodels: [{model: a}, {model: b}, {model: c}]\nparameters: {weight: 1}\ndtype: float32\n"
    )
    of = [Speaker(speakers / name) for name in ("a", "b", "c")]
    out, _ = made(text + "tokenizer_source: union\n", speakers)
    turn = (of[0].row("<|im_start|>") + of[1].row("<|im_start|>")) / 2
    assert close(out.row("<|im_start|>"), (of[0].row("<|im_start|>") + of[1].row("<|im_start|>") + turn) / 3)
    assert close(out.row("xy"), of[1].row("xy"))  # the only model that has it
    out, _ = made(text + "base_model: b\ntokenizer_source: union\n", speakers)
    rows = (of[0].row("<|im_start|>"), of[1].row("<|im_start|>"), of[1].row("<|im_start|>"))
    assert close(out.row("<|im_start|>"), sum(rows, torch.zeros(16)) / 3)


def test_rules(speakers: Path):
    rules = """
tokenizer:
  pad_to_multiple_of: 32
  tokens:
    nobody: {}
    nothing: {source: {kind: zero}}
    "<s>": {source: {kind: zero}, force: true}
    xy: {source: {kind: zero}}
    he: {source: b, force: true}
    wanted: {source: {kind: model_token, model: base, token: A}}
    numbered: {source: {kind: model_token, model: a, token_id: 7}}
    "<|im_start|>": {force: true}
"""
    out, notices = made(LINEAR + "dtype: float32\n" + rules, speakers)
    base, a, b = (Speaker(speakers / name) for name in ("base", "a", "b"))
    for token in ("nobody", "nothing", "<s>"):
        assert not out.row(token).any()
    assert close(out.row("xy"), b.row("xy") / 2)  # a lacks it: zero there, b's own
    assert close(out.row("he"), b.row("he"))
    assert close(out.row("wanted"), base.row("A"))
    assert close(out.row("numbered"), a.weights[HEADS[0]][7])
    assert close(out.row("<|im_start|>"), (a.row("<|im_start|>") + b.row("<|im_start|>")) / 2)
    rows = out.weights[HEADS[0]]
    assert len(rows) == 288
    known = rows[: len(out.ids)]
    assert close(rows[len(out.ids) :], known.mean(0).expand(288 - len(out.ids), 16))
    assert any("no model has a row for 'nothing', 'nobody'" in n or "'nobody', 'nothing'" in n for n in notices)


@pytest.mark.parametrize("source", ["union", "base"])
def test_an_id_beyond_the_matrix_is_a_token_that_the_model_lacks(speakers: Path, source: str):
    write_speaker(speakers / "short", 4, [("h", "e")], [TURN, END], spare=-1)  # <|im_end|> has no row
    text = linear("short", "b") + f"tokenizer_source: {source}\n"
    out, _ = made(text, speakers)
    b = Speaker(speakers / "b")
    assert ("<|im_end|>" in out.ids) == (source == "union")
    if source == "union":
        assert close(out.row("<|im_end|>"), b.row("<|im_end|>"))
    assert AutoTokenizer.from_pretrained(speakers / "out").encode("he<|im_start|>") == [
        out.ids["he"],
        out.ids["<|im_start|>"],
    ]


def test_cutting_takes_merges_with_it(speakers: Path):
    write_speaker(speakers / "short", 4, [("h", "e"), ("he", "l"), ("x", "y")], spare=-2)
    out, _ = made(linear("short", "b") + "tokenizer_source: base\n", speakers)
    assert "he" in out.ids and not {"hel", "xy"} & out.ids.keys()
    loaded = AutoTokenizer.from_pretrained(speakers / "out")
    assert loaded.decode(loaded.encode("hello xy")) == "hello xy"


def test_rows_of_another_dtype(speakers: Path):
    write_speaker(speakers / "b", 2, [("h", "e"), ("x", "y")], [TURN, END], dtype=torch.bfloat16)
    a, b = Speaker(speakers / "a"), Speaker(speakers / "b")
    out, _ = made(LINEAR + "dtype: float32\ntokenizer_source: union\n", speakers)
    assert close(out.row("xy"), b.row("xy").float())
    assert close(out.row("he"), (a.row("he") + b.row("he").float()) / 2)
    write_speaker(speakers / "base16", 0, dtype=torch.bfloat16)
    out, _ = made(linear("base16", "b") + "tokenizer: {}\n", speakers)
    assert out.weights[HEADS[0]].dtype == torch.bfloat16


def test_a_tied_head_lends_and_borrows_rows_of_the_head(speakers: Path):
    write_speaker(speakers / "tied", 5, [("h", "e")], head=False)
    out, _ = made(linear("tied", "b") + "tokenizer_source: union\n", speakers)
    tied, b = Speaker(speakers / "tied"), Speaker(speakers / "b")
    assert close(out.row("he", HEADS[1]), (tied.row("he") + b.row("he", HEADS[1])) / 2)
    assert close(out.row("xy", HEADS[1]), b.row("xy", HEADS[1]))


def test_every_vocabulary_tensor_of_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Biases of the head, too; position embeddings of the same length are left alone."""
    from transformers import BertConfig, BertForMaskedLM

    monkeypatch.chdir(tmp_path)
    for seed, (name, merges) in enumerate({"a": [("h", "e")], "b": [("x", "y"), ("h", "e")]}.items()):
        torch.manual_seed(seed)
        rows = write_tokenizer(tmp_path / name, merges)
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        model = BertForMaskedLM(BertConfig(vocab_size=rows, max_position_embeddings=259, **small))
        torch.nn.init.normal_(model.cls.predictions.bias)
        model.save_pretrained(tmp_path / name)
    merge_to_folder(prepared(LINEAR + "tokenizer_source: union\n"), tmp_path / "out")
    weights = {name: read_weights(tmp_path / name) for name in ("a", "b", "out")}
    a, b = weights["a"], weights["b"]
    bias = next(name for name in a if name.endswith("predictions.bias"))
    assert weights["out"][bias].shape == (260,)
    assert close(weights["out"][bias][259], b[bias][258])  # xy, only b's
    assert close(weights["out"][bias][258], (a[bias][258] + b[bias][259]) / 2)  # he
    position = next(name for name in a if "position_embeddings" in name)
    assert close(weights["out"][position], (a[position] + b[position]) / 2)
    loaded, said = BertForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert loaded.config.vocab_size == 260 and not said["missing_keys"] and not said["mismatched_keys"]


def test_an_adapter_in_another_vocabulary(speakers: Path):
    """A view of a view: the adapter changes the layers, the vocabulary the rows; bfloat16 stays what is written."""
    for name, seed in (("a", 1), ("b", 2)):
        write_speaker(speakers / name, seed, [("h", "e"), ("x", "y")][:seed], [TURN], dtype=torch.bfloat16)
    write_adapter(speakers / "lora", {"model.layers.0.self_attn.q_proj": (16, 16)})
    out, _ = made(linear("a", "b+lora") + "tokenizer_source: union\n", speakers)
    plain, _ = made(linear("a", "b") + "tokenizer_source: union\n", speakers)
    assert {tensor.dtype for tensor in out.weights.values()} == {torch.bfloat16}
    changed = [name for name, tensor in out.weights.items() if not torch.equal(tensor, plain.weights[name])]
    assert changed == ["model.layers.0.self_attn.q_proj.weight"]


def test_sizes_that_are_equal_by_chance(tmp_path: Path):
    """A hidden size, or a table of positions, as long as the vocabulary has no tokens."""
    weights = llama_weights() | {
        name: torch.zeros(16, 16) for name in (*HEADS, "model.embed_positions.weight", "model.mixer.weight")
    }
    weights |= {"lm_head.bias": torch.zeros(16), "final_logits_bias": torch.zeros(1, 16)}
    ambiguous = Checkpoint.open(write_model(tmp_path / "m", weights, vocab_size=16))
    expected = {*HEADS, "lm_head.bias", "final_logits_bias"}
    assert set(vocabulary_tensors(ambiguous)) == expected  # neither model.norm.weight [16] nor the mixer
    longer = {name: torch.zeros(33, 16) for name in HEADS} | {"lm_head.bias": torch.zeros(33), "tail": torch.zeros(33)}
    plain = Checkpoint.open(write_model(tmp_path / "n", weights | longer, vocab_size=33))
    assert set(vocabulary_tensors(plain)) == {*HEADS, "lm_head.bias", "tail"}


# files ---------------------------------------------------------------------------------------------------------------


def test_the_output_loads_and_speaks(speakers: Path):
    for name in ("base", "a", "b"):
        fields = config_of(speakers / name, "tokenizer_config.json") | {"model_max_length": 77, "note": "kept"}
        (speakers / name / "tokenizer_config.json").write_text(json.dumps(fields))
    made(TASK + "tokenizer_source: union\n", speakers)
    tokenizer = AutoTokenizer.from_pretrained(speakers / "out")
    model = AutoModelForCausalLM.from_pretrained(speakers / "out")
    text = "hello <|im_start|>xyz<|im_end|>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.convert_tokens_to_ids("<|im_end|>") in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello xyz"
    by_hand = AutoModelForCausalLM.from_config(LlamaConfig(**config_of(speakers / "out")), dtype=torch.float32)
    by_hand.load_state_dict(load_file(speakers / "out/model.safetensors"))
    prompt = torch.tensor([ids])
    assert torch.equal(model(prompt).logits, by_hand(prompt).logits)
    assert config_of(speakers / "out", "tokenizer_config.json") == config_of(speakers / "base", "tokenizer_config.json")
    generation = "generation_config.json"
    assert (speakers / "out" / generation).read_bytes() == (speakers / "base" / generation).read_bytes()


def test_added_tokens_that_the_config_lists(speakers: Path):
    entry = {"content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    fields = config_of(speakers / "a", "tokenizer_config.json") | {
        "added_tokens_decoder": {"0": entry | {"special": True}},
        "chat_template": "{{ messages[0]['content'] }}",
    }
    (speakers / "a/tokenizer_config.json").write_text(json.dumps(fields))
    (speakers / "a/added_tokens.json").write_text("{}")
    (speakers / "a/merges.txt").write_text("#version: 0.2\n")
    out, _ = made(LINEAR + "tokenizer_source: union\nchat_template: chatml\n", speakers)
    config = config_of(speakers / "out", "tokenizer_config.json")
    assert config["added_tokens_decoder"][str(out.ids["<|im_end|>"])]["content"] == "<|im_end|>"
    assert "chat_template" not in config
    assert not (speakers / "out/added_tokens.json").exists() and not (speakers / "out/merges.txt").exists()
    loaded = AutoTokenizer.from_pretrained(speakers / "out")
    turn = loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert turn == "<|im_start|>user\nHi<|im_end|>\n"


def test_ids_of_special_tokens_follow_the_tokenizer(speakers: Path):
    """The config is the base's, the tokenizer another's, which counts its special tokens elsewhere."""
    write_speaker(
        speakers / "b", 2, [("h", "e")], ["<s>", END], special=("<pad>", "<stop>"), eos_token_id=[1], pad_token_id=0
    )
    fields = config_of(speakers / "base") | {"eos_token_id": [0, 1], "image_token_id": 70}
    (speakers / "base/config.json").write_text(json.dumps(fields))
    out, _ = made(TASK + "tokenizer_source: b\n", speakers)
    config = config_of(speakers / "out")
    stop = out.ids["<stop>"]
    assert config["bos_token_id"] == out.ids["<s>"]
    assert config["eos_token_id"] == [out.ids["<s>"], stop]  # b has no </s>: what b says instead
    base = Speaker(speakers / "base")
    (image,) = (token for token, index in base.ids.items() if index == 70)
    assert config["image_token_id"] == out.ids[image]
    assert config_of(speakers / "out", "generation_config.json") == config_of(speakers / "b", "generation_config.json")


def test_padding_of_the_sources_goes_and_is_named(speakers: Path):
    out, notices = made(TASK + "tokenizer_source: base\n", speakers)
    assert config_of(speakers / "out")["vocab_size"] == len(out.ids) == 258
    assert any("4 rows of 'base' stand for no token of the output" in notice for notice in notices)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (speakers / "out" / file).read_bytes() == (speakers / "base" / file).read_bytes()


def test_a_special_token_that_only_the_config_names_gets_a_row(speakers: Path):
    fields = config_of(speakers / "base", "tokenizer_config.json") | {"pad_token": "[PAD]"}
    (speakers / "base/tokenizer_config.json").write_text(json.dumps(fields))
    out, notices = made(TASK + "tokenizer_source: base\n", speakers)
    assert len(AutoTokenizer.from_pretrained(speakers / "out")) == config_of(speakers / "out")["vocab_size"]
    assert not out.row("[PAD]").any() and any("'[PAD]'" in notice for notice in notices)


def test_ordinary_words_of_others_are_named(speakers: Path):
    _, notices = made(TASK + "tokenizer_source: union\n", speakers)
    assert any("'he', 'xy' are no word of 'base': matched as literal text" in notice for notice in notices)


def test_without_a_request_files_are_copied_and_sizes_must_agree(speakers: Path):
    with pytest.raises(InputError, match=r"tokenizer_source: union to merge token by token"):
        prepared(LINEAR)
    write_speaker(speakers / "a", 1, spare=4)
    of = prepared(linear("a", "base"))
    merge_to_folder(of, speakers / "out")
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (speakers / "out" / file).read_bytes() == (speakers / "a" / file).read_bytes()
    assert of.checkpoints[of.recipe.donor] is of.vocabulary.checkpoints[of.recipe.donor]
    assert config_of(speakers / "out")["vocab_size"] == 262


def test_models_that_speak_alike_are_read_as_they_are(speakers: Path):
    write_speaker(speakers / "a", 1)
    write_speaker(speakers / "b", 2)
    of = prepared(LINEAR + "tokenizer_source: union\n")
    assert {type(checkpoint).__name__ for checkpoint in of.checkpoints.values()} == {"Checkpoint"}
    assert merged(LINEAR, speakers / "x").keys() == merged(LINEAR + "tokenizer: {}\n", speakers / "y").keys()
    assert (speakers / "x/model.safetensors").read_bytes() == (speakers / "y/model.safetensors").read_bytes()


def test_a_model_outside_the_merge_may_give_the_tokenizer_and_rows(speakers: Path):
    out, _ = made(linear("a", "base") + "tokenizer: {source: b, tokens: {xy: {source: b}}}\n", speakers)
    b = Speaker(speakers / "b")
    assert out.ids == b.ids
    assert close(out.row("xy"), b.row("xy")) and not out.row("<|im_end|>").any()


def test_a_model_without_tokenizer_shares_the_donors(speakers: Path):
    write_speaker(speakers / "c", 7)
    for file in (speakers / "c").glob("tokenizer*"):
        file.unlink()
    out, notices = made(linear("base", "c") + "tokenizer_source: union\n", speakers)
    assert any("'c' has no tokenizer" in notice for notice in notices) and len(out.ids) == 258
    with pytest.raises(InputError, match=r"'c' has no tokenizer, which the output's would be made from"):
        prepared(linear("c", "base") + "tokenizer_source: union\n")


@pytest.mark.parametrize(
    "rules, message",
    [
        ("tokens: {x: {source: {kind: model_token, model: a, token: qq}}}", r"takes 'qq' of 'a', which has no such"),
        ("tokens: {x: {source: {kind: model_token, model: a, token_id: 260}}}", r"takes id 260 of 'a', which has 260"),
        ("tokens: {qq: {source: a}}", r"the rule for 'qq' takes 'qq' of 'a'"),
    ],
)
def test_rules_that_cannot_be_followed(speakers: Path, rules: str, message: str):
    with pytest.raises(InputError, match=message):
        prepared(LINEAR + f"tokenizer: {{{rules}}}\n")


def test_models_of_other_widths_are_refused_in_words(speakers: Path):
    file = speakers / "b/model.safetensors"
    weights = load_file(file)
    save_file(weights | {name: weights[name][:, :8].clone() for name in HEADS}, file)
    with pytest.raises(InputError, match="merge models of one architecture"):
        prepared(LINEAR + "tokenizer_source: union\n")


def test_a_sentencepiece_tokenizer_is_converted(speakers: Path):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = speakers / "corpus.txt"
    corpus.write_text("\n".join(f"hello world number {i} of many lines" for i in range(200)))
    for name, size in (("s", 60), ("t", 64)):
        write_speaker(speakers / name, 8, spare=size - 258)
        for file in (speakers / name).glob("tokenizer*"):
            file.unlink()
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(speakers / name / "tokenizer"), vocab_size=size, model_type="bpe",
            byte_fallback=False, unk_id=0, bos_id=1, eos_id=2, minloglevel=2,
        )  # fmt: skip
        (speakers / name / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    of = prepared(linear("s", "t") + "tokenizer_source: union\n")
    merge_to_folder(of, speakers / "out")
    assert config_of(speakers / "out")["vocab_size"] >= 64
    assert not (speakers / "out/tokenizer.model").exists()
    loaded = AutoTokenizer.from_pretrained(speakers / "out")
    assert len(loaded) == config_of(speakers / "out")["vocab_size"]
    assert loaded.decode(loaded.encode("hello world", add_special_tokens=False)).strip() == "hello world"
