import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from mergeopt.diagnose.diagnosis import Diagnosis, diagnose
from mergeopt.diagnose.subjects import Subjects, subjects
from mergeopt.recipe.recipe import ModelRef
from tests.conftest import Weights, llama_weights, write_model
from tests.study.conftest import _data_cache, work

__all__ = ["_data_cache", "work"]

LAYERS = 4
Change = Callable[[Weights], Weights]


def refs(*names: str) -> list[ModelRef]:
    return [ModelRef(name) for name in names]


def opened(*models: str, base: Sequence[str] = ("base",)) -> Subjects:
    """Models of the working folder."""
    return subjects(refs(*models), refs(*base), None)


def diagnosed(*models: str, base: Sequence[str] = ("base",)) -> Diagnosis:
    return diagnose(opened(*models, base=base))


def tuned(seed: int, size: float = 0.01) -> Weights:
    """The base with noise of its own on every element."""
    noise = llama_weights(LAYERS, seed=seed)
    return {name: t + size * noise[name] for name, t in llama_weights(LAYERS).items()}


def tokenizer_files(folder: Path, tokens: Sequence[str], *, eos: str = "</s>") -> None:
    vocab = {token: index for index, token in enumerate(tokens)}
    document = {"model": {"type": "WordLevel", "vocab": vocab, "unk_token": tokens[0]}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: `base`, and `a` and `b`, small and unrelated fine-tunes of it."""
    write_model(tmp_path / "base", llama_weights(LAYERS))
    write_model(tmp_path / "a", tuned(1))
    write_model(tmp_path / "b", tuned(2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def permuted(weights: Weights) -> Weights:
    """The same function: the units of every MLP in another order."""
    order = torch.randperm(24, generator=torch.Generator().manual_seed(5))
    found = dict(weights)
    for name, tensor in weights.items():
        if "gate_proj" in name or "up_proj" in name:
            found[name] = tensor[order].contiguous()
        if "down_proj" in name:
            found[name] = tensor[:, order].contiguous()
    return found
