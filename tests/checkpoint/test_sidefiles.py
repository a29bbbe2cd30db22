import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.sidefiles import copy_side_files, output_config, write_config
from mergeopt.errors import InputError, MergeoptError

MakeModel = Callable[..., Path]


def test_only_what_belongs_is_copied_and_byte_for_byte(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model()
    wanted = {"tokenizer.json", "chat_template.jinja", "generation_config.json", "additional_chat_templates/rag.jinja"}
    for name in [*wanted, "README.md", "modeling_evil.py", "optimizer.pt", "training_args.json"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(f"{name}\r\n\xff".encode("latin-1"))
    (tmp_path / "secret").write_text("secret")
    (folder / "vocab.json").symlink_to(tmp_path / "secret")

    copies = copy_side_files(Checkpoint.open(folder), tmp_path / "out")

    out = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert out == wanted == {str(copy.relative_to(tmp_path / "out")) for copy in copies}
    for name in wanted:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_a_copy_that_fails_leaves_no_half_file(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model()
    (folder / "tokenizer.json").touch()
    (tmp_path / "out" / "tokenizer.json").mkdir(parents=True)
    with pytest.raises(MergeoptError, match=r"tokenizer.json: cannot be copied"):
        copy_side_files(Checkpoint.open(folder), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer.json"]


def test_dtype_takes_the_place_of_torch_dtype_everywhere() -> None:
    config = {
        "torch_dtype": "float32",
        "text_config": {"torch_dtype": "float32", "hidden_size": 4},
        "vision_config": {"dtype": "float32"},
        "audio_config": {"hidden_size": 4},
    }
    before = json.dumps(config)
    assert output_config(config, dtype="bfloat16") == {
        "dtype": "bfloat16",
        "text_config": {"dtype": "bfloat16", "hidden_size": 4},
        "vision_config": {"dtype": "bfloat16"},
        "audio_config": {"hidden_size": 4},
    }
    assert json.dumps(config) == before


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_layers"])
def test_layers(key: str) -> None:
    assert output_config({key: 4}, dtype="float32", layers=6)[key] == 6
    nested = output_config({"text_config": {key: 4}}, dtype="float32", layers=6)
    assert nested["text_config"][key] == 6 and key not in nested


def test_lists_with_one_entry_per_layer_follow_the_layers() -> None:
    config: dict[str, Any] = {"num_hidden_layers": 2, "layer_types": ["full", "sliding"], "eos_token_id": [1, 2]}
    made = output_config(config, dtype="float32", layers=3, picked=[1, 0, 1])
    assert made["layer_types"] == ["sliding", "full", "sliding"]
    assert made["eos_token_id"] == [1, 2]
    assert output_config(config, dtype="float32", layers=2)["layer_types"] == ["full", "sliding"]
    with pytest.raises(InputError, match="lists layer_types for 2 layers, the merge has 3"):
        output_config(config, dtype="float32", layers=3)
    with pytest.raises(InputError, match="layer_types"):
        output_config(config, dtype="float32", layers=3, picked=[0, 1, 2])


def test_no_key_for_the_layers() -> None:
    with pytest.raises(InputError, match="none of num_hidden_layers"):
        output_config({}, dtype="float32", layers=3)


def test_tying_is_said_where_it_was_said() -> None:
    assert output_config({}, dtype="float32", tie=False) == {"dtype": "float32", "tie_word_embeddings": False}
    both = output_config({"text_config": {"tie_word_embeddings": True}}, dtype="float32", tie=False)
    assert both == {"dtype": "float32", "text_config": {"tie_word_embeddings": False}}
    assert output_config({"tie_word_embeddings": True}, dtype="float32")["tie_word_embeddings"] is True


def test_config_is_written_whole(tmp_path: Path) -> None:
    write_config(tmp_path, {"a": "ä"})
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {"a": "ä"}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
