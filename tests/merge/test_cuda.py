"""On a GPU, where there is one: the same candidates to the last bit, and the same gradients within rounding."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mergeopt.merge.gradient import contracting
from mergeopt.merge.live import LiveModel
from mergeopt.merge.plan import Plan
from mergeopt.merge.refinement import KINDS, Key, Refinement, empty
from mergeopt.merge.refinement_gradient import RefinementGradient
from mergeopt.methods import METHODS
from tests.merge.conftest import prepared
from tests.merge.test_gradient import TOKENS, close, engine, loss, recipe
from tests.merge.test_live import family, living

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def mergeable(method: str) -> str:
    """`passthrough` takes one model."""
    return recipe(method) if method != "passthrough" else "merge_method: passthrough\nmodels: [{model: a}]\n"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"tsv"}))  # the bits of an SVD are the device's
def test_every_method_writes_the_same_bits(inside: Path, method: str, dtype: torch.dtype):
    family(inside, "llama", dtype)
    of = prepared(mergeable(method).replace("dtype: float32", f"dtype: {str(dtype).removeprefix('torch.')}"))
    here, there = living(of, dtype), living(of, dtype, "cuda")
    here.write(of.plan)
    there.write(of.plan)
    for job in of.plan.jobs:
        assert there.view(job.tensor).cpu().equal(here.view(job.tensor)), job.tensor


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_the_same_gradient(inside: Path, method: str):
    if not any(parameter.smooth for parameter in METHODS[method].schema.parameters.values()):
        pytest.skip("nothing to learn")
    family(inside, "llama", torch.float32)
    of = prepared(recipe(method))
    here = engine(living(of), of.plan)
    close(engine(living(of, device="cuda"), of.plan), here, 1e-3)


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt-neox", "mixtral"])
def test_every_layout_of_live_memory(inside: Path, architecture: str):
    family(inside, architecture, torch.float32)  # in bfloat16 a rounding can send a token to another expert
    of = prepared(recipe("task_arithmetic"))
    close(engine(living(of, device="cuda"), of.plan), engine(living(of), of.plan), 1e-3)


def refined(live: LiveModel, plan: Plan, kind: str) -> dict[Key, torch.Tensor]:
    """The gradient at numbers that are not zero."""
    live.write(plan, Refinement({key: torch.full_like(value, 0.1) for key, value in empty(plan, kind).items()}))
    gradient = RefinementGradient(live, plan, kind)
    with contracting(live, plan.jobs, gradient):
        loss(live.model, TOKENS.to(live.model.device)).backward()
    return gradient.values()


@pytest.mark.parametrize("kind", KINDS)
def test_below_the_tensor(inside: Path, kind: str):
    family(inside, "llama", torch.float32)
    of = prepared(recipe("task_arithmetic"))
    here, there = refined(living(of), of.plan, kind), refined(living(of, device="cuda"), of.plan, kind)
    assert here.keys() == there.keys()
    largest = max(float(value.abs().max()) for value in here.values())
    for key, value in here.items():
        if key.axis != "singular":  # signs and order of components are the SVD's own choice
            assert float((there[key] - value).abs().max()) <= 1e-3 * largest, key
