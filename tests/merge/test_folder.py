"""What a merge leaves behind: the same bytes every time, everything named, or nothing at all."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import mergeopt.merge.stream as stream_module
from mergeopt.checkpoint.staging import Staging
from mergeopt.errors import InputError, MergeoptError
from mergeopt.merge.finite import is_finite
from mergeopt.merge.folder import merge_to_folder
from mergeopt.methods import METHODS, SCHEMAS
from mergeopt.methods.draws import Draws
from mergeopt.recipe.document import read_document
from mergeopt.recipe.read import read_recipe
from tests.conftest import llama_weights, read_weights, write_model
from tests.merge.conftest import merged, prepared

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
DARE = """
merge_method: dare_ties
base_model: base
seed: 4
models:
  - {model: a, parameters: {weight: [0.2, 0.8], density: 0.6}}
  - {model: b, parameters: {weight: 0.5, density: [{filter: mlp, value: 0.3}]}}
"""
TIES = DARE.replace("dare_ties", "ties")
DELLA = DARE.replace("dare_ties", "della")
BREADCRUMBS = DARE.replace("dare_ties", "breadcrumbs_ties")
SLERP = "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: [0.2, 0.8]}\n"
TSV = "merge_method: tsv\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.7, plain: 0.2}\n"
UP = "model.layers.1.mlp.up_proj.weight"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_a_merged_folder_holds_everything(models: Path):
    result = merged(LINEAR, models / "out")
    assert {p.name for p in (models / "out").iterdir()} == {
        "config.json", "model.safetensors", "recipe.yaml", "mergekit_config.yml", "recipe.lock.json"}  # fmt: skip
    a, b = read_weights(models / "a"), read_weights(models / "b")
    assert result.keys() == a.keys() and all(torch.allclose(result[n], (a[n] + b[n]) / 2) for n in a)
    assert read_recipe(read_document(models / "out/recipe.yaml"), SCHEMAS).recipe == prepared(LINEAR).recipe
    lock = json.loads((models / "out/recipe.lock.json").read_text())
    assert lock["outputs"].keys() == a.keys()
    assert {m: list(files) for m, files in lock["inputs"].items()} == {
        "a": ["model.safetensors"], "b": ["model.safetensors"]}  # fmt: skip


@pytest.mark.parametrize("text", [LINEAR, DARE, TIES, DELLA, BREADCRUMBS, SLERP])
def test_the_same_bytes_twice_and_with_any_number_of_threads(models: Path, text: str):
    torch.set_num_threads(2)
    try:
        for name in ("one", "two"):
            merge_to_folder(prepared(text), models / name)
        torch.set_num_threads(1)
        merge_to_folder(prepared(text), models / "three")
    finally:
        torch.set_num_threads(1)
    assert contents(models / "one") == contents(models / "two") == contents(models / "three")


def test_a_method_that_mergekit_lacks(models: Path):
    merge_to_folder(prepared(TSV), models / "out")
    assert json.loads((models / "out" / "recipe.lock.json").read_text())["portability"] == "mergeopt only"
    assert not (models / "out" / "mergekit_config.yml").exists() and (models / "out" / "recipe.yaml").exists()


@pytest.mark.parametrize("method", [LINEAR, DARE, TIES, DELLA, BREADCRUMBS, SLERP, TSV])
def test_a_streamed_tensor_is_what_the_method_gives_in_memory(models: Path, method: str):
    result = merged(method, models / "out")
    of = prepared(method)
    weights = {str(ref): read_weights(c.folder) for ref, c in of.checkpoints.items()}
    for job in of.plan.jobs:
        sources = [weights[str(item.model)][item.tensor] for item in job.inputs]
        base = None if job.base is None else weights[str(job.base.model)][job.base.tensor]
        expected = METHODS[of.plan.method](sources, base, draws=Draws(of.plan.seed, job.tensor), **job.coefficients)
        assert torch.equal(result[job.tensor], expected), job.tensor


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "breadcrumbs", "slerp"])
def test_tensors_of_several_chunks(models: Path, method: str):
    big = torch.randn(1030, 1100, generator=torch.Generator().manual_seed(0))
    base = {"model.embed_tokens.weight": big}
    write_model(models / "x", base, num_hidden_layers=0)
    write_model(models / "y", {n: t + 0.1 * torch.randn_like(t) for n, t in base.items()}, num_hidden_layers=0)
    text = f"merge_method: {method}\nbase_model: x\nmodels: [{{model: y}}]\n"
    text += "parameters: {weight: 1, density: 0.3, t: 0.3}\n"
    result = merged(text, models / "out")
    y = read_weights(models / "y")["model.embed_tokens.weight"]
    values = {"t": 0.3} if method == "slerp" else {"weight": [1.0], "density": [0.3]}
    expected = METHODS[method]([y], big, draws=Draws(0, "model.embed_tokens.weight"), **values)
    assert torch.equal(result["model.embed_tokens.weight"], expected)
    if method in ("ties", "breadcrumbs"):
        assert int((expected != big).sum()) == int(0.3 * big.numel())


def test_shards_in_and_out(models: Path):
    write_model(models / "sharded", read_weights(models / "b"), shards=3)
    expected = merged(LINEAR, models / "one")
    text = LINEAR.replace("model: b", "model: sharded")
    result = merged(text, models / "many", max_shard_bytes=6000)
    assert len(list((models / "many").glob("*.safetensors"))) > 3
    assert all(torch.equal(result[name], tensor) for name, tensor in expected.items())
    lock = json.loads((models / "many/recipe.lock.json").read_text())
    assert len(lock["inputs"]["sharded"]) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_one_rounding_at_the_end(models: Path, dtype: torch.dtype):
    for name in "ab":
        write_model(models / f"{name}-low", {n: t.to(dtype) for n, t in read_weights(models / name).items()})
    text = LINEAR.replace("{model: a}, {model: b}", "{model: a-low}, {model: b-low}")
    result = merged(text, models / "out")
    a, b = (read_weights(models / f"{name}-low")[UP].double() for name in "ab")
    assert torch.equal(result[UP], ((a + b) / 2).to(dtype))
    assert json.loads((models / "out/config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_dtypes_may_be_mixed_and_asked_for(models: Path):
    write_model(models / "half", {n: t.half() for n, t in read_weights(models / "b").items()})
    text = LINEAR.replace("model: b", "model: half")
    assert merged(text, models / "out")[UP].dtype == torch.float32
    asked = merged(text + "dtype: float64\nout_dtype: bfloat16\n", models / "asked")
    assert {t.dtype for t in asked.values()} == {torch.bfloat16}


def test_float64_output_is_computed_in_float64(models: Path):
    result = merged(LINEAR + "dtype: float64\n", models / "out")[UP]
    a, b = (read_weights(models / name)[UP].double() for name in "ab")
    assert torch.equal(result, a * 0.5 + b * 0.5)


def test_integers_are_copied_or_refused(models: Path):
    for name in "ab":
        steps = {"model.steps": torch.tensor([7, 2**40 + 1]), "model.flag": torch.tensor([True, False])}
        write_model(models / f"{name}i", {**llama_weights(), **steps})
    text = LINEAR.replace("model: a", "model: ai").replace("model: b", "model: bi")
    result = merged(text + "dtype: bfloat16\n", models / "out")
    assert result["model.steps"].tolist() == [7, 2**40 + 1] and result["model.flag"].tolist() == [True, False]
    write_model(models / "ci", {**llama_weights(), **steps, "model.steps": torch.tensor([7, 8])})
    with pytest.raises(InputError, match=r"'model.steps' holds int64 and differs between 'ai' and 'ci'"):
        merged(text.replace("model: bi", "model: ci"), models / "refused")
    assert not (models / "refused").exists()


def test_an_empty_tensor_is_written(models: Path):
    for name in "xy":
        write_model(models / name, {**llama_weights(), "model.nothing.weight": torch.empty(0, 4)})
    text = LINEAR.replace("model: a", "model: x").replace("model: b", "model: y")
    assert merged(text, models / "out")["model.nothing.weight"].shape == (0, 4)


def test_slices_change_the_config(models: Path):
    text = """
    merge_method: passthrough
    slices:
      - sources: [{model: a, layer_range: [0, 2]}]
      - sources: [{model: b, layer_range: [0, 2], parameters: {scale: [{filter: down_proj, value: 0}, {value: 1}]}}]
      - sources: [{model: a, layer_range: [1, 2]}]
    """
    result = merged(text, models / "out")
    assert json.loads((models / "out/config.json").read_text())["num_hidden_layers"] == 5
    a, b = read_weights(models / "a"), read_weights(models / "b")
    assert torch.equal(result["model.layers.4.mlp.up_proj.weight"], a[UP])
    assert torch.equal(result["model.layers.3.mlp.up_proj.weight"], b[UP])
    assert not result["model.layers.3.mlp.down_proj.weight"].any()
    assert torch.equal(result["model.embed_tokens.weight"], a["model.embed_tokens.weight"])


def test_side_files_are_the_donors(models: Path):
    (models / "a" / "generation_config.json").write_text('{"temperature":   0.5}')
    (models / "b" / "tokenizer_config.json").write_text("{}")
    merged(LINEAR, models / "out")
    assert (models / "out/generation_config.json").read_text() == '{"temperature":   0.5}'
    assert not (models / "out/tokenizer_config.json").exists()


def test_a_base_that_joins_the_models_is_named(models: Path):
    text = "merge_method: karcher\nmodels: [{model: a}, {model: b}]\n"
    assert prepared(text).notices == ()
    said = "base_model 'base' is merged like the models listed: karcher has no base"
    assert prepared(text + "base_model: base\n").notices == (said,)
    assert prepared(text + "base_model: a\n").notices == ()


def test_notices_name_what_has_no_effect(models: Path):
    text = """
    merge_method: passthrough
    parameters: {scale: [{filter: lyers, value: 2}, {value: 1}]}
    slices: [{sources: [{model: a, layer_range: [0, 1]}]}]
    """
    assert prepared(text).notices == (
        "'scale' of the top-level parameters: filter 'lyers' matches no tensor; `mergeopt explain` lists them",
        "left out of 'a': 'model.layers.1.input_layernorm.weight' and 8 more (in no slice)",
    )


class _Stop(BaseException):
    """What a user's Ctrl-C is to a merge."""


