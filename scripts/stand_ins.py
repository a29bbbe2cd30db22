#!/usr/bin/env python
"""Writes a tiny random model for every model that a recipe names, with as many layers as the real ones have.

With them a recipe over 70B models can be validated, explained and even merged on a laptop, without a download:
everything about a merge but the numbers in the tensors depends on names, shapes and layers alone.

    scripts/stand_ins.py neuralpipe.yaml stand-ins --layers 32
    mergeopt explain stand-ins/neuralpipe.yaml
"""

import argparse
import json
import shutil
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_documents
from mergeopt.recipe.stages import read_stages

HIDDEN, INNER, VOCABULARY = 16, 24, 32
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
}


def weights(layers: int, seed: int) -> dict[str, Tensor]:
    """A Llama's tensors: what all stand-ins share, and a little of their own."""
    random = [torch.Generator().manual_seed(seed) for seed in (0, seed)]

    def draw(*shape: int) -> Tensor:
        shared, own = (torch.randn(*shape, generator=generator) for generator in random)
        return (shared + 0.1 * own).to(torch.bfloat16)

    made = {"model.embed_tokens.weight": draw(VOCABULARY, HIDDEN)}
    for layer in range(layers):
        place = f"model.layers.{layer}"
        made |= {f"{place}.self_attn.{x}_proj.weight": draw(HIDDEN, HIDDEN) for x in "qkvo"}
        made |= {f"{place}.mlp.{x}_proj.weight": draw(INNER, HIDDEN) for x in ("gate", "up")}
        made[f"{place}.mlp.down_proj.weight"] = draw(HIDDEN, INNER)
        made |= {f"{place}.{x}_layernorm.weight": draw(HIDDEN) for x in ("input", "post_attention")}
    return made | {"model.norm.weight": draw(HIDDEN), "lm_head.weight": draw(VOCABULARY, HIDDEN)}


def main() -> None:
    """Reads the recipe, writes the models and a copy of the recipe beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    models = read_stages(read_documents(options.recipe), SCHEMAS).models
    for ref in models:
        folder = options.folder / ref.path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": options.layers}))
        save_file(weights(options.layers, zlib.crc32(ref.path.encode())), folder / "model.safetensors")
    shutil.copy(options.recipe, options.folder)
    print(f"{len(models)} models of {options.layers} layers and {options.recipe.name} in {options.folder}")


if __name__ == "__main__":
    main()
