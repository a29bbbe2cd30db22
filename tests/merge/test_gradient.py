"""The engine's coefficient gradients are those of autograd through the whole merge, for every method and layout."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mergeopt.merge.folder import Prepared
from mergeopt.merge.gradient import CoefficientGradient, contracting
from mergeopt.merge.live import LiveModel
from mergeopt.merge.plan import Input, Job, Plan
from mergeopt.merge.sources import FileSource, ResidentSource, opened_readers
from mergeopt.methods import METHODS
from mergeopt.methods.draws import Draws
from tests.merge.conftest import prepared
from tests.merge.test_live import family, living

UP = "model.layers.1.mlp.up_proj.weight"
TOKENS = torch.randint(0, 64, (3, 12), generator=torch.Generator().manual_seed(3))
Key = tuple[str, str]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


NEAR = {"nearswap": {"t": 0.01}, "ramplus_tl": {"epsilon": 0.02}}  # what is not all or nothing for deltas of ±0.02


def recipe(method: str) -> str:
    """A value other than the default for every coefficient, as far as the method takes sources."""
    schema = METHODS[method].schema
    own = {p.name: (0.3, 0.6) for p in schema.parameters.values() if p.smooth and p.per_source}
    own |= {"epsilon": (0.1, 0.2)} if "epsilon" in own else {}  # within the densities
    shared = {p.name: 0.4 for p in schema.parameters.values() if p.smooth and not p.per_source} | NEAR.get(method, {})
    models = ["a", "b"][: schema.max_sources]
    lines = [
        f"merge_method: {method}",
        "dtype: float32",
        *(["base_model: base"] if schema.takes_base else []),
        "models:",
    ]
    for i, model in enumerate(models):
        lines.append(f"  - {{model: {model}, parameters: {{{', '.join(f'{k}: {v[i]}' for k, v in own.items())}}}}}")
    if schema.takes_base and schema.max_sources == 1:
        lines.append("  - {model: base}")
    return "\n".join([*lines, f"parameters: {{{', '.join(f'{k}: {v}' for k, v in shared.items())}}}"]) + "\n"


def everything(plan: Plan) -> dict[str, frozenset[str]]:
    return {job.tensor: frozenset(METHODS[plan.method].schema.parameters) for job in plan.jobs}


def loss(model: Any, tokens: Tensor = TOKENS) -> Tensor:
    return model(tokens, labels=tokens, use_cache=False).loss


def engine(live: LiveModel, plan: Plan, batches: int = 1) -> dict[Key, Tensor]:
    live.write(plan)
    gradient = CoefficientGradient(live, plan, everything(plan))
    with contracting(live, plan.jobs, gradient):
        for tokens in TOKENS.to(live.model.device).chunk(batches):
            (loss(live.model, tokens) / batches).backward()
    return gradient.values()


def differentiable(live: LiveModel, job: Job, plan: Plan, arguments: Mapping[str, Any]) -> Tensor:
    """The merged tensor at once, flat, by the method's plain form."""

    def whole(item: Input) -> Tensor:
        return live.source.chunk(item, 0, live.view(job.tensor).numel()).view(job.shape)

    inputs, base = [whole(item) for item in job.inputs], None if job.base is None else whole(job.base)
    return METHODS[plan.method](inputs, base, draws=Draws(plan.seed, job.tensor), **arguments).view(-1)