def _interrupted(bytes_written: int) -> None:
    raise _Stop


def test_an_interrupted_merge_leaves_nothing(models: Path):
    with pytest.raises(_Stop):
        merge_to_folder(prepared(LINEAR), models / "out", progress=_interrupted)
    assert not (models / "out").exists()
    (models / "mine").mkdir()
    (models / "mine" / "note.txt").write_text("keep")
    with pytest.raises(_Stop):
        merge_to_folder(prepared(LINEAR), models / "mine", progress=_interrupted)
    assert [p.name for p in (models / "mine").iterdir()] == ["note.txt"]


def test_a_full_disk_leaves_nothing_and_says_what_was_needed(models: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("mergeopt.checkpoint.staging.os.pwrite", full)
    with pytest.raises(MergeoptError, match=r"No space left on device while writing; the model needs \d+ kB"):
        merge_to_folder(prepared(LINEAR), models / "out")
    assert not (models / "out").exists()


def test_a_fault_in_one_thread_stops_the_others(models: Path, monkeypatch: pytest.MonkeyPatch):
    original = stream_module.compute
    seen: list[str] = []

    def failing(job, *rest):
        seen.append(job.tensor)
        if job.tensor == "lm_head.weight":
            raise MergeoptError("broken")
        return original(job, *rest)

    monkeypatch.setattr(stream_module, "compute", failing)
    torch.set_num_threads(2)
    try:
        with pytest.raises(MergeoptError, match="broken"):
            merge_to_folder(prepared(LINEAR), models / "out")
    finally:
        torch.set_num_threads(1)
    assert not (models / "out").exists() and len(seen) < len(llama_weights())


def test_a_source_that_changes_meanwhile_is_noticed(models: Path):
    of = prepared(LINEAR)
    write_model(models / "other", llama_weights(3))
    (models / "other/model.safetensors").replace(models / "b/model.safetensors")
    with pytest.raises(MergeoptError, match=r"b/model.safetensors: changed since its header was read"):
        merge_to_folder(of, models / "out")
    assert not (models / "out").exists()


@pytest.mark.parametrize("change", ["touched", "rewritten in place", "replaced", "gone"])
def test_a_source_that_changes_after_it_was_read_is_noticed(models: Path, change: str):
    file = models / "b/model.safetensors"

    def progress(_: int) -> None:
        if change == "touched":
            os.utime(file, ns=(1, 1))
        elif change == "rewritten in place":
            file.write_bytes(file.read_bytes())
        elif change == "replaced":
            copy = models / "copy"
            copy.write_bytes((models / "a/model.safetensors").read_bytes())
            copy.replace(file)
        else:
            file.unlink(missing_ok=True)

    with pytest.raises(MergeoptError, match=r"b/model.safetensors: (changed while it was in use|No such file)"):
        merge_to_folder(prepared(LINEAR), models / "out", progress=progress)
    assert not (models / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(models: Path, value: float):
    weights = read_weights(models / "b")
    weights[UP][3, 4] = value
    write_model(models / "bad", weights)
    text = LINEAR.replace("model: b", "model: bad")
    notices = merge_to_folder(prepared(text), models / "out").notices
    assert notices == (f"NaN or infinity in tensor {UP!r}, as it is in 'bad'",)
    with pytest.raises(InputError, match=rf"{UP}', as it is in 'bad'; mend or replace"):
        merge_to_folder(prepared(text), models / "strict", strict=True)
    assert not (models / "strict").exists()
    assert merge_to_folder(prepared(LINEAR), models / "fine", strict=True).notices == ()


def test_a_number_too_large_for_the_output_is_named(models: Path):
    write_model(models / "large", {n: t * 1e6 for n, t in read_weights(models / "b").items()})
    text = LINEAR.replace("model: b", "model: large") + "dtype: float16\n"
    (notice,) = merge_to_folder(prepared(text), models / "out").notices
    assert "from finite sources and in" in notice


def test_a_large_sum_of_finite_numbers_is_finite():
    assert is_finite(torch.full((1 << 12,), 60000.0, dtype=torch.float16))
    assert is_finite(torch.full((4,), 3e38)) and not is_finite(torch.tensor([1.0, float("-inf"), float("inf")]))
    assert is_finite(torch.tensor([7])) and is_finite(torch.zeros(2, dtype=torch.float8_e4m3fn))


def test_torch_threads_are_given_back(models: Path):
    torch.set_num_threads(2)
    try:
        merged(LINEAR, models / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_staging_is_hidden_while_it_grows(models: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[str]] = []
    original = Staging.publish

    def publish(self: Staging, *args: object, **options: object) -> None:
        seen.append([p.name for p in (models / "out").iterdir() if not p.name.startswith(".")])
        original(self, *args, **options)

    monkeypatch.setattr(Staging, "publish", publish)
    merged(LINEAR, models / "out")
    assert seen == [[]]


def test_new_weights_never_stand_beside_an_earlier_config(models: Path, monkeypatch: pytest.MonkeyPatch):
    merge_to_folder(prepared(LINEAR), models / "out")

    def full(*_: Any) -> None:
        raise MergeoptError("disk full")

    monkeypatch.setattr("mergeopt.merge.folder.write_side_files", full)
    with pytest.raises(MergeoptError, match="disk full"):
        merge_to_folder(prepared(LINEAR), models / "out")
    assert not (models / "out" / "config.json").exists()


def test_a_source_is_not_written_over(models: Path):
    before = contents(models / "b")
    with pytest.raises(InputError, match=r"is the folder of 'b'; give another OUT"):
        merge_to_folder(prepared(LINEAR), models / "b")
    assert contents(models / "b") == before


def test_with_no_model_beside_it_the_base_is_the_output(models: Path) -> None:
    text = """\
    merge_method: ties
    base_model: a
    dtype: bfloat16
    slices: [{sources: [{model: a, layer_range: [0, 2]}]}]
    """
    base = read_weights(models / "a")
    got = merged(text, models / "out")
    assert all(torch.equal(got[name], t.bfloat16()) for name, t in base.items())
