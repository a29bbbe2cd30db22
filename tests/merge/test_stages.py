"""A chain is planned as a whole before the first byte, made in order, and made again only where it must be."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from tokenizers import AddedToken

from mergeopt.errors import InputError, MergeoptError
from mergeopt.merge import stages as module
from mergeopt.merge.mergekit_mode import Match
from mergeopt.merge.stages import PreparedChain, merge_stages, prepare_stages
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_documents, read_documents
from mergeopt.recipe.stages import read_stages
from tests.conftest import llama_weights, read_weights, write_adapter, write_model
from tests.speakers import Speaker, write_speaker

CHAIN = """\
name: half
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 0.5}
---
name: deep
merge_method: passthrough
slices:
  - sources: [{model: half, layer_range: [0, 2]}]
  - sources: [{model: a, layer_range: [1, 2]}]
---
merge_method: task_arithmetic
base_model: deep
models: [{model: other, parameters: {weight: 0.25}}]
"""


def prepared(text: str) -> PreparedChain:
    return prepare_stages(read_stages(parse_documents(dedent(text), "r.yml"), SCHEMAS))


@pytest.fixture
def work(models: Path) -> Path:
    """`models` and another of three layers."""
    write_model(models / "other", llama_weights(3, seed=7))
    return models


def made(chain: PreparedChain, out: Path, *, keep: bool = True) -> list[str]:
    """Makes the chain; the stages that were used again."""
    reused: list[str] = []
    merge_stages(chain, out, folder=out.with_name("stages"), keep=keep, reused=reused.append)
    return reused


def test_a_chain_is_the_merge_of_its_merges(work: Path) -> None:
    made(prepared(CHAIN), work / "out", keep=False)
    a, b, other = (read_weights(work / name) for name in ("a", "b", "other"))
    got = read_weights(work / "out")
    for layer, (first, second) in enumerate([(a, b), (a, b), (a, a)]):
        name = "model.layers.{}.mlp.up_proj.weight"
        deep = 0.5 * (first[name.format(min(layer, 1))] + second[name.format(min(layer, 1))])
        expected = deep + 0.25 * (other[name.format(layer)] - deep)
        torch.testing.assert_close(got[name.format(layer)], expected)
    assert not (work / "stages").exists()
    assert json.loads((work / "out" / "config.json").read_text())["num_hidden_layers"] == 3


def test_the_whole_chain_is_written_down_and_reads_back(work: Path) -> None:
    made(prepared(CHAIN), work / "out")
    again = read_stages(read_documents(work / "out" / "recipe.yaml"), SCHEMAS)
    assert [stage.name for stage in again.stages] == ["half", "deep", ""]
    assert again.models == read_stages(parse_documents(CHAIN, "r.yml"), SCHEMAS).models
    lock = json.loads((work / "out" / "recipe.lock.json").read_text())
    assert set(lock["stages"]) == {"half", "deep"} and set(lock["stages"]["half"]["inputs"]) == {"a", "b"}
    made(prepare_stages(again), work / "again")
    assert all(torch.equal(t, read_weights(work / "out")[n]) for n, t in read_weights(work / "again").items())


def test_a_stage_that_stands_is_used_again_and_a_changed_one_made_anew_with_what_follows(work: Path) -> None:
    assert made(prepared(CHAIN), work / "out") == []
    assert made(prepared(CHAIN), work / "out") == ["half", "deep"]
    assert made(prepared(CHAIN.replace("{weight: 0.25}", "{weight: 0.5}")), work / "out") == ["half", "deep"]
    assert made(prepared(CHAIN.replace("[1, 2]", "[0, 1]")), work / "out") == ["half"]
    assert made(prepared(CHAIN.replace("0.5}", "0.7}")), work / "out") == []
    (work / "b" / "model.safetensors").touch()
    assert made(prepared(CHAIN.replace("0.5}", "0.7}")), work / "out") == []


def test_after_a_fault_the_chain_goes_on_where_it_stopped(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., tuple[str, ...]] = module.merge_to_folder

    def failing(prepared: object, out: Path, **options: object) -> tuple[str, ...]:
        if out.name == "deep":
            raise MergeoptError("the disk is full")
        return original(prepared, out, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "merge_to_folder", failing)
        with pytest.raises(MergeoptError, match="disk is full"):
            made(prepared(CHAIN), work / "out", keep=False)
    assert not (work / "out").exists()
    assert made(prepared(CHAIN), work / "out", keep=False) == ["half"]


def test_a_mistake_in_the_last_stage_is_found_before_the_first_is_made(work: Path) -> None:
    with pytest.raises(InputError, match=r"r\.yml:11: models of different depth.*other has 3, deep has 2 layers"):
        prepared(CHAIN.replace("  - sources: [{model: a, layer_range: [1, 2]}]\n", ""))
    assert not (work / "stages").exists()


def test_stages_are_called_as_they_like_and_do_not_overwrite_models(work: Path) -> None:
    text = CHAIN.replace("half", "../my stage")
    made(prepared(text), work / "out")
    names = {path.name for path in (work / "stages").iterdir()}
    assert len(names) == 2 and all("/" not in name and not name.startswith(".") for name in names)
    with pytest.raises(InputError, match="base: holds a model that is no stage"):
        merge_stages(prepared(CHAIN.replace("half", "base")), work / "x", folder=work, keep=True)


def test_a_stage_speaks_the_vocabulary_that_it_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    turn = AddedToken("<|turn|>", special=True, normalized=False)
    write_speaker(tmp_path / "a", 1)
    write_speaker(tmp_path / "b", 2, [("h", "e")], [turn])
    text = """\
    name: both
    merge_method: linear
    models: [{model: a}, {model: b}]
    parameters: {weight: 1}
    tokenizer_source: union
    ---
    merge_method: linear
    models: [{model: both}, {model: b}]
    parameters: {weight: 1}
    tokenizer_source: union
    """
    made(prepared(text), tmp_path / "out")
    both, out = Speaker(tmp_path / "stages" / "both"), Speaker(tmp_path / "out")
    assert out.has("<|turn|>") and set(out.ids) == set(both.ids)
    b = Speaker(tmp_path / "b")
    expected = (both.row("<|turn|>", "lm_head.weight") + b.row("<|turn|>", "lm_head.weight")) / 2
    torch.testing.assert_close(out.row("<|turn|>", "lm_head.weight"), expected)


def test_a_stage_may_bear_an_adapter(work: Path) -> None:
    write_adapter(work / "lora", {"model.layers.0.mlp.up_proj": (24, 16)})
    made(prepared(CHAIN), work / "plain")
    made(prepared(CHAIN.replace("base_model: deep", "base_model: deep+lora")), work / "out")
    plain, got = read_weights(work / "plain"), read_weights(work / "out")
    changed = {name for name, t in got.items() if not torch.equal(t, plain[name])}
    assert changed == {"model.layers.0.mlp.up_proj.weight"}


def test_a_stage_that_is_not_made_reads_as_the_one_that_is(work: Path) -> None:
    """Whole and in part, by several threads, through a stage and under an adapter: the same bits as in its folder."""
    write_adapter(work / "lora", {"model.layers.0.mlp.up_proj": (24, 16)})
    text = CHAIN.replace("{model: half, layer", "{model: half+lora, layer").replace("linear", "nuslerp")
    chain = prepared(text)
    merge_stages(chain, work / "out", folder=work / "stages", keep=True)
    (unmade,) = (c for c in chain.stages[-1].opened.values() if c.name == "deep")
    written = read_weights(work / "stages" / "deep")
    assert written.keys() == unmade.tensors.keys()
    names = sorted(written) * 3
    with unmade.reader() as reader, ThreadPoolExecutor(4) as pool:
        for name, tensor in zip(names, pool.map(reader.tensor, names), strict=True):
            assert torch.equal(tensor, written[name]) and tensor.dtype is written[name].dtype
        for name, tensor in written.items():
            out = torch.empty(tensor.numel() - 3, dtype=tensor.dtype)
            reader.read_into(name, 2, out)
            assert torch.equal(out, tensor.view(-1)[2:-1])


def test_a_stage_that_is_not_made_notices_that_a_source_changed(work: Path) -> None:
    (unmade,) = (c for c in prepared(CHAIN).stages[-1].opened.values() if c.name == "deep")
    unmade.check_unchanged()
    (work / "b" / "model.safetensors").touch()
    with pytest.raises(MergeoptError, match="changed while it was in use"):
        unmade.check_unchanged()
    with unmade.reader() as reader, pytest.raises(MergeoptError, match="changed since its header was read"):
        reader.tensor("model.layers.0.mlp.up_proj.weight")


def test_a_stage_as_mergekit_makes_it_is_not_computed_otherwise(work: Path) -> None:
    chain = prepare_stages(read_stages(parse_documents(CHAIN, "r.yml"), SCHEMAS), Match(None))
    (unmade,) = (c for c in chain.stages[-1].opened.values() if c.name == "deep")
    with pytest.raises(MergeoptError, match="the stage 'deep' has not been made"):
        unmade.reader()
