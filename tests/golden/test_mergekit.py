"""The same recipe means the same model to mergekit 0.1.5 and to us.

linear, slerp and passthrough agree within one unit in the last place of the output's dtype. The others are compared
in float32: |a − b| ≤ 1e-6 · max(|base|, |weight·delta|) per element, elements whose magnitude is exactly a trimming
threshold that others share left aside (which of them are kept is mergekit's accident).
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mergeopt.merge.folder import Prepared
from mergeopt.merge.plan import Job
from tests.conftest import read_weights
from tests.golden.compare import SETTINGS, assert_one_ulp, ours

pytestmark = pytest.mark.golden

DELTAS = """
merge_method: {method}
base_model: base{x}
models:
  - {{model: a{x}, parameters: {{weight: {s}, density: {d}}}}}
  - {{model: base{x}}}
  - {{model: b{x}, parameters: {{weight: 0.6, density: {d2}}}}}
  - {{model: c{x}, parameters: {{weight: [-0.3, 0.5]}}}}
parameters: {{lambda: 0.8}}
dtype: float32
"""
TRIMMING = ("ties", "breadcrumbs", "breadcrumbs_ties")
RECIPES = {
    "linear": "merge_method: linear\nmodels:\n  - {{model: a{x}, parameters: {{weight: {s}}}}}\n"
    "  - {{model: b{x}, parameters: {{weight: 0.7}}}}\n  - {{model: c{x}, parameters: {{weight: [0.1, 0.5]}}}}\n",
    "slerp": "merge_method: slerp\nbase_model: b{x}\nmodels: [{{model: a{x}}}, {{model: b{x}}}]\n"
    "parameters: {{t: {s}}}\n",
    "passthrough": "merge_method: passthrough\nmodels: [{{model: a{x}, parameters: {{scale: {s}}}}}]\n",
}


def recipe(method: str, setting: str, dtype: str) -> str:
    x, s = ("16" if dtype == "bfloat16" else ""), SETTINGS[setting]
    if method in RECIPES:
        return RECIPES[method].format(x=x, s=s) + f"dtype: {dtype}\n"
    trims = method in TRIMMING  # mergekit's random draws are others than ours: compare the plan, nothing dropped
    text = DELTAS.format(method=method, x=x, s=s, d=s if trims else 1, d2=0.6 if trims else "[1, 1]")
    return text.replace("lambda: 0.8", "lambda: 0.8, gamma: 0.05") if method.startswith("breadcrumbs") else text


def scale_and_ties(job: Job, of: Prepared) -> tuple[Tensor, Tensor]:
    """max(|base|, |weight·delta|) per element, and where a trimming threshold is shared."""
    weights = {ref: read_weights(c.folder) for ref, c in of.checkpoints.items()}
    assert job.base is not None
    base = weights[job.base.model][job.base.tensor].float()
    scale, shared = base.abs(), torch.zeros(base.shape, dtype=torch.bool)
    densities = job.coefficients.get("density", [1.0] * len(job.inputs))
    for item, w, d in zip(job.inputs, job.coefficients["weight"], densities, strict=True):
        delta = (weights[item.model][item.tensor].float() - base).abs()
        scale = torch.maximum(scale, delta * abs(w))
        if d < 1:
            ascending = delta.flatten().sort().values
            for place in thresholds(of, delta.numel(), d):
                equal = delta == ascending[place]
                shared |= equal if int(equal.sum()) > 1 else False
    return scale, shared


def thresholds(of: Prepared, numel: int, density: float) -> list[int]:
    """Ascending ranks of the last elements that are kept: the smallest, and for breadcrumbs the largest too."""
    if of.recipe.method == "ties":
        return [numel - max(1, int(density * numel))]
    kept, top = int(density * numel), int(0.05 * numel)
    bottom = max(0, numel - kept - top)
    return [bottom, max(bottom, bottom + kept - 1)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("setting", list(SETTINGS))
@pytest.mark.parametrize("method", list(RECIPES))
def test_averages(mergekit, tmp_path: Path, method: str, setting: str, dtype: str):
    text = recipe(method, setting, dtype)
    _, mine = ours(text, tmp_path / "ours")
    theirs = mergekit(text, tmp_path / "theirs")
    assert {str(t.dtype) for t in mine.values()} == {f"torch.{dtype}"}
    assert_one_ulp(mine, theirs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("setting", list(SETTINGS))
@pytest.mark.parametrize("method", [*TRIMMING, "task_arithmetic", "dare_linear", "dare_ties", "della", "della_linear"])
def test_deltas(mergekit, tmp_path: Path, method: str, setting: str, dtype: str):
    text = recipe(method, setting, dtype)
    of, mine = ours(text, tmp_path / "ours")
    theirs = mergekit(text, tmp_path / "theirs")
    assert mine.keys() == theirs.keys()
    compared = 0
    for job in of.plan.jobs:
        scale, shared = scale_and_ties(job, of)
        near = (mine[job.tensor] - theirs[job.tensor]).abs() <= 1e-6 * scale
        assert bool((near | shared).all()), (job.tensor, int((~near & ~shared).sum()))
        compared += int((~shared).sum())
    total = sum(t.numel() for t in mine.values())
    assert compared > (0.95 if dtype == "bfloat16" else 0.999) * total


@pytest.mark.parametrize(
    "parameters",
    ["normalize: false", "rescale: true", "normalize: false, rescale: true", "lambda: [0.5, 1.5]", "int8_mask: true"],
)
@pytest.mark.parametrize("method", [*TRIMMING, "task_arithmetic", "della", "della_linear"])
def test_options_of_delta_methods(mergekit, tmp_path: Path, method: str, parameters: str):
    text = recipe(method, "filter", "float32").replace("lambda: 0.8", parameters)
    of, mine = ours(text, tmp_path / "ours")
    theirs = mergekit(text, tmp_path / "theirs")
    for job in of.plan.jobs:
        scale, _ = scale_and_ties(job, of)
        slack = (4e-6 if "rescale" in parameters else 1e-6) * scale
        assert bool(((mine[job.tensor] - theirs[job.tensor]).abs() <= slack).all()), job.tensor


def test_linear_without_normalising(mergekit, tmp_path: Path):
    text = recipe("linear", "gradient", "float32") + "parameters: {normalize: false}\n"
    assert_one_ulp(ours(text, tmp_path / "ours")[1], mergekit(text, tmp_path / "theirs"))


def test_an_unlisted_base_joins_a_linear_merge(mergekit, tmp_path: Path):
    text = "merge_method: linear\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
    text += "parameters: {weight: [{filter: mlp, value: [0.2, 0.5]}, {value: 0.3}]}\ndtype: float32\n"
    assert_one_ulp(ours(text, tmp_path / "ours")[1], mergekit(text, tmp_path / "theirs"))


SLICES = """
merge_method: slerp
base_model: a
parameters: {t: [{filter: mlp, value: [0.1, 0.9]}, {value: 0.4}]}
dtype: float32
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 2]}, {model: a, layer_range: [2, 3]}]
    parameters: {t: [0.8, 0.6]}
