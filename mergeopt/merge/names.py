"""The few tensors whose names mean something to a merge: embeddings, head, and buffers nobody needs."""

import re

from mergeopt.recipe.shape import TensorInfo

_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|proj_out|output|unembed|decoder)\.weight$")
_EMBEDDING = re.compile(r"(^|\.)(wte|shared|\w*emb\w*)\.weight$")
_NO_TOKENS = re.compile(r"pos|type|patch|segment|class|rel_|norm|embed_out")

# What old checkpoints carry and models compute for themselves.
_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attention.bias", ".attn.masked_bias", ".attention.masked_bias")


def is_head(name: str) -> bool:
    """Is it, among tensors of no layer, the output matrix over the vocabulary?"""
    return _HEAD.search(name) is not None


def is_embedding(name: str) -> bool:
    """Is it a matrix with one row per token of the vocabulary, on the input's side?"""
    found = _EMBEDDING.search(name)
    return found is not None and _NO_TOKENS.search(found[2]) is None


def is_buffer(info: TensorInfo) -> bool:
    """Is it a causal mask or a table of frequencies that the model computes for itself? (A real bias is 1-D.)"""
    name = f".{info.name}"
    return name.endswith(_BUFFERS) and (name.endswith("inv_freq") or len(info.shape) != 1)
