"""A refined candidate is the written model, both are the formula, and the gradients are autograd's."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from mergeopt.cli.main import app
from mergeopt.errors import InputError
from mergeopt.merge import live as living_module
from mergeopt.merge.compute import compute
from mergeopt.merge.folder import Prepared, merge_to_folder
from mergeopt.merge.gradient import contracting
from mergeopt.merge.layout import Input
from mergeopt.merge.live import LiveModel
from mergeopt.merge.plan import Job, Plan
from mergeopt.merge.refinement import KINDS, SIDECAR, Key, Refinement, empty
from mergeopt.merge.refinement_gradient import RefinementGradient
from mergeopt.merge.sources import FileSource, ResidentSource
from mergeopt.methods import METHODS
from mergeopt.recipe.recipe import ModelRef
from tests.conftest import llama_weights, read_weights, write_model
from tests.merge.conftest import prepared
from tests.merge.test_live import family, living

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"
TOKENS = torch.randint(0, 32, (3, 12), generator=torch.Generator().manual_seed(3))
RECIPE = """
merge_method: {method}
dtype: {dtype}
base_model: base
models:
  - {{model: a, parameters: {{weight: 0.4}}}}
  - {{model: b, parameters: {{weight: 0.3}}}}
"""
SHAPES = [(5,), (6, 5), (4, 7), (3, 2, 4), (1, 9), (9, 1)]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture
def llamas(models: Path) -> Prepared:
    return prepared(recipe("task_arithmetic"))


def recipe(method: str, dtype: str = "float32") -> str:
    text = RECIPE.format(method=method, dtype=dtype)
    return text if METHODS[method].schema.takes_base else text.replace("base_model: base\n", "")


def drawn(plan: Plan, kind: str, seed: int = 0) -> Refinement:
    random = torch.Generator().manual_seed(seed)
    zeros = empty(plan, kind)
    return Refinement({key: 0.3 * torch.randn(zero.shape, generator=random) for key, zero in zeros.items()})


def formula(merged: Tensor, deltas: Mapping[str, Tensor], tensor: str, values: Mapping[Key, Tensor]) -> Tensor:
    """The definition, on whole tensors; differentiable in `values`."""
    total, ends = merged, (merged.shape[0], *[1] * (merged.dim() - 1))
    for model, delta in deltas.items():
        rows, columns, shares = (values.get(Key(model, tensor, axis)) for axis in ("rows", "columns", "singular"))
        if rows is not None:
            total = total + rows.view(ends) * delta
        if columns is not None:
            total = total + columns * delta
        if shares is not None:
            left, sigma, right = torch.linalg.svd(delta.reshape(delta.shape[0], -1), full_matrices=False)
            total = total + (left @ torch.diag(shares * sigma) @ right).view(delta.shape)
    return total


# one tensor ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks(ResidentSource):
    """Tensors in memory, handed out in blocks of a given size."""

    size: int = 1 << 16

    @property
    def block(self) -> int:
        return self.size


BASE, ONE, TWO = (Input(ModelRef(name), "w") for name in ("base", "one", "two"))


def job_of(shape: tuple[int, ...], dtype: str = "float32") -> tuple[Job, dict[Input, Tensor]]:
    random = torch.Generator().manual_seed(len(shape))
    tensors = {item: torch.randn(shape, generator=random).to(getattr(torch, dtype)) for item in (BASE, ONE, TWO)}
    return Job("w", shape, dtype, (ONE, TWO), BASE, {"weight": (0.5, 0.25), "normalize": False, "lambda": 1.0}), tensors


def plan_of(job: Job) -> Plan:
    return Plan("task_arithmetic", (job,), (), None, False, 0)


def computed(job: Job, tensors: Mapping[Input, Tensor], refinement: Refinement, block: int = 1 << 16) -> Tensor:
    source = Blocks({item: t.reshape(-1) for item, t in tensors.items()}, size=block)
    method = METHODS["task_arithmetic"]
    return torch.cat(list(compute(job, method, source, 0, refinement=refinement))).view(job.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_formula_whatever_the_block(shape: tuple[int, ...], kind: str):
    job, tensors = job_of(shape)
    refinement = drawn(plan_of(job), kind)
    merged = computed(job, tensors, Refinement({}))
    deltas = {"one": tensors[ONE] - tensors[BASE], "two": tensors[TWO] - tensors[BASE]}
    whole = computed(job, tensors, refinement)
    assert not torch.equal(whole, merged)
    torch.testing.assert_close(whole, formula(merged, deltas, "w", refinement.values), rtol=1e-5, atol=1e-5)
    for block in (1, 3, 8, 11):
        assert torch.equal(computed(job, tensors, refinement, block), whole)


@pytest.mark.parametrize("kind", ["rows+columns", "singular"])
def test_the_same_bits_for_any_number_of_threads(kind: str):
    job, tensors = job_of((344, 128))
    refinement = drawn(plan_of(job), kind)
    one = computed(job, tensors, refinement)
    torch.set_num_threads(2)
    try:
        assert torch.equal(computed(job, tensors, refinement), one)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_rounded_once_and_sources_left_alone():
    job, tensors = job_of((6, 5), "bfloat16")
    before = {item: t.clone() for item, t in tensors.items()}
    refinement = drawn(plan_of(job), "rows")
    wide = computed(replace(job, dtype="float32"), tensors, refinement)
    assert torch.equal(computed(job, tensors, refinement), wide.bfloat16())
    assert all(torch.equal(tensors[item], t) for item, t in before.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_formula(shape: tuple[int, ...], kind: str):
    job, tensors = job_of(shape)
    values = {key: v.double().requires_grad_() for key, v in drawn(plan_of(job), kind).values.items()}
    deltas = {str(item.model): (tensors[item] - tensors[BASE]).double() for item in (ONE, TWO)}
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    (formula(tensors[BASE].double(), deltas, "w", values) * gradient).sum().backward()
    source = Blocks({item: t.reshape(-1) for item, t in tensors.items()}, size=6)
    mine = RefinementGradient(LiveModel(None, {"w": tensors[BASE]}, source), plan_of(job), kind)
    for part in (0.25, 0.75):  # contributions add
        mine(job, part * gradient)
    assert mine.values().keys() == values.keys()
    for key, value in values.items():
        torch.testing.assert_close(mine.values()[key], value.grad, rtol=1e-4, atol=1e-5)


# models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["task_arithmetic", "dare_ties", "linear"])
def test_candidate_is_the_written_model(models: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str):
    of = prepared(recipe(method, "bfloat16"))
    of = replace(of, refinement=drawn(of.plan, kind))
    candidate = living(of, torch.bfloat16)
    torch.set_num_threads(2)
    try:
        candidate.write(of.plan, of.refinement)
    finally:
        torch.set_num_threads(1)
    monkeypatch.setattr(FileSource, "block", 40)  # cuts rows
    merge_to_folder(of, models / "out")
    written = load_file(models / "out" / "model.safetensors")
    held = candidate.model.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in written.items())
    merge_to_folder(replace(of, refinement=None), models / "plain")
    plain = load_file(models / "plain" / "model.safetensors")
    assert not any(torch.equal(plain[name], tensor) for name, tensor in written.items())


def test_without_a_base_deltas_are_from_the_first_source(models: Path):
    of = prepared(recipe("linear"))
    refinement = drawn(of.plan, "rows")
    assert {key.model for key in refinement.values} == {"b"}
    candidate = living(of)
    candidate.write(of.plan, refinement)
    a, b = (read_weights(models / name)[UP] for name in "ab")
    wanted = formula((0.4 * a + 0.3 * b) / 0.7, {"b": b - a}, UP, refinement.values)
    torch.testing.assert_close(candidate.view(UP), wanted)


def test_only_what_changed_is_written_again(llamas: Prepared, monkeypatch: pytest.MonkeyPatch):
    written: list[str] = []
    original = living_module.compute
    monkeypatch.setattr(living_module, "compute", lambda job, *rest: written.append(job.tensor) or original(job, *rest))
    candidate = living(llamas)
    candidate.write(llamas.plan)
    plain = candidate.view(UP).clone()
    values = {Key("a", UP, "rows"): torch.ones(24), Key("b", UP, "singular"): torch.ones(16)}
    for now in (values, values | {Key("a", UP, "rows"): torch.full((24,), 2.0)}):
        written.clear()
        candidate.write(llamas.plan, Refinement(now))
        assert written == [UP]
        candidate.write(llamas.plan, Refinement(now))
        assert written == [UP]
    values[Key("a", UP, "rows")].mul_(3)  # in place: a learner's step
    candidate.write(llamas.plan, Refinement(values))
    assert written == [UP, UP]
    candidate.write(llamas.plan)
    assert torch.equal(candidate.view(UP), plain)


def test_a_learned_whole_delta_is_a_coefficient(llamas: Prepared):
    candidate = living(llamas)
    ones = {key: torch.full_like(v, 0.2) for key, v in empty(llamas.plan, "singular").items()}
    candidate.write(llamas.plan, Refinement(ones))
    base, a, b = (read_weights(Path(name))[UP] for name in ("base", "a", "b"))
    torch.testing.assert_close(candidate.view(UP), base + 0.6 * (a - base) + 0.5 * (b - base), atol=1e-5, rtol=1e-5)


def test_a_delta_that_is_not_finite_is_named(models: Path):
    weights = llama_weights()
    weights[UP][0, 0] = float("nan")
    write_model(models / "c", weights)
    of = prepared(recipe("task_arithmetic").replace("{model: b", "{model: c"))
    with pytest.raises(InputError, match=f"'c' in tensor '{UP}' holds NaN"):
        living(of).write(of.plan, drawn(of.plan, "singular"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_gradients_of_a_live_model(inside: Path, architecture: str, kind: str):
    family(inside, architecture, torch.float32)
    of = prepared(recipe("task_arithmetic"))
    candidate = living(of)
    refinement = drawn(of.plan, kind)
    candidate.write(of.plan, refinement)
    mine = RefinementGradient(candidate, of.plan, kind)
    with contracting(candidate, of.plan.jobs, mine):
        candidate.model(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
    theirs = autograd(candidate, of.plan, refinement)
    assert mine.values().keys() == theirs.keys()
    largest = max(float(g.abs().max()) for g in theirs.values())
    for key, gradient in mine.values().items():
        assert float((gradient - theirs[key]).abs().max()) <= 1e-4 * largest, key


def autograd(candidate: LiveModel, plan: Plan, refinement: Refinement) -> dict[Key, Tensor]:
    """Through `functional_call` on weights that are the formula, at the place where the live model stands."""
    leaves = {key: value.clone().requires_grad_() for key, value in refinement.values.items()}
    state = {name: p.detach().clone() for name, p in candidate.model.named_parameters()}
    homes = {p.untyped_storage().data_ptr(): name for name, p in candidate.model.named_parameters()}
    for job in plan.jobs:
        view = candidate.view(job.tensor)
        inputs = {str(i.model): candidate.source.chunk(i, 0, view.numel()).view(job.shape) for i in job.reads}
        deltas = {model: tensor - inputs["base"] for model, tensor in inputs.items() if model != "base"}
        plain = inputs["base"] + 0.4 * deltas["a"] + 0.3 * deltas["b"]
        name = homes[view.untyped_storage().data_ptr()]
        home = state[name]
        place = torch.arange(home.numel()).as_strided(view.shape, view.stride(), view.storage_offset()).reshape(-1)
        refined = formula(plain, deltas, job.tensor, leaves).reshape(-1)
        state[name] = home.view(-1).scatter(0, place, refined).view(home.shape)
    out = torch.func.functional_call(candidate.model, state, (TOKENS,), {"labels": TOKENS, "use_cache": False})
    return dict(zip(leaves, torch.autograd.grad(out.loss, list(leaves.values())), strict=True))


# files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rows+columns", "singular"])
def test_merging_the_written_recipe_gives_the_same_bytes(models: Path, llamas: Prepared, kind: str):
    drawn(llamas.plan, kind).write(models / "mine.bin")
    (models / "r.yml").write_text(recipe("ties", "bfloat16") + "refinement: mine.bin\n")
    for file, out in (("r.yml", "one"), ("one/recipe.yaml", "two")):
        result = CliRunner().invoke(app, ["merge", file, out, "--strict"])
        assert result.exit_code == 0, result.output
        assert f"refinement: {SIDECAR}\n" in (models / out / "recipe.yaml").read_text()
    for file in ("model.safetensors", SIDECAR, "recipe.yaml", "recipe.lock.json"):
        assert (models / "one" / file).read_bytes() == (models / "two" / file).read_bytes()
    assert (models / "one" / SIDECAR).read_bytes() == (models / "mine.bin").read_bytes()
    lock = json.loads((models / "one" / "recipe.lock.json").read_text())
    assert lock["portability"] == "mergeopt only"
    drawn(llamas.plan, kind, seed=1).write(models / "mine.bin")
    assert CliRunner().invoke(app, ["merge", "r.yml", "three"]).exit_code == 0
    other = json.loads((models / "three" / "recipe.lock.json").read_text())
    assert lock["refinement"].startswith("xxh3-128:") and other["refinement"] != lock["refinement"]


def test_reads_what_it_wrote_under_any_name(models: Path, llamas: Prepared):
    job = next(job for job in llamas.plan.jobs if job.tensor == UP)
    odd = replace(job, tensor='w|"rows"', inputs=tuple(Input(ModelRef(n), UP) for n in ("ünï|x", "tab\there/..")))
    refinement = drawn(plan_of(odd), "rows+columns")
    refinement.write(models / "odd")
    back = Refinement.read(models / "odd", plan_of(odd))
    assert back.values.keys() == refinement.values.keys()
    assert all(torch.equal(back.values[key], value) for key, value in refinement.values.items())
    assert Refinement(dict(reversed(back.values.items()))).encoded() == refinement.encoded()


def entry(model: str = "a", tensor: str = UP, axis: str = "rows", value: Tensor | None = None) -> dict[str, Tensor]:
    return {json.dumps([tensor, model, axis]): torch.ones(24) if value is None else value}


WRONG: dict[str, tuple[dict[str, Tensor], str]] = {
    "tensor": (entry(tensor=UP + "s"), f"no such tensor; did you mean '{UP}'"),
    "model": (entry(model="aa"), "takes no delta of this model; known: a, b"),
    "base": (entry(model="base"), "takes no delta of this model"),
    "axis": (entry(axis="diagonal"), "is not .* an axis is one of rows, columns, singular"),
    "key": ({UP: torch.ones(24)}, "is not"),
    "length": (entry(axis="columns"), r"is float32 \[24\], not float32 \[16\]"),
    "two axes": (entry(value=torch.ones(24, 1)), r"is float32 \[24, 1\], not float32 \[24\]"),
    "dtype": (entry(value=torch.ones(24).half()), r"is float16 \[24\], not float32 \[24\]"),
    "infinite": (entry(value=torch.full((24,), float("inf"))), "holds NaN or infinity"),
    "one axis": (entry(tensor=NORM, axis="columns", value=torch.ones(16)), "has one axis: rows"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused(models: Path, llamas: Prepared, what: str):
    tensors, said = WRONG[what]
    save_file(tensors, models / "mine.bin", {"mergeopt_refinement": "1"})
    with pytest.raises(InputError, match=said) as caught:
        Refinement.read(models / "mine.bin", llamas.plan)
    assert str(caught.value).startswith(str(models / "mine.bin")) and "; " in str(caught.value)


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "no such file: .*mine.bin; give its path"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-8]), "truncated"),
    "of another format": (lambda path: save_file(entry(), path), "not a refinement of format 1"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_file_is_one_line(models: Path, llamas: Prepared, how: str):
    spoil, said = SPOILED[how]
    drawn(llamas.plan, "rows").write(models / "mine.bin")
    spoil(models / "mine.bin")
    with pytest.raises(InputError, match=said):
        prepared(recipe("ties") + "refinement: mine.bin\n")
