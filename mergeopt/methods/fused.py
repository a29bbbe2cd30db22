"""A merge as its terms, base + Σ_i s_i mask_i δ_i or TIES' election over them, for the compiled kernels.

A method that gives its `terms` is merged so where large bfloat16 tensors become one on a CPU: from the stored bits to
the merged ones in one pass. Everywhere else, and for gradients, its function says the same, to the last bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mergeopt.methods.chunks import Chunks, Narrow
from mergeopt.methods.cutoff import Cutoff
from mergeopt.methods.steps import restoring

Bytes = npt.NDArray[np.uint8]
MaskBytes = Callable[[int, Narrow, Bytes], None]
"""Fills in what the deltas of a source are multiplied with in these elements, uint8 [length]."""


@dataclass(frozen=True, slots=True)
class Election:
    """TIES' election and mean, as `steps.elected_mean` takes it: w [n], whether to divide, λ."""

    weight: Tensor
    normalize: bool
    lambda_: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What a tensor's merge is made of.

    Attributes:
        scale: s [n], float64.
        election: None for the plain sum.
        cutoffs: What is left of each delta; all of it where there are none.
        mask: What each delta is multiplied with, after that.
        base: s of the base, 0-D, where the terms are the sources beside it and not their deltas: s base + Σ_i s_i x_i.
    """

    scale: Tensor
    election: Election | None = None
    cutoffs: Sequence[Cutoff] = ()
    mask: MaskBytes | None = None
    base: Tensor | None = None

    def merged(self, narrow: Narrow) -> Tensor:
        """bfloat16 [b]."""
        from mergeopt.methods import compiled

        n, length = len(self.scale), narrow.length
        limits, within = np.full((n, 2), -1, np.float32), np.zeros(n, np.int64)
        for i, cutoff in enumerate(self.cutoffs):
            limits[i], within[i] = cutoff.limits(), cutoff.within(narrow.start, length)
        masks = np.zeros((0, 0), np.uint8)
        if self.mask is not None:
            masks = np.empty((n, length), np.uint8)
            for i, row in enumerate(masks):
                self.mask(i, narrow, row)
        share = np.zeros(0, np.float32) if self.base is None else self.base.float().view(1).numpy()
        out = torch.empty(length, dtype=torch.bfloat16)
        compiled.merge(
            narrow.rows, narrow.has_base, share, limits, within, masks, self.scale.float().numpy(), self._election(),
            out.view(torch.uint16).numpy(),
        )  # fmt: skip
        return out

    def _election(self) -> npt.NDArray[np.float32]:
        if self.election is None:
            return np.zeros(0, np.float32)
        weight, lambda_ = self.election.weight.float(), torch.tensor([self.election.lambda_])
        shares = weight if self.election.normalize else torch.full_like(weight, torch.nan)
        return torch.cat([shares, weight.min().view(1), lambda_.float()]).numpy()


def masked_factors(chunks: Chunks, mask: MaskBytes, n: int) -> Tensor:
    """`steps.norm_factors` of n deltas, from the stored bits: Σ|δ_i| / Σ|mask_i δ_i| of the whole tensor [n]."""
    from mergeopt.methods import compiled

    assert chunks.narrow is not None
    found = np.zeros((2, n))
    for narrow in chunks.narrow():
        found_mask = np.empty(narrow.length, np.uint8)
        for i, source in enumerate(narrow.sources):
            mask(i, narrow, found_mask)
            found[:, i] += compiled.norms(source, narrow.base, found_mask)
    return restoring(*torch.from_numpy(found))
