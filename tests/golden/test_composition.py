"""Chains, slices with bases of their own, and chains in short form come out as mergekit 0.1.5 makes them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mergeopt.merge.stages import merge_stages, prepare_stages
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_documents
from mergeopt.recipe.stages import read_stages
from tests.conftest import Weights, read_weights

pytestmark = pytest.mark.golden

CHAIN = """\
name: half
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 0.5}
dtype: float32
---
name: next
merge_method: slerp
base_model: half
models: [{model: c}]
parameters: {t: [0.2, 0.8]}
dtype: float32
---
merge_method: task_arithmetic
base_model: base
models: [{model: next, parameters: {weight: 0.7}}, {model: a, parameters: {weight: 0.2}}]
dtype: float32
"""
SHORT = """\
merge_method: slerp
chain: [a, {model: b, parameters: {t: 0.3}}, {model: c, parameters: {t: [0, 1]}}]
dtype: float32
"""
BASES = """\
merge_method: slerp
parameters: {t: 0.3}
dtype: float32
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
    base_model: b
  - sources: [{model: a, layer_range: [1, 3]}, {model: b, layer_range: [1, 3]}]
    base_model: a
"""


def ours(text: str, out: Path) -> Weights:
    chain = prepare_stages(read_stages(parse_documents(text, "r.yml"), SCHEMAS))
    merge_stages(chain, out, folder=out.with_name(f"{out.name}.stages"), keep=True)
    return read_weights(out)


def theirs(text: str, out: Path) -> Weights:
    """What mergekit-multi makes of documents."""
    file = out.with_suffix(".yml")
    file.write_text(text)
    pytest.importorskip("mergekit.scripts.multimerge")
    code = "from mergekit.scripts.multimerge import main; main()"
    words = [str(file), "--out-path", str(out), "-I", str(out.with_name(f"{out.name}.mid")), "--no-copy-tokenizer"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code, *words, "--no-write-model-card"], env=environment, check=False, capture_output=True
    )
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    return read_weights(out)


def assert_same(got: Weights, expected: Weights) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.slow
def test_a_chain(tmp_path: Path) -> None:
    assert_same(ours(CHAIN, tmp_path / "ours"), theirs(CHAIN, tmp_path / "theirs"))


@pytest.mark.slow
def test_a_chain_in_short_form_is_what_it_is_written_down_as(tmp_path: Path) -> None:
    short = ours(SHORT, tmp_path / "ours")
    assert_same(short, theirs((tmp_path / "ours" / "recipe.yaml").read_text(), tmp_path / "theirs"))


def test_slices_with_a_base_each(tmp_path: Path, mergekit: Callable[[str, Path], Weights]) -> None:
    assert_same(ours(BASES, tmp_path / "ours"), mergekit(BASES, tmp_path / "theirs"))
