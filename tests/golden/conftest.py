"""mergekit 0.1.5 in this process, and models on which no two magnitudes are equal."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import Weights, llama_weights, read_weights, write_model

LAYERS = 3


@pytest.fixture(scope="session")
def mergekit() -> Callable[..., Weights]:
    """``mergekit(recipe text, folder, seed)``: what mergekit makes of a recipe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own dependencies' deprecations
        pytest.importorskip("mergekit")
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

    def merge(text: str, out: Path, seed: int | None = None) -> Weights:
        options = MergeOptions(write_model_card=False, copy_tokenizer=False, quiet=True, random_seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(out), options)
        return read_weights(out)

    return merge


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `a`, `b`, `c` in float32, and the same in bfloat16 as `base16` … `c16`."""
    folder = tmp_path_factory.mktemp("golden")
    base = llama_weights(LAYERS)
    for seed, name in enumerate(("base", "a", "b", "c")):
        noise = llama_weights(LAYERS, seed + 1)
        weights = {k: t if seed == 0 else t + 0.2 * noise[k] for k, t in base.items()}
        write_model(folder / name, weights)
        write_model(folder / f"{name}16", {k: t.bfloat16() for k, t in weights.items()}, dtype="bfloat16")
    return folder


@pytest.fixture(autouse=True)
def inside(sources: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.chdir(sources)
    yield
    torch.set_num_threads(threads)
