"""Models made so that the verdict is known."""

from pathlib import Path

import pytest
import torch

from mergeopt.diagnose.diagnosis import Diagnosis
from mergeopt.diagnose.plain import as_data
from mergeopt.errors import InputError
from tests.conftest import llama_weights, write_model
from tests.diagnose.conftest import LAYERS, diagnosed, opened, permuted, tokenizer_files, tuned

BASE = llama_weights(LAYERS)


def said(found: Diagnosis) -> tuple[str, str]:
    """The verdict on the only pair, and why."""
    (verdict,) = found.verdicts.values()
    return verdict.word, "; ".join(verdict.reasons)


def advised(found: Diagnosis) -> str:
    return "\n".join(found.advice)


def test_unrelated_fine_tunes_of_one_base(zoo: Path) -> None:
    found = diagnosed("a", "b")
    assert said(found) == ("good", "")
    data = as_data(found)["pairs"][0]
    assert data["cosine"] == pytest.approx(0, abs=0.05) and data["sign_conflict"] == pytest.approx(0.5, abs=0.1)
    assert data["shared_support"] == pytest.approx(0.2, abs=0.05)
    assert as_data(found)["models"]["a"]["delta_ratio"] == pytest.approx(0.01, rel=0.05)
    assert "measure it with --eval" in advised(found) and "dominates" not in advised(found)


def test_another_pre_training(zoo: Path) -> None:
    write_model(zoo / "stranger", llama_weights(LAYERS, seed=9))
    word, why = said(diagnosed("a", "stranger"))
    assert word == "no" and "stranger is no fine-tune of base: cosine of their weights" in why
    assert "Leave out stranger" in advised(diagnosed("a", "stranger"))


def test_the_same_units_in_another_order(zoo: Path) -> None:
    write_model(zoo / "turned", permuted(BASE))
    word, why = said(diagnosed("a", "turned"))
    assert word == "no" and "turned has the units of base in another order" in why


def test_a_longer_delta_of_the_same_direction(zoo: Path) -> None:
    a = tuned(1)
    write_model(zoo / "more", {name: t + 5 * (a[name] - t) for name, t in BASE.items()})
    found = diagnosed("a", "more")
    word, why = said(found)
    assert word == "tune" and "same way (cosine +1.00)" in why and "the delta of more is 5.0 times that of a" in why
    assert "more dominates (5.0 times a); norm-scaled weights: a 0.83, more 0.17" in advised(found)


def test_deltas_against_each_other(zoo: Path) -> None:
    a = tuned(1)
    write_model(zoo / "anti", {name: 2 * t - a[name] for name, t in BASE.items()})
    word, why = said(diagnosed("a", "anti"))
    assert word == "risky" and "signs conflict in 100% of the mass (cosine -1.00)" in why


def test_where_signs_conflict(zoo: Path) -> None:
    a, b = tuned(1), tuned(2)
    for name in BASE:
        if ".2.mlp." in name:
            a[name], b[name] = BASE[name] + 0.1, BASE[name] - 0.1
    write_model(zoo / "up", a)
    write_model(zoo / "down", b)
    assert "mlp of layer 2" in said(diagnosed("up", "down"))[1]


def test_a_copy(zoo: Path) -> None:
    write_model(zoo / "copy", tuned(1))
    found = diagnosed("a", "copy")
    assert said(found)[0] == "tune" and "a and copy are the same model: keep one" in said(found)[1]
    assert "Keep one of a and copy" in advised(found)
    write_model(zoo / "still", BASE)
    assert "still equals the base: it adds nothing" in said(diagnosed("a", "still"))[1]


def test_another_tokenizer(zoo: Path) -> None:
    tokens = [f"t{i}" for i in range(32)]
    for name in ("base", "a"):
        tokenizer_files(zoo / name, tokens)
    tokenizer_files(zoo / "b", [*tokens[1:], tokens[0]], eos="<end>")
    found = diagnosed("a", "b")
    word, why = said(found)
    assert word == "risky" and "b: another tokenizer (32 at other ids" in why
    assert any(
        "other special tokens: eos_token '</s>' and '<end>'" in finding.text for finding in found.evidence.findings
    )


