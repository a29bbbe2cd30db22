"""Parts of a model by the names of its tensors: attention, MLP and norms, or single modules."""

from typing import Literal

from mergeopt.recipe.shape import TensorInfo

REST = "rest"

# The first path segment that says one of these decides: post_attention_layernorm is a norm, self_attn.q_norm attention.
BLOCKS = {
    "norm": ("norm", "ln_", "ln1", "ln2"),
    "attention": ("attn", "attention"),
    "mlp": ("mlp", "feed_forward", "feedforward", "ffn", "expert", "moe", "fc1", "fc2", "densereludense"),
}


def part_of(split: tuple[str, ...] | Literal["blocks", "modules"] | None, name: str, info: TensorInfo) -> str:
    """The part that a tensor belongs to: a filter, a block or a module; "" where nothing is split.

    Args:
        split: As the hole has it. Filters: the first that is a substring of `name` wins.
        name: The tensor's name as filters see it.
        info: The tensor: blocks and modules look at what follows the layer number.
    """
    if split is None:
        return ""
    if split == "blocks":
        return _block(info.part)
    if split == "modules":
        return REST if info.outer else module_of(info.part)
    return next((word for word in split if word in name), REST)


def module_of(part: str) -> str:
    """``self_attn.q_proj.weight`` → ``q_proj``"""
    segments = part.split(".")
    if len(segments) > 1 and segments[-1] in ("weight", "bias"):
        return segments[-2]
    return segments[-1]


def _block(part: str) -> str:
    for segment in part.lower().split("."):
        for block, words in BLOCKS.items():
            if any(word in segment for word in words):
                return block
    return REST
