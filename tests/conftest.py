"""Small models, made in a few milliseconds: every test that needs weights on disk starts here."""

import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]
SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


def llama_weights(layers: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32, *, head: bool = True) -> Weights:
    """Random weights under a Llama's names; no two norm weights are equal."""
    random = torch.Generator().manual_seed(seed)
    hidden, inner, vocab = 16, 24, 32

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(dtype)

    weights = {"model.embed_tokens.weight": draw(vocab, hidden)}
    for layer in range(layers):
        place = f"model.layers.{layer}"
        weights |= {f"{place}.self_attn.{x}_proj.weight": draw(hidden, hidden) for x in "qkvo"}
        weights |= {f"{place}.mlp.{x}_proj.weight": draw(inner, hidden) for x in ("gate", "up")}
        weights[f"{place}.mlp.down_proj.weight"] = draw(hidden, inner)
        weights |= {f"{place}.{x}_layernorm.weight": draw(hidden) for x in ("input", "post_attention")}
    weights["model.norm.weight"] = draw(hidden)
    return weights | ({"lm_head.weight": draw(vocab, hidden)} if head else {})


def write_model(folder: Path, weights: Mapping[str, Tensor], *, shards: int = 1, **config: Any) -> Path:
    """A model folder of `weights`; `config` is laid over a small Llama's, with the number of layers found."""
    folder.mkdir(parents=True)
    layers = {name.split(".")[2] for name in weights if name.startswith("model.layers.")}
    fields = SMALL | {"num_hidden_layers": len(layers)} | config
    (folder / "config.json").write_text(json.dumps(fields))
    names = list(weights)
    if shards == 1:
        save_file(dict(weights), folder / "model.safetensors")
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: weights[name] for name in names[number::shards]}, folder / file)
        weight_map |= dict.fromkeys(names[number::shards], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_adapter(folder: Path, modules: Mapping[str, tuple[int, int]], *, rank: int = 2, **config: Any) -> Weights:
    """A LoRA as peft saves it, random factors for `modules` (name -> (out, in)); gives what each adds, unscaled."""
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(7)
    factors, added = {}, {}
    for module, (out, width) in modules.items():
        a, b = (torch.randn(*size, generator=random) / 4 for size in ((rank, width), (out, rank)))
        factors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
        added[f"{module}.weight"] = b @ a
    save_file(factors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": rank, "lora_alpha": rank}
    fields["target_modules"] = sorted({module.rpartition(".")[2] for module in modules})
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    return added


def read_weights(folder: Path) -> Weights:
    """Every tensor of a model folder, by safetensors itself."""
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests share their machine: torch's threads would wait for one another. Those about threads set their own."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """A job in a script's background has Ctrl-C turned off, and so have its children: not those of a test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What teachers said goes away with the test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERGEOPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, holding `base` and two fine-tunes of it, `a` and `b`: Llamas of two layers."""
    base = llama_weights()
    write_model(tmp_path / "base", base)
    for seed, name in enumerate("ab", 1):
        noise = llama_weights(seed=seed)
        write_model(tmp_path / name, {k: t + 0.1 * noise[k] for k, t in base.items()})
    monkeypatch.chdir(tmp_path)
    return tmp_path
