"""The few tensors whose names mean something to a merge: embeddings, head, and buffers nobody needs."""

from mergeopt.recipe.shape import Shape, TensorInfo

_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "shared.weight")

# What old checkpoints carry and models compute for themselves.
_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attention.bias", ".attn.masked_bias", ".attention.masked_bias")


def is_head(name: str) -> bool:
    """Is it the output matrix over the vocabulary?"""
    return name.endswith(_HEADS) or name == "output.weight"


def is_embedding(name: str) -> bool:
    """Is it a token embedding matrix?"""
    return name.endswith(_EMBEDDINGS)


def is_buffer(info: TensorInfo) -> bool:
    """Is it a causal mask or a table of frequencies that the model computes for itself? (A real bias is 1-D.)"""
    name = f".{info.name}"
    return name.endswith(_BUFFERS) and (name.endswith("inv_freq") or len(info.shape) != 1)


def embedding_of(shape: Shape) -> TensorInfo | None:
    """The token embedding matrix."""
    return next((info for info in shape.outer if is_embedding(info.name) and len(info.shape) == 2), None)


def stands_before_layers(name: str) -> bool:
    """Does it work on tokens before the first layer? Only such tensors come from a recipe's first slice."""
    return "embed" in name.removesuffix("embed_out.weight") or ".wte." in f".{name}" or ".wpe." in f".{name}"
