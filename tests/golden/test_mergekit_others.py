"""model_stock, sce and the rest mean the same to mergekit 0.1.5 and to us.

Averages agree within a few float32 roundings, the others within 1e-6 · max(|base|, |delta|) per element. Left aside is
what hangs on a threshold that rounding decides: elements within 1e-5 of it, and tensors whose threshold is shared.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mergeopt.merge.plan import Job
from tests.golden.compare import SETTINGS, assert_one_ulp, inputs, ours

pytestmark = pytest.mark.golden

MODELS = """
models:
  - {{model: a{x}, parameters: {{weight: {s}}}}}
  - {{model: b{x}, parameters: {{weight: 0.6}}}}
"""
THREE = MODELS + "  - {{model: c{x}, parameters: {{weight: [0.3, 0.5]}}}}\n"
ON_BASE = "base_model: base{x}\n"
PAIR = ON_BASE + "models: [{{model: base{x}}}, {{model: a{x}}}]\n"
FLAG = "[{{filter: mlp, value: true}}, {{value: false}}]"
AVERAGES = {
    "nuslerp": MODELS,
    "nuslerp on a base": ON_BASE + MODELS,
    "nuslerp by rows": MODELS + "parameters: {{nuslerp_flatten: false}}\n",
    "nuslerp by rows of some": ON_BASE + MODELS + f"parameters: {{{{nuslerp_flatten: {FLAG}}}}}\n",
    "nuslerp by columns": MODELS + "parameters: {{nuslerp_flatten: false, nuslerp_row_wise: true}}\n",
    "nuslerp by columns on a base": ON_BASE
    + MODELS
    + f"parameters: {{{{nuslerp_flatten: false, nuslerp_row_wise: {FLAG}}}}}\n",
    "nuslerp flattened after all": MODELS + "parameters: {{nuslerp_row_wise: true}}\n",
    "multislerp": THREE,
    "multislerp on a base": ON_BASE + THREE,
    "multislerp not normalized": ON_BASE + THREE + "parameters: {{normalize_weights: false}}\n",
    "multislerp eps": THREE + "parameters: {{eps: 0.05}}\n",
    "multislerp of one": "models: [{{model: a{x}, parameters: {{weight: {s}}}}}]\n",
    "model_stock": ON_BASE + THREE,
    "model_stock of two": ON_BASE + MODELS,
    "model_stock filter_wise": ON_BASE + THREE + f"parameters: {{{{filter_wise: {FLAG}}}}}\n",
    "karcher": THREE,
    "karcher with an unlisted base": ON_BASE + MODELS,
    "karcher few steps": THREE + "parameters: {{max_iter: [{{filter: mlp, value: 0}}, {{value: 1}}]}}\n",
    "karcher early stop": THREE + "parameters: {{tol: {s}}}\n",
    "karcher late stop": THREE + "parameters: {{tol: 1e-9, max_iter: 40}}\n",
}
DELTAS = {
    "nearswap": PAIR + "parameters: {{t: {s}}}\n",
    "nearswap gently": PAIR + "parameters: {{t: [0.02, 0.2]}}\n",
    "sce": ON_BASE + THREE + "parameters: {{select_topk: {s}, int8_mask: true}}\n",
    "sce of all": ON_BASE + THREE,
    "sce of nothing": ON_BASE + THREE + "parameters: {{select_topk: 0}}\n",
    "sce of one": ON_BASE + "models: [{{model: a{x}}}]\nparameters: {{select_topk: 0.5}}\n",
    "ram": ON_BASE + THREE + "parameters: {{epsilon: {s}}}\n",
    "ram of everything": ON_BASE + THREE,
    "ramplus_tl": ON_BASE + THREE + "parameters: {{epsilon: 0.2, r: {s}, alpha: {s}}}\n",
    "ramplus_tl as it comes": ON_BASE + THREE + "parameters: {{epsilon: 0.2}}\n",
    "arcee_fusion": PAIR,
}


def recipe(kind: str, body: str, setting: str, stored: str) -> str:
    text = f"merge_method: {kind.split(maxsplit=1)[0]}\ndtype: float32\n" + body
    return text.format(x="16" if stored == "bfloat16" else "", s=SETTINGS[setting])


def settings(kinds: dict[str, str]) -> list[tuple[str, str]]:
    """Every kind with every setting; once where it has none."""
    return [(kind, s) for kind, body in kinds.items() for s in SETTINGS if "{s}" in body or s == "scalar"]


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "setting"), settings(AVERAGES))
def test_averages(mergekit, tmp_path: Path, kind: str, setting: str, stored: str):
    text = recipe(kind, AVERAGES[kind], setting, stored)
    assert_one_ulp(ours(text, tmp_path / "ours")[1], mergekit(text, tmp_path / "theirs"))


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "setting"), settings(DELTAS))
def test_deltas(mergekit, tmp_path: Path, kind: str, setting: str, stored: str):
    text = recipe(kind, DELTAS[kind], setting, stored)
    of, mine = ours(text, tmp_path / "ours")
    theirs = mergekit(text, tmp_path / "theirs")
    assert mine.keys() == theirs.keys()
    compared = 0
    for job in of.plan.jobs:
        sources, base = inputs(job, of)
        assert base is not None and mine[job.tensor].dtype == torch.float32
        deltas = [source - base for source in sources]
        scale = torch.stack([base.abs(), *(delta.abs() for delta in deltas)]).amax(0)
        near = (mine[job.tensor] - theirs[job.tensor]).abs() <= 1e-6 * scale
        aside = undecided(job, kind, sources, base)
        assert bool((near | aside).all()), (job.tensor, int((~near & ~aside).sum()))
        compared += int((~aside).sum())
    total = sum(tensor.numel() for tensor in mine.values())
    assert compared > (0.6 if kind == "sce" and stored == "bfloat16" else 0.98) * total


def undecided(job: Job, kind: str, sources: list[Tensor], base: Tensor) -> Tensor:
    """Elements whose part in the merge rounding decides."""
    aside = torch.zeros(base.shape, dtype=torch.bool)
    topk = job.coefficients.get("select_topk", 1)
    if kind == "sce" and topk < 1:
        variance = torch.stack([source - base for source in sources]).var(0, correction=0).flatten()
        ranked = variance.sort(descending=True).values
        k = int(topk * int((variance != 0).sum()))
        if ranked[k - 1] <= ranked[k] * (1 + 1e-5):  # then other deltas are kept, and the shares are others too
            aside.fill_(True)
    if kind == "arcee_fusion":
        p, q = sources[0].double().softmax(-1), base.double().softmax(-1)
        divergence = (p * ((p + 1e-8) / (q + 1e-8)).log()).sum(-1, keepdim=True)
        importance = (sources[0] - base).abs() * divergence
        ranked = importance.flatten().sort().values
        low, middle, high = (float(ranked[int(q * (len(ranked) - 1))]) for q in (0.25, 0.5, 0.75))
        threshold = middle + 1.5 * (high - low)
        aside = (importance / threshold - 1).abs() < 1e-5
    return aside
