"""The candidate in memory and the model on disk are the same numbers, whatever transformers makes of the names."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mergeopt.errors import InputError
from mergeopt.merge import live
from mergeopt.merge.folder import Prepared, merge_to_folder
from mergeopt.merge.live import LiveModel, NotFiniteError, bind, skeleton
from mergeopt.merge.plan import Plan
from mergeopt.merge.sources import FileSource, ResidentSource, opened_readers
from tests.conftest import llama_weights, read_weights, write_model
from tests.merge.conftest import prepared
from tests.merge.families import DECODERS, FAMILIES, save

HARD = ["llama-tied", "gpt2", "mixtral", "qwen3-moe", "deepseek-v3", "jamba"]  # tied, transposed, fused
CASES = [(family.name, "task_arithmetic") for family in DECODERS] + [(name, "dare_ties") for name in HARD]
RECIPE = """
merge_method: {method}
base_model: base
models:
  - {{model: a, parameters: {{weight: [{{filter: w1, value: 0.9}}, {{value: [0.2, 0.8]}}], density: 0.7}}}}
  - {{model: b, parameters: {{weight: 0.3}}}}
"""


def family(folder: Path, architecture: str, dtype: torch.dtype) -> None:
    """`base`, `a` and `b` in `folder`, saved by transformers; every number is random."""
    save(FAMILIES[architecture], folder, ("base", "a", "b"), dtype)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def living(of: Prepared, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LiveModel:
    donor, place = of.checkpoints[of.recipe.donor], torch.device(device)
    model = skeleton(donor.folder, of.config, place, dtype)
    source = ResidentSource.load((i for j in of.plan.jobs for i in j.reads), of.checkpoints, place)
    return LiveModel(model, bind(model, [job.tensor for job in of.plan.jobs]), source)


@pytest.mark.parametrize(("architecture", "method"), CASES)
def test_candidate_is_the_written_model(inside: Path, architecture: str, method: str):
    dtype = torch.bfloat16 if method == "dare_ties" else torch.float32
    family(inside, architecture, dtype)
    of = prepared(RECIPE.format(method=method))
    candidate = living(of, dtype)
    candidate.write(of.plan)
    merge_to_folder(of, inside / "out")
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(inside / "out", output_loading_info=True)
    assert not any(info.values())
    mine, theirs = candidate.model.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype and torch.equal(mine[name], tensor), name
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        # not bit for bit: some kernels (convolutions of state-space models) round by where their weights lie in memory
        torch.testing.assert_close(candidate.model(tokens).logits, loaded(tokens).logits)
    base = transformers.AutoModelForCausalLM.from_pretrained(inside / "base").state_dict()
    changed = [name for name in base if not torch.equal(base[name], mine[name])]
    assert len(changed) == len(base)  # every tensor was merged, none merely copied


@pytest.fixture
def llamas(inside: Path) -> Prepared:
    base = llama_weights()
    for seed, who in enumerate(("base", "a", "b")):
        write_model(inside / who, {n: t + seed * 0.1 * torch.randn_like(t) for n, t in base.items()})
    return prepared(RECIPE.format(method="ties"))


def changed(plan: Plan, tensor: str, **coefficients: Any) -> Plan:
    jobs = [replace(j, coefficients={**j.coefficients, **coefficients}) if j.tensor == tensor else j for j in plan.jobs]
    return replace(plan, jobs=tuple(jobs))


def weights(candidate: LiveModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in candidate.model.state_dict().items()}


UP = "model.layers.1.mlp.up_proj.weight"


def test_a_changed_coefficient_rewrites_its_tensor_alone(llamas: Prepared, monkeypatch: pytest.MonkeyPatch):
    computed: list[str] = []
    original = live.compute
    monkeypatch.setattr(live, "compute", lambda job, *rest: computed.append(job.tensor) or original(job, *rest))
    candidate = living(llamas)
    candidate.write(llamas.plan)
    assert len(computed) == len(llamas.plan.jobs)
    first = weights(candidate)
    computed.clear()
    candidate.write(changed(llamas.plan, UP, weight=(0.1, 0.9)))
    assert computed == [UP]
    second = weights(candidate)
    assert [name for name in first if not torch.equal(first[name], second[name])] == [UP]
    candidate.write(llamas.plan)
    assert all(torch.equal(first[name], tensor) for name, tensor in weights(candidate).items())


@pytest.mark.parametrize("change", [{"weight": (0.1, 0.9)}, {"density": (0.3, 0.9)}, {"rescale": True}])
def test_what_is_remembered_gives_the_same_as_from_scratch(llamas: Prepared, change: dict[str, Any]):
    plan = changed(llamas.plan, UP, **change)
    warm, cold = living(llamas), living(llamas)
    warm.write(llamas.plan)
    warm.write(plan)
    cold.write(plan)
    for name, tensor in weights(cold).items():
        assert torch.equal(tensor, weights(warm)[name]), name


def test_thresholds_are_found_again_only_where_a_density_changed(llamas: Prepared, monkeypatch: pytest.MonkeyPatch):
    measured: list[str] = []
    original = live.whole
    monkeypatch.setattr(live, "whole", lambda job, *rest: measured.append(job.tensor) or original(job, *rest))
    candidate = living(llamas)
    candidate.write(llamas.plan)
    measured.clear()
    candidate.write(changed(llamas.plan, UP, weight=(0.1, 0.9)))
    assert measured == []
    candidate.write(changed(llamas.plan, UP, density=(0.1, 0.9)))
    assert measured == [UP]


def test_another_seed_redraws_only_random_methods(llamas: Prepared):
    candidate = living(llamas)
    candidate.write(llamas.plan)
    before = weights(candidate)
    candidate.write(replace(llamas.plan, seed=1))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(candidate).items())
    dare = prepared(RECIPE.format(method="dare_ties")).plan
    candidate.write(dare)
    before = weights(candidate)
    candidate.write(replace(dare, seed=1))
    assert not torch.equal(before[UP], weights(candidate)[UP])


def test_weights_that_are_not_finite_fail_and_are_written_again(llamas: Prepared):
    candidate = living(llamas)
    candidate.write(llamas.plan)
    before = weights(candidate)
    with pytest.raises(NotFiniteError, match=UP):
        candidate.write(changed(llamas.plan, UP, **{"lambda": 1e39}))
    candidate.write(llamas.plan)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(candidate).items())


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
@pytest.mark.parametrize("broken", ["a", "base"])
def test_a_source_that_holds_nan_fails(inside: Path, llamas: Prepared, method: str, broken: str):
    weights = read_weights(inside / broken)
    weights[UP].view(-1)[weights[UP].numel() // 2] = float("nan")
    shutil.rmtree(inside / broken)
    write_model(inside / broken, weights)
    of = prepared(RECIPE.format(method=method))
    with pytest.raises(NotFiniteError, match=UP):
        living(of).write(of.plan)


def test_a_candidate_read_from_files_is_the_same(inside: Path, llamas: Prepared, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FileSource, "block", 8)  # several chunks per tensor, all through one buffer
    of = prepared("{merge_method: passthrough, dtype: float32, models: [{model: a}]}")
    resident = living(of)
    resident.write(of.plan)
    with opened_readers(of.checkpoints) as readers:
        live.LiveModel(resident.model, resident._views, FileSource(readers, of.checkpoints)).write(of.plan)
    stored = read_weights(inside / "a")
    for name, tensor in weights(resident).items():
        assert torch.equal(tensor, stored[name]), name


def test_names_and_model_must_belong_together(llamas: Prepared):
    model = living(llamas).model
    names = [job.tensor for job in llamas.plan.jobs]
    with pytest.raises(InputError, match=r"no place for tensor 'model.norm.bias'"):
        bind(model, [*names, "model.norm.bias"])
    with pytest.raises(InputError, match=r"no source has the model's tensor 'model.norm.weight'"):
        bind(model, [name for name in names if name != "model.norm.weight"])


def test_a_head_lent_by_the_embeddings_is_untied_in_memory_and_on_disk(inside: Path):
    base = llama_weights(head=False)
    write_model(inside / "base", base, tie_word_embeddings=True)
    head = {"lm_head.weight": base["model.embed_tokens.weight"] + 1}
    write_model(inside / "a", {**base, **head})
    text = "merge_method: linear\nbase_model: base\nmodels: [{model: base}, {model: a}]\nparameters: {weight: 1}\n"
    of = prepared(text)
    candidate = living(of)
    candidate.write(of.plan)
    merge_to_folder(of, inside / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(inside / "out")
    for model in (loaded, candidate.model):
        assert torch.allclose(model.lm_head.weight, base["model.embed_tokens.weight"] + 0.5)
        assert torch.allclose(model.model.embed_tokens.weight, base["model.embed_tokens.weight"])
    assert "lm_head.weight" in read_weights(inside / "out")
    assert any("unties it" in notice for notice in of.notices)


def test_an_unknown_architecture_is_refused(llamas: Prepared):
    config = llamas.config | {"model_type": "nonesuch"}
    with pytest.raises(InputError, match=r"config\.json: transformers cannot build this model"):
        skeleton(Path("base"), config, torch.device("cpu"), torch.float32)