def test_numbers_that_are_none(zoo: Path) -> None:
    broken = tuned(3)
    broken["model.layers.0.mlp.up_proj.weight"][0, :2] = float("nan")
    write_model(zoo / "broken", broken)
    assert said(diagnosed("a", "broken")) == ("no", "broken holds 2 numbers that are NaN or infinite")


def test_far_from_the_base(zoo: Path) -> None:
    write_model(zoo / "far", tuned(4, 0.2))
    word, why = said(diagnosed("a", "far"))
    assert word == "tune" and "far went far from the base (|τ|/|W₀| 0.20)" in why


def test_which_base(zoo: Path) -> None:
    instruct = tuned(7, 0.05)
    write_model(zoo / "instruct", instruct)
    for seed in (1, 2):
        noise = llama_weights(LAYERS, seed=seed)
        write_model(zoo / f"on{seed}", {name: t + 0.01 * noise[name] for name, t in instruct.items()})
    assert "Take instruct as the base instead of base: deltas are 5.1 times" in advised(
        diagnosed("on1", "on2", base=["base", "instruct"])
    )
    assert "Take instruct as the base" in advised(diagnosed("on1", "instruct", "on2"))
    assert "as the base instead" not in advised(diagnosed("on1", "on2", base=["instruct", "base"]))


def test_frozen_parts_and_those_that_hardly_move(zoo: Path) -> None:
    for name, seed in (("x", 1), ("y", 2)):
        weights = tuned(seed)
        for tensor in weights:
            if "embed" in tensor or "lm_head" in tensor:
                weights[tensor] = BASE[tensor]
            if "norm" in tensor:
                weights[tensor] = BASE[tensor] + 1e-4
        write_model(zoo / name, weights)
    text = advised(diagnosed("x", "y"))
    assert "Nothing to merge in embed: unchanged in every model." in text
    assert "Keep norm at the base" in text


def test_what_does_not_fit_is_a_verdict(zoo: Path) -> None:
    wide = {name: torch.randn(*(2 * size for size in t.shape)) for name, t in BASE.items()}
    write_model(zoo / "wide", wide, hidden_size=32)
    assert said(diagnosed("a", "wide"))[0] == "no"
    lacking = tuned(3)
    del lacking["model.layers.1.mlp.up_proj.weight"]
    write_model(zoo / "lacking", lacking)
    word, why = said(diagnosed("a", "lacking"))
    assert word == "no" and "lacks tensor model.layers.1.mlp.up_proj.weight" in why


def test_more_rows_and_another_rope(zoo: Path) -> None:
    padded = tuned(3)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        padded[name] = torch.cat([padded[name], torch.zeros(4, 16)])
    write_model(zoo / "padded", padded, vocab_size=36, rope_theta=5e5)
    found = diagnosed("a", "padded")
    texts = [finding.text for finding in found.evidence.findings]
    assert "model.embed_tokens.weight has other rows: [36, 16], not [32, 16]" in texts
    assert any(text.startswith("config rope_theta is 500000.0, not None: attention turns") for text in texts)
    assert said(found)[0] == "risky"
    assert as_data(found)["tensors"] == {"compared": len(BASE), "of": len(BASE)}


def test_without_a_base_only_distances_are_known(zoo: Path) -> None:
    found = diagnosed("a", "b", base=[])
    data = as_data(found)
    assert data["base"] is None and data["reference"] == "a" and "cosine" not in data["pairs"][0]
    assert data["pairs"][0]["distance"] > 0 and "Name the base" in found.advice[0]
    write_model(zoo / "stranger", llama_weights(LAYERS, seed=9))
    assert said(diagnosed("a", "stranger", base=[]))[0] == "no"


def test_nothing_to_compare(zoo: Path) -> None:
    with pytest.raises(InputError, match="1 model to compare with nothing; give a recipe"):
        opened("a", base=[])
    assert diagnosed("a").verdicts == {}
