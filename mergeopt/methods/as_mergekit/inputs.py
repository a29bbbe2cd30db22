"""What mergekit's arithmetic is given."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Inputs:
    """One tensor of every source and of the base, whole, of one dtype, on the CPU.

    `random` stands for torch's global generator: of the merge as a whole, so it remembers what was drawn.
    """

    sources: Sequence[Tensor]
    base: Tensor | None
    random: torch.Generator

    @property
    def ground(self) -> Tensor:
        """The base of a method that needs one."""
        assert self.base is not None
        return self.base

    @property
    def deltas(self) -> list[Tensor]:
        """source − base in the inputs' dtype; the sources where there is no base."""
        return [x if self.base is None else x - self.base for x in self.sources]


def wide(x: Tensor) -> Tensor:
    """16-bit numbers as float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
