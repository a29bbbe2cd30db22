"""Tiny random models of many families, as transformers saves them: a base and two fine-tunes of it.

A family is a config and a model class, nothing more: what a merge must know of it has to be read off its folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

VOCAB = 80  # more than any other matrix has rows, as in every real model
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": VOCAB,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = SIZES | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
PATCHES = {"image_size": 8, "patch_size": 4, "num_channels": 3}
VISION = {k: v for k, v in SIZES.items() if k.startswith(("hidden", "num_h", "num_a", "inter"))} | PATCHES


@dataclass(frozen=True)
class Family:
    """`kind` says what goes in: "text", "image", "both", "grid", "contrast", "speech" or "pairs"."""

    name: str
    model: str
    config: str
    kind: str
    fields: dict[str, Any]

    def deep(self, layers: int) -> "Family":
        """The family with another number of layers in its language model."""
        part = self.fields.get("text_config", self.fields)
        keys = [key for key in ("num_hidden_layers", "n_layer", "num_layers", "decoder_layers") if key in part]
        changed = {**part, **dict.fromkeys(keys, layers)}
        return replace(
            self, fields={**self.fields, "text_config": changed} if "text_config" in self.fields else changed
        )

    def build(self) -> Any:
        """A new model."""
        return getattr(transformers, self.model)(getattr(transformers, self.config)(**self.fields))


def _family(name: str, model: str, config: str, kind: str = "text", **fields: Any) -> Family:
    return Family(name, model, config, kind, fields)


GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": VOCAB, "n_positions": 32}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}


def _causal(name: str, stem: str, **fields: Any) -> Family:
    return _family(name, f"{stem}ForCausalLM", f"{stem}Config", **{**SIZES, **fields})


DECODERS = (
    _causal("llama", "Llama", tie_word_embeddings=False),
    _causal("llama-biases", "Llama", attention_bias=True, mlp_bias=True),
    _causal("llama-tied", "Llama", tie_word_embeddings=True),
    _causal("mistral", "Mistral"),
    _causal("qwen2", "Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1),
    _causal("qwen3", "Qwen3", head_dim=8, tie_word_embeddings=True),
    _causal("gemma2", "Gemma2", head_dim=8, sliding_window=4),
    _family("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", **SIZES, head_dim=8, sliding_window=4),
    _causal("phi3", "Phi3"),
    _causal("olmo2", "Olmo2"),
    _causal("stablelm", "StableLm"),
    _causal("gpt-neox", "GPTNeoX", tie_word_embeddings=False),
    _causal("falcon", "Falcon", bias=True),
    _causal("opt", "OPT", ffn_dim=24, word_embed_proj_dim=16),
    _family("gpt2", "GPT2LMHeadModel", "GPT2Config", **GPT2),
    _causal("bloom", "Bloom", n_layer=2, n_head=2),
    _causal("mixtral", "Mixtral", **EXPERTS),
    _causal("qwen3-moe", "Qwen3Moe", **EXPERTS, head_dim=8, decoder_sparse_step=1, mlp_only_layers=[]),
    _causal(
        "deepseek-v3",
        "DeepseekV3",
        **EXPERTS,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        n_shared_experts=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    ),
    _causal("mamba", "Mamba", state_size=4),
    _causal("mamba2", "Mamba2", state_size=4, num_heads=4, head_dim=8, n_groups=1, chunk_size=4),
    _causal(
        "jamba",
        "Jamba",
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
    ),
)
ENCODERS = (
    _family("bert", "BertForMaskedLM", "BertConfig", **SIZES),
    _family("roberta-classifier", "RobertaForSequenceClassification", "RobertaConfig", num_labels=3, **SIZES),
    _family("deberta-v2", "DebertaV2ForMaskedLM", "DebertaV2Config", **SIZES),
    _family("modernbert", "ModernBertForMaskedLM", "ModernBertConfig", **SIZES, cls_token_id=1, sep_token_id=2),
    _family("llama-classifier", "LlamaForSequenceClassification", "LlamaConfig", num_labels=3, **SIZES),
    _family("vit", "ViTForImageClassification", "ViTConfig", "image", num_labels=3, **VISION),
)
SPEECH = {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in (("ffn_dim", 24), ("attention_heads", 2))}
ENCODER_DECODERS = (
    _family(
        "t5",
        "T5ForConditionalGeneration",
        "T5Config",
        "pairs",
        d_model=16,
        d_ff=24,
        d_kv=8,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=2,
        vocab_size=VOCAB,
        decoder_start_token_id=0,
    ),
    _family(
        "bart",
        "BartForConditionalGeneration",
        "BartConfig",
        "pairs",
        d_model=16,
        encoder_layers=2,
        decoder_layers=3,
        vocab_size=VOCAB,
        max_position_embeddings=32,
        **SPEECH,
    ),
    _family(
        "whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        "speech",
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        vocab_size=VOCAB,
        num_mel_bins=8,
        max_source_positions=8,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        **SPEECH,
    ),
)


TOWER = VISION | {"num_hidden_layers": 3}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
MULTIMODAL = (
    _family("clip", "CLIPModel", "CLIPConfig", "contrast", text_config=SIZES, vision_config=TOWER, projection_dim=8),
    _family(
        "llava",
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        "both",
        text_config=SIZES | {"model_type": "llama"},
        vision_config=TOWER | {"model_type": "clip_vision_model", "projection_dim": 8},
        image_token_index=47,
    ),
    _family(
        "qwen2-vl",
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        "grid",
        text_config=SIZES | {"rope_parameters": ROPE},
        vision_config={"depth": 3, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2},
        image_token_id=47,
        vision_start_token_id=46,
    ),
    _family(
        "gemma3-multimodal",
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        "both",
        text_config=SIZES | {"head_dim": 8, "sliding_window": 4},
        vision_config=TOWER,
        mm_tokens_per_image=4,
        image_token_index=47,
    ),
)
LINEAR_ATTENTION = {f"linear_{part}": 2 for part in ("num_key_heads", "num_value_heads")}
LINEAR_ATTENTION |= {f"linear_{part}_head_dim": 4 for part in ("key", "value")}
MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 4, "n_groups": 1}
FURTHER = (
    _causal("gpt-neo", "GPTNeo", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4),
    _causal("cohere2", "Cohere2", head_dim=8, sliding_window=4),
    _causal("smollm3", "SmolLM3"),
    _causal("gpt-oss", "GptOss", **EXPERTS, head_dim=8, sliding_window=4),
    _causal("qwen2-moe", "Qwen2Moe", **EXPERTS, shared_expert_intermediate_size=8, decoder_sparse_step=2),
    _causal(
        "qwen3-next",
        "Qwen3Next",
        **EXPERTS | LINEAR_ATTENTION | {"num_hidden_layers": 4},
        head_dim=8,
        shared_expert_intermediate_size=8,
    ),
    _family("llama4", "Llama4ForCausalLM", "Llama4TextConfig", **EXPERTS, head_dim=8, intermediate_size_mlp=16),
    _causal("nemotron-h", "NemotronH", **MAMBA, hybrid_override_pattern="M-*-", head_dim=8),
    _causal("recurrent-gemma", "RecurrentGemma", lru_width=16, head_dim=8, num_hidden_layers=3),
    _causal(
        "zamba2",
        "Zamba2",
        mamba_d_state=4,
        mamba_headdim=8,
        n_mamba_heads=4,
        mamba_ngroups=1,
        num_hidden_layers=4,
        hybrid_layer_ids=[1, 3],
        layers_block_type=["mamba", "hybrid"] * 2,
        num_mem_blocks=1,
    ),
    _family("resnet", "ResNetForImageClassification", "ResNetConfig", "image", depths=[1, 1], hidden_sizes=[8, 16]),
    _family("dinov2", "Dinov2Model", "Dinov2Config", "image", **VISION),
    _family(
        "paligemma",
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        "both",
        text_config=SIZES | {"model_type": "gemma", "head_dim": 8},
        vision_config=TOWER | {"model_type": "siglip_vision_model", "projection_dim": 16, "vision_use_head": False},
        image_token_index=47,
        projection_dim=16,
    ),
)
COMMON = (*DECODERS, *ENCODERS, *ENCODER_DECODERS, *MULTIMODAL)
FAMILIES = {family.name: family for family in (*COMMON, *FURTHER)}


def save(
    family: Family, folder: Path, names: Sequence[str] = ("m0", "m1", "m2"), dtype: torch.dtype = torch.float32
) -> list[Path]:
    """Models of the family in folders of these names: the first is the base, the others are near it.

    Every number of a state dict is random, also what transformers starts at 0 or 1.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family.build()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for i, out in enumerate(names):
        random = torch.Generator().manual_seed(i)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=random)
                if i == 0:
                    base[name] = base[name] + 0.1 * noise
                tensor.copy_(base[name] if i == 0 else base[name] + 0.05 * noise)
        model.to(dtype).save_pretrained(folder / out)
        model.float()
    return [folder / out for out in names]


def inputs(family: Family) -> dict[str, Tensor]:
    """Something for the model to work on."""
    random = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, 40, (2, 12), generator=random)
    image = torch.randn(2, 3, 8, 8, generator=random)
    if family.kind == "text":
        return {"input_ids": tokens}
    if family.kind == "pairs":
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, :5]}
    if family.kind == "image":
        return {"pixel_values": image}
    if family.kind == "speech":
        return {"input_features": torch.randn(2, 8, 16, generator=random), "decoder_input_ids": tokens[:, :5]}
    if family.kind == "contrast":
        return {"input_ids": tokens, "pixel_values": image}
    tokens[:, 2:6] = 47  # four patches make four image tokens
    if family.kind == "grid":  # 4×4 patches of 2 frames, merged two by two
        patches = torch.randn(32, 3 * 2 * 4 * 4, generator=random)
        kinds = (tokens == 47).int()
        return {
            "input_ids": tokens,
            "pixel_values": patches,
            "image_grid_thw": torch.tensor([[1, 4, 4]] * 2),
            "mm_token_type_ids": kinds,
        }
    return {"input_ids": tokens, "pixel_values": image}