"""
STACK = """
merge_method: passthrough
dtype: float32
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [0, 3], parameters: {scale: [{filter: o_proj, value: 0}, {value: [1, 0.5]}]}}]
  - sources: [{model: b, layer_range: [2, 3]}]
"""
LEVELS = """
merge_method: linear
dtype: float32
parameters: {weight: [0.9, 0.2], normalize: false}
slices:
  - sources:
      - {model: a, layer_range: [0, 3],
         parameters: {weight: [{filter: layers.1.mlp, value: 2}, {filter: q_, value: 3}]}}
      - {model: b, layer_range: [0, 3]}
    parameters: {weight: [{filter: self_attn, value: [0.1, 0.5]}]}
"""


@pytest.mark.parametrize("text", [SLICES, STACK, LEVELS], ids=["slerp", "stack", "levels"])
def test_slices(mergekit, tmp_path: Path, text: str):
    assert_one_ulp(ours(text, tmp_path / "ours")[1], mergekit(text, tmp_path / "theirs"))


@pytest.mark.parametrize("method", ["linear", "slerp", "passthrough"])
def test_out_dtype(mergekit, tmp_path: Path, method: str):
    text = recipe(method, "gradient", "float32") + "out_dtype: bfloat16\n"
    mine = ours(text, tmp_path / "ours")[1]
    assert {t.dtype for t in mine.values()} == {torch.bfloat16}
    assert_one_ulp(mine, mergekit(text, tmp_path / "theirs"))


def test_no_dtype_promotes_per_tensor(mergekit, tmp_path: Path):
    text = "merge_method: linear\nmodels: [{model: a}, {model: b16}]\nparameters: {weight: 1}\n"
    assert_one_ulp(ours(text, tmp_path / "ours")[1], mergekit(text, tmp_path / "theirs"))
