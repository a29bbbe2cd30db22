"""What a model looks like from outside: its tensors' names, sizes and layers, and no weights.

`Shape` is how facts about checkpoints reach the recipe and the space, which know nothing of files or torch.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

# What works on the input before the first layer of the language model; what else is no layer comes after the last.
# (LFM2's embedding_norm is its last norm.)
_BEFORE = re.compile(r"embed(?!_out|ding_norm)|(^|\.)(w[tp]e|shared)\.|project_in|projector|connector|merger|patch")
_TOWER = re.compile(r"vis|image|video|audio|speech|(^|\.)encoder")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint.

    A tensor of a layer is named ``{stack}.{layer}.{part}`` (``model.layers.3.mlp.up_proj.weight``); an *outer* tensor
    belongs to no layer: `stack` is "", `layer` is None and `part` is its whole name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # torch's name without the prefix: "bfloat16"
    stack: str
    layer: int | None
    part: str

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def outer(self) -> bool:
        return self.layer is None

    def name_at(self, layer: int) -> str:
        """This tensor's name in another layer of the same stack; an outer tensor keeps its name."""
        return self.name if self.layer is None else f"{self.stack}.{layer}.{self.part}"


@dataclass(frozen=True)
class Shape:
    """The tensors of one model, in the order of its files, and the number of layers of each stack."""

    tensors: Mapping[str, TensorInfo]
    stacks: Mapping[str, int]  # "model.layers" -> 32; encoder-decoders have two

    @cached_property
    def main(self) -> str:
        """The stack that `layer_range` and a search's depth speak of: the language model's; "" where there is none.

        It is filed nearest to the token embeddings, the tallest matrix of no layer (``language_model.model.layers``
        beside ``language_model.model.embed_tokens``), so that a longer vision tower is not taken for it; of several
        equally near, as in T5, the longest.
        """

        def rank(stack: str) -> tuple[int, int]:
            return max((_shared(stack, info.name) for info in self._tallest), default=0), self.stacks[stack]

        return max(self.stacks, key=rank, default="")

    @property
    def layers(self) -> int:
        """Layers of the main stack."""
        return self.stacks.get(self.main, 0)

    @property
    def embedding(self) -> TensorInfo | None:
        """The token embedding matrix, [vocabulary, hidden]."""
        return max(self._tallest, key=lambda info: _shared(self.main, info.name), default=None)

    def before_layers(self, info: TensorInfo) -> bool:
        """Does it work before the main stack's first layer: an embedding, a vision tower, an encoder?

        Only such tensors come from a recipe's first slice; all others of no layer come from its last.
        """
        near = max((_shared(stack, info.name) for stack in self.stacks if stack != self.main), default=0)
        if near > _shared(self.main, info.name):
            return bool(_TOWER.search(info.stack or info.name))
        return bool(_BEFORE.search(info.name))

    @cached_property
    def _tallest(self) -> tuple[TensorInfo, ...]:
        """Matrices of no layer with the most rows, tables of positions aside."""
        matrices = [info for info in self.outer if len(info.shape) == 2 and "pos" not in info.name]
        rows = max((info.shape[0] for info in matrices), default=0)
        return tuple(info for info in matrices if info.shape[0] == rows)

    @property
    def outer(self) -> tuple[TensorInfo, ...]:
        """Tensors that belong to no layer: embeddings, final norm, head."""
        return tuple(t for t in self.tensors.values() if t.outer)

    def __iter__(self) -> Iterator[TensorInfo]:
        return iter(self.tensors.values())


def _shared(stack: str, name: str) -> int:
    """How many words two names begin with in common."""
    count = 0
    for a, b in zip(stack.split("."), name.split("."), strict=False):
        if a != b:
            break
        count += 1
    return count
