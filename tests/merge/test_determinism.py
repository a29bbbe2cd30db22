"""The same recipe gives the same bytes, for every method.

Whatever the number of threads, the size of blocks and shards, the order of tensors in files, or the seed of Python's
hashes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mergeopt.merge.folder import hash_merge, merge_to_folder
from mergeopt.merge.sources import FileSource
from mergeopt.methods import METHODS
from tests.conftest import llama_weights, read_weights, write_model
from tests.merge.conftest import prepared

SHAPE = (301, 331)  # several blocks, by rows too


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` and fine-tunes `m0` to `m2` in bfloat16, one tensor of several blocks. Only read."""
    folder = tmp_path_factory.mktemp("family")
    random = torch.Generator().manual_seed(0)

    def weights(seed: int) -> dict[str, torch.Tensor]:
        big = torch.randn(SHAPE, generator=random)
        return {**llama_weights(seed=seed), "model.layers.0.big.weight": big, "model.layers.1.big.weight": big + 1}

    base = weights(0)
    write_model(folder / "base", {n: t.bfloat16() for n, t in base.items()})
    for index in range(3):
        tuned = weights(index + 1)
        write_model(folder / f"m{index}", {n: (t + 0.1 * tuned[n]).bfloat16() for n, t in base.items()})
    return folder


@pytest.fixture
def inside(family: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(family)
    return family


def recipe(name: str) -> str:
    """A recipe of the method over as many models as it takes, every number given and varying with depth."""
    schema = METHODS[name].schema
    count = schema.max_sources or max(3, schema.min_sources)
    own: list[dict[str, Any]] = [{} for _ in range(count)]
    common: dict[str, Any] = {}
    for parameter in schema.parameters.values():
        if parameter.kind != "float":
            continue
        for index, settings in enumerate(own if parameter.per_source else [common]):
            values = [0.1, 0.2] if parameter.name == "epsilon" else [round(0.4 + 0.15 * index, 2), 0.6]
            settings[parameter.name] = values
    models = [{"model": f"m{i}", **({"parameters": settings} if settings else {})} for i, settings in enumerate(own)]
    data = {"merge_method": name, "models": models, "parameters": common, "seed": 3}
    return yaml.safe_dump(data | ({"base_model": "base"} if schema.takes_base else {}), sort_keys=False)


def with_threads(threads: int, name: str) -> dict[str, str]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return hash_merge(prepared(recipe(name)))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", METHODS)
def test_any_number_of_threads(inside: Path, name: str) -> None:
    one = with_threads(1, name)
    assert one == with_threads(1, name) == with_threads(3, name)


@pytest.mark.parametrize("name", METHODS)
def test_any_size_of_blocks(inside: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hash_merge(prepared(recipe(name)))
    for block in (1 << 12, 1 << 20):
        monkeypatch.setattr(FileSource, "block", block)
        assert hash_merge(prepared(recipe(name))) == expected, block


@pytest.mark.parametrize("name", METHODS)
def test_any_shards_in_and_out(inside: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hash_merge(prepared(recipe(name)))
    out = tmp_path / "out"
    assert merge_to_folder(prepared(recipe(name)), out, max_shard_bytes=50_000).lock.outputs == expected
    assert len(list(out.glob("*.safetensors"))) > 2
    for folder in inside.iterdir():
        weights = read_weights(folder)
        backwards = {n: weights[n] for n in reversed(weights)}
        write_model(tmp_path / folder.name, backwards, shards=3)
    monkeypatch.chdir(tmp_path)
    assert hash_merge(prepared(recipe(name))) == expected


IN_ANOTHER_PROCESS = """
import json, torch
from mergeopt.methods import METHODS
from tests.merge.test_determinism import with_threads
print(json.dumps({name: with_threads(2, name) for name in METHODS}))
"""


@pytest.mark.slow
def test_any_seed_of_pythons_hashes(inside: Path) -> None:
    """Sets of texts have another order in every process unless this seed is fixed."""
    expected = {name: hash_merge(prepared(recipe(name))) for name in METHODS}
    root = Path(__file__).parents[2]
    for seed in ("1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        run = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS], env=environment, capture_output=True, text=True, check=True
        )
        assert json.loads(run.stdout) == expected


def test_another_seed_gives_another_draw(inside: Path) -> None:
    """What is compared above does depend on the recipe."""
    random = [name for name in METHODS if METHODS[name].schema.random]
    for name in random:
        assert hash_merge(prepared(recipe(name))) != hash_merge(prepared(recipe(name).replace("seed: 3", "seed: 4")))
    assert random