def oracle(live: LiveModel, plan: Plan) -> dict[Key, Tensor]:
    """Autograd through `functional_call` on a state dict whose every element is a function of the coefficients."""
    live.write(plan)
    method, leaves = METHODS[plan.method], {}
    state = {name: p.detach().clone() for name, p in live.model.named_parameters()}
    by_storage = {p.untyped_storage().data_ptr(): name for name, p in live.model.named_parameters()}
    for job in plan.jobs:
        values = method.arguments(job.coefficients).values()
        arguments = dict(zip(method.schema.parameters, values, strict=True))
        for name, value in arguments.items():
            if isinstance(value, Tensor) and name not in method.measured_by:
                leaves[job.tensor, name] = arguments[name] = value.requires_grad_()
        view = live.view(job.tensor)
        name = by_storage[view.untyped_storage().data_ptr()]
        home = state[name]
        place = torch.arange(home.numel()).as_strided(view.shape, view.stride(), view.storage_offset()).reshape(-1)
        merged = differentiable(live, job, plan, arguments).to(home.dtype)
        state[name] = home.view(-1).scatter(0, place, merged).view(home.shape)
    out = torch.func.functional_call(live.model, state, (TOKENS,), {"labels": TOKENS, "use_cache": False})
    found = torch.autograd.grad(out.loss.float(), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def close(mine: Mapping[Key, Tensor], theirs: Mapping[Key, Tensor], rtol: float) -> None:
    """Equal within rounding: relative to the largest gradient of the same parameter kind."""
    assert mine.keys() >= theirs.keys() and theirs
    for name in {name for _, name in theirs}:
        largest = max(float(g.abs().max()) for (_, n), g in theirs.items() if n == name)
        assert largest > 0
        for key in (key for key in theirs if key[1] == name):
            assert mine[key].dtype == torch.float64
            assert float((mine[key] - theirs[key]).abs().max()) <= rtol * largest, key


def has(method: str, measured: bool) -> bool:
    """Does the method have coefficients that its function (or its `measure`) reads?"""
    of = METHODS[method]
    return any(p.smooth and (p.name in of.measured_by) == measured for p in of.schema.parameters.values())


@pytest.mark.parametrize("method", [name for name in sorted(METHODS) if has(name, measured=False)])
def test_every_method_agrees_with_autograd_through_the_merge(inside: Path, method: str):
    family(inside, "llama", torch.float32)
    of = prepared(recipe(method))
    live = living(of)
    close(engine(live, of.plan), oracle(live, of.plan), 1e-5)


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gpt-neox", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layout_of_live_memory(inside: Path, architecture: str, dtype: torch.dtype):
    family(inside, architecture, dtype)
    of = prepared(recipe("task_arithmetic"))
    live = living(of, dtype)
    mine, theirs = engine(live, of.plan), oracle(live, of.plan)
    assert mine.keys() == theirs.keys()
    close(mine, theirs, 1e-5 if dtype == torch.float32 else 1e-2)  # the oracle rounds its products to bfloat16


@pytest.fixture
def llamas(inside: Path) -> Prepared:
    family(inside, "llama", torch.float32)
    return prepared(recipe("ties"))


def test_micro_batches_add(llamas: Prepared):
    live = living(llamas)
    close(engine(live, llamas.plan, batches=3), engine(live, llamas.plan), 1e-5)


def test_checkpointing_activations_changes_nothing(llamas: Prepared):
    live = living(llamas)
    plain = engine(live, llamas.plan)
    live.model.activation_checkpointing_enable()
    live.model.train()
    calls: list[None] = []
    live.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(None))
    close(engine(live, llamas.plan), plain, 1e-5)
    assert len(calls) == 2  # once more in the backward


def test_sources_read_from_files_give_the_same(llamas: Prepared, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FileSource, "block", 100)  # several chunks per tensor, all through one buffer
    resident = living(llamas)
    with opened_readers(llamas.checkpoints) as readers:
        streamed = LiveModel(resident.model, resident._views, FileSource(readers, llamas.checkpoints))
        close(engine(streamed, llamas.plan), engine(resident, llamas.plan), 1e-5)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_narrow_sources_as_a_gpu_subtracts_them(inside: Path, method: str, monkeypatch: pytest.MonkeyPatch):
    """There only the base is widened: the same candidates, and the same gradients."""
    family(inside, "llama", torch.bfloat16)
    of = prepared(recipe(method).replace("float32", "bfloat16"))
    live = living(of)
    expected, weights = engine(live, of.plan), {j.tensor: live.view(j.tensor).clone() for j in of.plan.jobs}
    monkeypatch.setattr(ResidentSource, "device", torch.device("cuda"))
    again = living(of)
    close(engine(again, of.plan), expected, 1e-6)
    assert all(again.view(tensor).equal(weight) for tensor, weight in weights.items())


