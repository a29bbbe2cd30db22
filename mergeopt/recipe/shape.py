"""What a model looks like from outside: its tensors' names, sizes and layers, and no weights.

`Shape` is how facts about checkpoints reach the recipe and the space, which know nothing of files or torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod


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
    def layers(self) -> int:
        """Layers of the longest stack, the one that `layer_range` and depth speak of."""
        return max(self.stacks.values(), default=0)

    @property
    def outer(self) -> tuple[TensorInfo, ...]:
        """Tensors that belong to no layer: embeddings, final norm, head."""
        return tuple(t for t in self.tensors.values() if t.outer)

    def __iter__(self) -> Iterator[TensorInfo]:
        return iter(self.tensors.values())
