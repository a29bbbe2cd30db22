"""A model's weights read once: is every number finite, what are the hashes, does the config describe them?"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import xxhash

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.hashing import Progress
from mergeopt.checkpoint.reader import byte_view, torch_dtype
from mergeopt.errors import InputError
from mergeopt.merge.finite import is_finite
from mergeopt.merge.live import bind, skeleton
from mergeopt.merge.names import is_buffer

_BLOCK = 1 << 20  # elements
_THREADS = 4


@dataclass(frozen=True)
class Read:
    """`digests`: xxh3-128 (hexadecimal) of every tensor's bytes; `broken`: tensors with NaN or infinity."""

    digests: Mapping[str, str]
    broken: tuple[str, ...]


def read_through(checkpoint: Checkpoint, progress: Progress | None = None) -> Read:
    """Reads every tensor, block by block.

    Raises:
        MergeoptError: the files cannot be read, or change meanwhile.
    """
    with checkpoint.reader() as reader:

        def look(name: str) -> tuple[str, bool]:
            stored, digest, finite = checkpoint.tensors[name], xxhash.xxh3_128(), True
            block = torch.empty(min(stored.numel, _BLOCK), dtype=torch_dtype(stored.dtype))
            for start in range(0, stored.numel, _BLOCK):
                part = block[: min(_BLOCK, stored.numel - start)]
                reader.read_into(name, start, part)
                digest.update(byte_view(part))
                finite = finite and is_finite(part)
                if progress:
                    progress(part.nbytes)
            return digest.hexdigest(), finite

        with ThreadPoolExecutor(_THREADS, thread_name_prefix="submit") as pool:
            found = dict(zip(checkpoint.tensors, pool.map(look, checkpoint.tensors), strict=True))
    return Read({name: each[0] for name, each in found.items()}, tuple(n for n, each in found.items() if not each[1]))


def misfits(checkpoint: Checkpoint) -> list[str]:
    """How the tensors differ from those of the model that config.json describes; nothing of them is read.

    Raises:
        InputError: transformers cannot build that model as a causal language model.
    """
    model = skeleton(checkpoint.folder, checkpoint.config, torch.device("cpu"), torch.bfloat16)
    names = [info.name for info in checkpoint.shape if not is_buffer(info)]
    try:
        views = bind(model, names)
    except InputError as error:
        return [error.problem.replace("no source has", "the weights lack")]
    return [
        f"{name} is {list(checkpoint.tensors[name].shape)}, by config.json {list(views[name].shape)}"
        for name in names
        if tuple(views[name].shape) != tuple(checkpoint.tensors[name].shape)
    ]
