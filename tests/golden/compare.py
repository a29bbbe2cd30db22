"""What golden tests share: ways to write a setting, our merge of a text, and what counts as agreement."""

from pathlib import Path

import torch
from torch import Tensor

from mergeopt.merge.folder import Prepared, merge_to_folder
from mergeopt.merge.plan import Job
from tests.conftest import Weights, read_weights
from tests.merge.conftest import prepared

SETTINGS = {
    "scalar": "0.4",
    "gradient": "[0.1, 0.9, 0.3, 0.6]",
    "filter": "[{filter: self_attn, value: 0.7}, {filter: mlp, value: 0.2}, {value: 0.5}]",
    "filter+gradient": "[{filter: self_attn, value: [0.2, 0.8]}, {filter: norm, value: 1}, {value: [0.9, 0.3, 0.5]}]",
}


def ours(text: str, out: Path) -> tuple[Prepared, Weights]:
    of = prepared(text)
    merge_to_folder(of, out)
    return of, read_weights(out)


def assert_one_ulp(mine: Weights, theirs: Weights) -> None:
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype and mine[name].shape == tensor.shape
        exact, eps = tensor.double(), torch.finfo(tensor.dtype).eps
        # two float32 computations differ by a few roundings of their largest term; one bfloat16 rounding hides them
        slack = 4 * eps * exact.abs().clamp_min(1) if tensor.dtype == torch.float32 else eps * exact.abs() + 1e-6
        assert bool(((mine[name].double() - exact).abs() <= slack).all()), name


def inputs(job: Job, of: Prepared) -> tuple[list[Tensor], Tensor | None]:
    """The job's sources and base in float32."""
    weights = {item: read_weights(of.checkpoints[item.model].folder)[item.tensor].float() for item in job.reads}
    return [weights[item] for item in job.inputs], None if job.base is None else weights[job.base]
