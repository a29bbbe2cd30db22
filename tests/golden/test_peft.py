"""An adapter read as a view is the model that peft merges, whatever peft can save: within one rounding of its dtype."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.merge.sources import open_models
from mergeopt.recipe.recipe import ModelRef
from tests.conftest import Weights

pytestmark = pytest.mark.golden

GPT2 = {"fan_in_fan_out": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "three modules": ("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"], "lora_alpha": 7}),
    "patterns": (
        "llama",
        {
            "target_modules": r".*\.(q|k)_proj",
            "use_rslora": True,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2},
            "alpha_pattern": {".*k_proj": 3},
        },
    ),
    "embeddings and head": ("llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "saved modules": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "some layers": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "every bias": ("gpt2", {"target_modules": ["c_attn"], "bias": "all"} | GPT2),
    "Conv1D": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "bias": "lora_only"} | GPT2),
    "tied embeddings": ("gpt2", {"target_modules": ["wte", "c_attn"]} | GPT2),
    "a head that was tied": ("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]} | GPT2),
    "experts": ("mixtral", {"target_modules": ["q_proj", "o_proj"]}),
}


def fresh(kind: str, dtype: torch.dtype) -> Any:
    """The same small random model every time."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = {
        "llama": lambda: LlamaConfig(**small),
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, n_positions=32),
        "mixtral": lambda: MixtralConfig(num_local_experts=4, **small),
    }[kind]()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(dtype)


def trained(model: Any, folder: Path, config: dict[str, Any]) -> None:
    """An adapter with random numbers in all of its weights, saved by peft; leaves `model` merged with it."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **config))
        random = torch.Generator().manual_seed(1)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data = (torch.randn(parameter.shape, generator=random) * 0.1).to(parameter.dtype)
        tuned.save_pretrained(folder / "lora")
        tuned.merge_and_unload().save_pretrained(folder / "merged")


def weights(checkpoint: Checkpoint) -> Weights:
    with checkpoint.reader() as reader:
        return {name: reader.tensor(name) for name in checkpoint.tensors}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_the_view_is_what_peft_merges(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    kind, config = CASES[case]
    fresh(kind, dtype).save_pretrained(tmp_path / "base")
    trained(fresh(kind, dtype), tmp_path, config)
    ref = ModelRef(str(tmp_path / "base"), lora=str(tmp_path / "lora"))
    view = open_models([ref], None)[ref]
    assert not [notice for notice in view.notices if "trained on" not in notice]
    found, expected = weights(view), weights(Checkpoint.open(tmp_path / "merged"))
    assert found.keys() == expected.keys() and view.deltas
    one = torch.finfo(dtype).eps
    for name, tensor in expected.items():
        # peft rounds B A to the dtype before adding and the sum after it
        torch.testing.assert_close(found[name].to(dtype), tensor, rtol=one, atol=one * 0.25, msg=name)


def test_a_resized_vocabulary_comes_with_the_adapter(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    fresh("llama", torch.float32).save_pretrained(tmp_path / "base")
    model = fresh("llama", torch.float32)
    model.resize_token_embeddings(70)
    trained(model, tmp_path, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]})
    ref = ModelRef(str(tmp_path / "base"), lora=str(tmp_path / "lora"))
    view = open_models([ref], None)[ref]
    found, expected = weights(view), weights(Checkpoint.open(tmp_path / "merged"))
    assert view.config["vocab_size"] == 70 and found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items() if name not in view.deltas)
