"""`--match mergekit`: every method, bit for bit what mergekit 0.1.5 writes, seeded draws too."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mergeopt.merge.folder import merge_to_folder
from mergeopt.merge.mergekit_mode import MergekitExecution, as_mergekit
from mergeopt.methods import METHODS
from mergeopt.methods.as_mergekit import ARITHMETIC
from mergeopt.methods.as_mergekit.inputs import Inputs
from tests.conftest import Weights, llama_weights, read_weights, write_model
from tests.golden.compare import SETTINGS
from tests.merge.conftest import prepared

pytestmark = pytest.mark.golden
SEED = 11

DELTAS = """
base_model: base{x}
models:
  - {{model: a{x}, parameters: {{weight: {s}, {d}}}}}
  - {{model: base{x}}}
  - {{model: b{x}, parameters: {{weight: 0.6, density: 0.6}}}}
  - {{model: c{x}, parameters: {{weight: [-0.3, 0.5], density: [1, 0.7, 1]}}}}
"""
THREE = """
models:
  - {{model: a{x}, parameters: {{weight: {s}}}}}
  - {{model: b{x}, parameters: {{weight: 0.6}}}}
  - {{model: c{x}, parameters: {{weight: [0.3, 0.5]}}}}
"""
TWO = "models: [{{model: a{x}, parameters: {{weight: {s}}}}}, {{model: b{x}, parameters: {{weight: 0.6}}}}]\n"
PAIR = "base_model: base{x}\nmodels: [{{model: base{x}}}, {{model: a{x}}}]\n"
BASE = "base_model: base{x}\n"
FLAGS = "[{{filter: mlp, value: true}}, {{value: false}}]"
BODIES = {
    "linear": THREE,
    "linear plain": THREE + "parameters: {{normalize: false}}\n",
    "slerp": PAIR + "parameters: {{t: {s}}}\n",
    "passthrough": "models: [{{model: a{x}, parameters: {{scale: {s}}}}}]\n",
    "task_arithmetic": DELTAS + "parameters: {{lambda: 0.7, normalize: true}}\n",
    **{f"{name}": DELTAS for name in ("ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties")},
    **{
        f"{name} with flags": DELTAS + f"parameters: {{{{normalize: {FLAGS}, rescale: {FLAGS}, lambda: [0.8, 1.2]}}}}\n"
        for name in ("ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties")
    },
    **dict.fromkeys(("della", "della_linear"), DELTAS + "parameters: {{epsilon: 0.05}}\n"),
    "nuslerp": TWO,
    "nuslerp on a base": BASE + TWO,
    "nuslerp by rows": TWO + f"parameters: {{{{nuslerp_flatten: false, nuslerp_row_wise: {FLAGS}}}}}\n",
    "multislerp": THREE,
    "multislerp on a base": BASE + THREE + f"parameters: {{{{normalize_weights: {FLAGS}}}}}\n",
    "multislerp of one": "models: [{{model: a{x}, parameters: {{weight: 0.4}}}}]\n",
    "karcher": THREE,
    "karcher of two": BASE + "models: [{{model: a{x}}}]\n",
    "karcher of one": "models: [{{model: a{x}}}]\n",
    "karcher long": THREE + "parameters: {{max_iter: 30, tol: 1e-7}}\n",
    "model_stock": BASE + THREE + f"parameters: {{{{filter_wise: {FLAGS}}}}}\n",
    "nearswap": PAIR + "parameters: {{t: {s}}}\n",
    "sce": BASE + THREE + "parameters: {{select_topk: {s}}}\n",
    "sce of all": BASE + THREE,
    "ram": BASE + THREE + "parameters: {{epsilon: {s}}}\n",
    "ramplus_tl": BASE + THREE + "parameters: {{epsilon: 0.2, r: {s}, alpha: {s}}}\n",
    "arcee_fusion": PAIR,
}


def recipe(kind: str, setting: str, dtype: str) -> str:
    method, s = kind.split(maxsplit=1)[0], SETTINGS[setting]
    d = f"density: {s}" if "density" in (METHODS[method].schema.parameters if method in METHODS else ()) else "foo: 0"
    if "della" in method:
        d = "density: [{filter: mlp, value: [0.3, 0.7]}, {value: 0.5}], epsilon: 0.2"
    text = BODIES[kind].format(x="16" if dtype in ("bfloat16", "none") else "", s=s, d=d)
    return f"merge_method: {method}\n{text}" + ("" if dtype == "none" else f"dtype: {dtype}\n")


def matched(text: str, out: Path) -> Weights:
    of = as_mergekit(prepared(text), SEED)
    merge_to_folder(of, out, execute=MergekitExecution(of.recipe.dtype, SEED))
    return read_weights(out)


def assert_same_bits(mine: Weights, theirs: Weights) -> None:
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype
        assert torch.equal(mine[name].view(torch.uint8), tensor.view(torch.uint8)), name


CASES = [
    (kind, setting, dtype)
    for kind, body in BODIES.items()
    for setting in (SETTINGS if "{s}" in body else ["scalar"])
    for dtype in ("bfloat16", "float32", "float16")
    if kind.split(maxsplit=1)[0] in METHODS and (dtype == "bfloat16" or setting in ("scalar", "filter+gradient"))
]


@pytest.mark.parametrize(("kind", "setting", "dtype"), CASES)
def test_every_method(mergekit, tmp_path: Path, kind: str, setting: str, dtype: str):
    text = recipe(kind, setting, dtype)
    assert_same_bits(matched(text, tmp_path / "ours"), mergekit(text, tmp_path / "theirs", SEED))


MIXED = """
merge_method: dare_ties
base_model: base
parameters: {weight: 0.5, density: 0.6}
models: [{model: a16}, {model: b}, {model: base}]
"""
FUSION = "merge_method: arcee_fusion\nbase_model: base16\nmodels: [{model: a16}]\n"


@pytest.mark.parametrize(
    "text",
    [
        MIXED,
        MIXED.replace(": base", ": base16").replace("model: b}", "model: b16}"),
        MIXED + "dtype: bfloat16\nout_dtype: float16\n",
        MIXED + "dtype: float16\nout_dtype: float32\n",
        MIXED + "dtype: float64\n",
        FUSION,
        FUSION + "out_dtype: bfloat16\n",
        FUSION.replace("arcee_fusion", "ramplus_tl"),
    ],
    ids=["promoted", "as stored", "to float16", "to float32", "float64", "fused", "fused to bfloat16", "ramplus_tl"],
)
def test_dtypes(mergekit, tmp_path: Path, text: str):
    assert_same_bits(matched(text, tmp_path / "ours"), mergekit(text, tmp_path / "theirs", SEED))


def test_draws_come_in_the_order_of_the_stored_names(mergekit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Layer 10 before layer 8, although the output calls them 4 and 2."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("x", "y", "z")):  # mergekit remembers other tests' models by name
        write_model(tmp_path / name, llama_weights(12, seed))
    text = "merge_method: dare_linear\nbase_model: x\ndtype: float32\nparameters: {weight: 0.5, density: 0.6}\nslices:"
    for layers in ("[0, 2]", "[8, 12]"):
        sources = ", ".join(f"{{model: {name}, layer_range: {layers}}}" for name in "xyz")
        text += f"\n  - sources: [{sources}]"
    assert_same_bits(matched(text, tmp_path / "ours"), mergekit(text, tmp_path / "theirs", SEED))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["slerp", "arcee_fusion"])
def test_large_tensors(mergekit, method: str, dtype: torch.dtype):
    """slerp goes piece by piece, arcee_fusion looks at a sample."""
    from mergekit.merge_methods import merge_tensors

    random = torch.Generator().manual_seed(1)
    base = torch.randn(1100, 1000, generator=random)
    source = (base + 0.3 * torch.randn(1100, 1000, generator=random)).to(dtype)
    parameters = {"t": 0.35} if method == "slerp" else {}
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        theirs = merge_tensors([base.to(dtype), source], method, parameters=parameters, base_index=0)
    inputs = Inputs([source], base.to(dtype), torch.Generator().manual_seed(SEED))
    assert torch.equal(ARITHMETIC[method](inputs, **parameters), theirs)


@pytest.mark.parametrize(("a", "b"), [(1, 1.5), (1, -1), (1, 0), (0, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["slerp", "nuslerp", "multislerp", "karcher", "model_stock"])
def test_vectors_of_one_line(mergekit, method: str, dtype: torch.dtype, a: float, b: float):
    from mergekit.merge_methods import merge_tensors

    x = torch.randn(60, 50, generator=torch.Generator().manual_seed(1))
    pair = [(a * x).to(dtype), (b * x).to(dtype)]
    base, sources = (pair[0], pair[1:]) if method == "slerp" else (None, pair)
    if method == "model_stock":
        base = torch.zeros_like(pair[0])
    parameters: dict[str, Any] = {
        "slerp": {"t": 0.35},
        "nuslerp": {"weight": [0.5, 0.5], "nuslerp_flatten": False, "nuslerp_row_wise": False},
        "multislerp": {"weight": [0.5, 0.5], "normalize_weights": True, "eps": 1e-8},
        "karcher": {"max_iter": 10, "tol": 1e-5},
        "model_stock": {"filter_wise": False},
    }[method]
    tensors = ([] if base is None else [base]) + sources
    theirs = merge_tensors(tensors, method, parameters=parameters, base_index=None if base is None else 0)
    mine = ARITHMETIC[method](Inputs(sources, base, torch.Generator()), **parameters)
    assert torch.equal(mine, theirs) or bool((mine.isnan() & theirs.isnan()).any())
