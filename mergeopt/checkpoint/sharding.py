"""Which tensor goes into which file, decided from sizes alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mergeopt.checkpoint.checkpoint import SINGLE_FILE

DEFAULT_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Shard:
    """One weight file: its name, its tensors in order, and their bytes (without the header)."""

    file: str
    tensors: tuple[str, ...]
    nbytes: int


def plan_shards(sizes: Iterable[tuple[str, int]], max_bytes: int = DEFAULT_SHARD_BYTES) -> tuple[Shard, ...]:
    """Fills shards in the order given; a new one begins where the next tensor would exceed `max_bytes`.

    Args:
        sizes: (tensor name, bytes), in output order.
        max_bytes: Limit of a shard; a single larger tensor gets a shard of its own.
    """
    groups: list[list[str]] = [[]]
    totals = [0]
    for name, nbytes in sizes:
        if groups[-1] and totals[-1] + nbytes > max_bytes:
            groups.append([])
            totals.append(0)
        groups[-1].append(name)
        totals[-1] += nbytes
    count = len(groups)
    files = [SINGLE_FILE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    return tuple(Shard(f, tuple(g), t) for f, g, t in zip(files, groups, totals, strict=True))


def index_document(shards: Sequence[Shard]) -> dict[str, dict[str, int] | dict[str, str]]:
    """The content of ``model.safetensors.index.json``."""
    return {
        "metadata": {"total_size": sum(shard.nbytes for shard in shards)},
        "weight_map": {name: shard.file for shard in shards for name in shard.tensors},
    }
