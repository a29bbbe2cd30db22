"""What differs beside the weights, and what it means."""

import json
from pathlib import Path

from mergeopt.diagnose.hygiene import findings
from tests.conftest import write_model
from tests.diagnose.conftest import opened, tokenizer_files, tuned


def of(*models: str) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in findings(opened(*models))]


def test_nothing_to_say_of_plain_fine_tunes(zoo: Path) -> None:
    assert of("a", "b") == []


def test_configs(zoo: Path) -> None:
    write_model(zoo / "other", tuned(3), rms_norm_eps=1e-6, eos_token_id=5, num_attention_heads=4, note="mine")
    assert of("other") == [
        ("stop", "config num_attention_heads is 4, not 2: weights of another size or order"),
        ("mind", "config rms_norm_eps is 1e-06, not 1e-05: norms compute something else"),
        ("mind", "config eos_token_id is 5, not 2: answers end with another token"),
        ("note", "config note is mine, not None"),
    ]


def test_tensors_of_one_model_alone(zoo: Path) -> None:
    weights = tuned(3)
    weights["model.layers.0.self_attn.q_proj.bias"] = weights["model.norm.weight"].clone()
    write_model(zoo / "biased", weights)
    assert of("biased") == [("stop", "has, alone, tensor model.layers.0.self_attn.q_proj.bias")]
    tied = tuned(3)
    del tied["lm_head.weight"]
    write_model(zoo / "tied", tied, tie_word_embeddings=True)
    assert [level for level, _ in of("tied")] == ["mind", "mind"] and "lacks tensor lm_head.weight" in of("tied")[0][1]


def test_dtypes(zoo: Path) -> None:
    write_model(zoo / "half", {name: t.bfloat16() for name, t in tuned(3).items()})
    assert of("half") == [("note", "stored as bfloat16, unlike the reference")]


def test_chat_templates(zoo: Path) -> None:
    for name in ("base", "a"):
        tokenizer_files(zoo / name, ["x", "y"])
    file = zoo / "a" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": "{{ messages }}"}))
    ((level, text),) = of("a")
    assert level == "note" and text.startswith("another chat template")
