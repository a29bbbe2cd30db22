"""Every file of the library says what a published merge must say; a new one is picked up by itself."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergeopt.published.entry import LIBRARY, MERGE, find, names, read_entry
from mergeopt.published.needs import missing, models
from mergeopt.published.reproduction import merge_again
from tests.conftest import read_weights

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@pytest.mark.parametrize("name", names())
def test_a_file_of_the_library(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", name)
    text = (LIBRARY / f"{name}.yml").read_text()
    assert text.startswith("# ") and all(len(line) <= 140 for line in text.splitlines())
    entry = read_entry(find(name))
    assert all(HUB_ID.fullmatch(ref.path) for ref in entry.parents), "parents are Hub ids: anyone must find them"
    assert entry.facts.models.keys() == {ref.path for ref in entry.parents}
    first = entry.facts.claims[0]
    assert first.scores[MERGE].keys() == {each.called for each in entry.facts.evals}
    assert all(0 < value <= 1 for each in entry.facts.evals if (value := first.score(MERGE, each.called)) is not None)


def test_the_mergekit_paper_is_there() -> None:
    table = {name: read_entry(find(f"llama2-meditron-{name}")) for name in ("linear", "slerp", "ties", "dare-ties")}
    assert [entry.recipe.method for entry in table.values()] == ["linear", "slerp", "ties", "dare_ties"]
    mmlu = [entry.facts.claims[0].scores[MERGE]["MMLU"] for entry in table.values()]
    assert mmlu == [48.44, 47.97, 45.03, 41.17]
    parents = {str(entry.facts.claims[0].scores["epfl-llm/meditron-7b"]) for entry in table.values()}
    assert len(parents) == 1
    again = [entry.facts.claims[1].score(MERGE, "USMLE") for entry in table.values()]
    assert again == pytest.approx([0.4171, 0.4179, 0.3535, 0.3370])


def test_what_is_missing_is_one_line() -> None:
    entry = read_entry(find("llama2-meditron-linear"))
    said = str(missing(models(entry, {})))
    chat, meditron = "NousResearch/Llama-2-7b-chat-hf (13.48 GB)", "epfl-llm/meditron-7b (13.48 GB, gated)"
    assert said.startswith(f"not on disk: {chat}, {meditron}; run `hf download")
    assert "hf download NousResearch/Llama-2-7b-chat-hf && hf download epfl-llm/meditron-7b" in said


@pytest.mark.parametrize("name", names())
def test_the_recipes_merge_models_of_two_vocabularies(name: str, work: Path, tmp_path: Path) -> None:
    """On small models in the parents' places, one of which has more rows than the others, as Meditron has."""
    longer = tmp_path / "longer"
    shutil.copytree("zoo/upper", longer)
    weights = load_file(longer / "model.safetensors")
    rows = {key: len(w) for key, w in weights.items() if "embed_tokens" in key or "lm_head" in key}
    for key in rows:
        weights[key] = torch.cat([weights[key], weights[key][:3]])
    save_file(weights, longer / "model.safetensors")
    config = json.loads((longer / "config.json").read_text())
    (longer / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 3}))
    entry = read_entry(find(name))
    places = {ref.path: work / "zoo" / ("base" if ref == entry.recipe.base else "sort") for ref in entry.parents}
    places["epfl-llm/meditron-7b"] = longer
    found = models(entry, places)
    assert missing(found) is None
    merge_again(entry, found, tmp_path / "out", lambda _: None)
    merged = read_weights(tmp_path / "out")
    assert {key: len(merged[key]) for key in rows} == rows
    assert all(bool(tensor.isfinite().all()) for tensor in merged.values())
    assert {str(tensor.dtype) for tensor in merged.values()} == {f"torch.{entry.recipe.dtype}"}
