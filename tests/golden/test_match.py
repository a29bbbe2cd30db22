"""`--match mergekit`: every method, bit for bit what mergekit 0.1.5 writes, seeded draws too."""

from pathlib import Path

import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.merge.folder import merge_to_folder
from mergeopt.merge.mergekit_mode import MergekitExecution, as_mergekit, lock_entries
from mergeopt.methods import METHODS
from mergeopt.methods.as_mergekit import ARITHMETIC
from tests.conftest import Weights, llama_weights, read_weights, write_model
from tests.golden.compare import SETTINGS
from tests.merge.conftest import prepared

pytestmark = pytest.mark.golden

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
    **{name: DELTAS + "parameters: {{epsilon: 0.05}}\n" for name in ("della", "della_linear")},
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


def matched(text: str, out: Path, seed: int | None = 11) -> Weights:
    of = as_mergekit(prepared(text), seed)
    execution = MergekitExecution(of.recipe.dtype, seed)
    merge_to_folder(of, out, execute=execution, lock_also=lock_entries(seed))
    return read_weights(out)


def assert_same_bits(mine: Weights, theirs: Weights) -> None:
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype, name
        same = mine[name].view(torch.uint8) if tensor.ndim else mine[name]
        assert torch.equal(same, tensor.view(torch.uint8) if tensor.ndim else tensor), (
            name,
            int((mine[name] != tensor).sum()),
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (kind, setting)
        for kind, body in BODIES.items()
        for setting in SETTINGS
        if kind.split(maxsplit=1)[0] in METHODS and ("{s}" in body or setting == "scalar")
    ],
)
def test_every_method(mergekit, tmp_path: Path, kind: str, setting: str, dtype: str):
    text = recipe(kind, setting, dtype)
    assert_same_bits(matched(text, tmp_path / "ours"), mergekit(text, tmp_path / "theirs", 11))