def test_nothing_is_left_behind_even_by_a_failure(llamas: Prepared):
    live = living(llamas)
    live.write(llamas.plan)
    some = next(iter(live.model.parameters())).requires_grad_(True)
    seen: list[str] = []

    def failing(job: Job, gradient: Tensor) -> None:
        seen.append(job.tensor)
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), contracting(live, llamas.plan.jobs, failing):
        assert all(p.requires_grad for p in live.model.parameters())
        loss(live.model).backward()
    assert len(seen) == 1
    assert [p for p in live.model.parameters() if p.requires_grad] == [some]
    assert all(p.grad is None for p in live.model.parameters())
    loss(live.model).backward()
    assert some.grad is not None and len(seen) == 1


def test_only_what_is_wanted_is_followed(llamas: Prepared):
    live = living(llamas)
    live.write(llamas.plan)
    gradient = CoefficientGradient(live, llamas.plan, {UP: frozenset({"weight", "normalize"})})
    jobs = [job for job in llamas.plan.jobs if job.tensor == UP]
    held: list[int] = []

    def contract(job: Job, found: Tensor) -> None:
        held.append(sum(p.grad is not None for p in live.model.parameters()))
        gradient(job, found)

    with contracting(live, jobs, contract):
        assert [n for n, p in live.model.named_parameters() if p.requires_grad] == [UP]
        loss(live.model).backward()
    assert held == [0]
    assert gradient.values().keys() == {(UP, "weight")}


def moved(plan: Plan, tensor: str, name: str, index: int, by: float) -> Plan:
    def shifted(job: Job) -> Job:
        given = job.coefficients[name]
        value = given + by if isinstance(given, float) else (*given[:index], given[index] + by, *given[index + 1 :])
        return replace(job, coefficients={**job.coefficients, name: value})

    return replace(plan, jobs=tuple(shifted(job) if job.tensor == tensor else job for job in plan.jobs))


@pytest.mark.parametrize("method", [name for name in sorted(METHODS) if has(name, measured=True)])
def test_a_secant_is_the_difference_of_the_loss(inside: Path, method: str):
    """For a small enough difference of the weights; the sources are near the base."""
    family(inside, "llama", torch.float32)
    of = prepared(recipe(method))
    live = living(of)
    found = engine(live, of.plan)
    for name in METHODS[method].measured_by:
        slopes = found[UP, name].view(-1) if (UP, name) in found else []
        for index, slope in enumerate(slopes):
            losses = []
            for by in (-0.03, 0.03):
                live.write(moved(of.plan, UP, name, index, by))
                with torch.no_grad():
                    losses.append(float(loss(deepcopy(live.model).double())))
            assert float(slope) == pytest.approx((losses[1] - losses[0]) / 0.06, rel=0.1)


@pytest.mark.parametrize(("share", "width"), [(1.0, 0.03), (0.02, 0.05)])
def test_secants_stay_inside_the_shares_there_are(llamas: Prepared, share: float, width: float):
    live = living(llamas)
    plan = moved(llamas.plan, UP, "density", 0, share - 0.3)
    live.write(plan)
    gradient = CoefficientGradient(live, plan, {UP: frozenset({"density"})})
    job = next(job for job in plan.jobs if job.tensor == UP)
    gradient(job, torch.ones(job.shape))
    assert gradient._secants[UP][0].width == pytest.approx(width, abs=2 / live.view(UP).numel())
    assert bool(torch.isfinite(gradient.values()[UP, "density"]).all())
