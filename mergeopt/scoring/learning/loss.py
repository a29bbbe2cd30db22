"""Smooth losses of the resident model on lessons, and their gradient in micro-batches.

The weights of the lessons make the sum of all micro-batches the mean over domains of the mean over lessons, so what a
step learns does not depend on how it is cut. Retention of what a base can do is the KL loss with the base as teacher.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from mergeopt.scoring.base import NonFiniteError
from mergeopt.scoring.learning.distribution import answer_logits, coarse
from mergeopt.scoring.learning.packing import PaddedLessons, Positions

Kind = Literal["nll", "kl", "entropy"]


@dataclass(frozen=True, slots=True)
class Targets:
    """A teacher's next-token distribution at each of P answer tokens, coarse: its k likeliest tokens and the rest.

    ids: [P, k] int32. top: [P, k] float32 log-probabilities. tail: [P] float32, the log-probability of all other tokens
    (−inf where k is the vocabulary).
    """

    ids: Tensor
    top: Tensor
    tail: Tensor

    def to(self, device: torch.device) -> "Targets":
        """The same on a device."""
        return Targets(self.ids.to(device), self.top.to(device), self.tail.to(device))


@dataclass(frozen=True, slots=True)
class LessonBatch:
    """Padded lessons, the loss they are judged by, the weight of each in the whole ([R] float32), and for "kl" the
    teacher's distributions at their answer tokens."""

    padded: PaddedLessons
    kind: Kind
    weight: Tensor
    targets: Targets | None = None


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss of each lesson, in nats per answer token, by ascending position in the curriculum.

    lessons: [N] positions. values: [N]. weights: [N], as given by the batches. tokens: what went through the model.
    """

    lessons: Positions
    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    tokens: int

    @property
    def mean(self) -> float:
        """The weighted sum: what `backward` differentiates."""
        return float(self.values @ self.weights)


def losses(model: PreTrainedModel, batch: LessonBatch) -> Tensor:
    """The mean over each lesson's answer tokens of one loss: [R] float32, differentiable in the model's weights.

    nll: −log q(answer). kl: KL(teacher ‖ model) over the teacher's top tokens and the rest as one, a lower bound of the
    true one that is exact where the top is the vocabulary. entropy: of the model itself, without a teacher (AdaMerging,
    Yang et al. 2024, arXiv 2310.02575); for comparison: it rewards being sure, not being right.
    """
    padded = batch.padded
    logits = answer_logits(model, padded)
    if batch.kind == "nll":
        found = cross_entropy(logits, padded.target.to(logits.device), reduction="none")
    elif batch.kind == "kl":
        assert batch.targets is not None
        found = _divergence(logits, batch.targets)
    else:
        scores = logits.log_softmax(1)
        found = -(scores.exp() * scores).sum(1)
    row, place = padded.row.to(logits.device), padded.place.to(logits.device)
    table = found.new_zeros(len(padded.lessons), int(place.max()) + 1)
    table = table.index_put((row, place), found)  # a sum along rows has a fixed order; index_add on a GPU has none
    return table.sum(1) / torch.bincount(row, minlength=len(table))


def _divergence(logits: Tensor, targets: Targets) -> Tensor:
    here = targets.to(logits.device)
    log_q, log_rest = coarse(logits, here.ids.long())
    found = (here.top.exp() * (here.top - log_q)).sum(1)
    if here.ids.shape[1] == logits.shape[1]:
        return found
    return found + here.tail.exp() * (here.tail.clamp(min=-1e4) - log_rest)  # where there is no rest: 0 · −1e4


def backward(model: PreTrainedModel, batches: Iterable[LessonBatch]) -> Losses:
    """One `.backward()` per batch, of the weighted sum of its losses; gradients go where the weights' hooks take them.

    Raises:
        NonFiniteError: The model computed NaN or Inf; the gradients are worthless then.
    """
    with torch.enable_grad():
        return _collect((batch, _learn(model, batch)) for batch in batches)


@torch.no_grad()
def evaluate(model: PreTrainedModel, batches: Iterable[LessonBatch]) -> Losses:
    """The same losses without gradients.

    Raises:
        NonFiniteError: The model computed NaN or Inf.
    """
    return _collect((batch, losses(model, batch)) for batch in batches)


def _learn(model: PreTrainedModel, batch: LessonBatch) -> Tensor:
    found = losses(model, batch)
    (found * batch.weight.to(found.device)).sum().backward()  # type: ignore[no-untyped-call]
    return found.detach()


def _collect(done: Iterable[tuple[LessonBatch, Tensor]]) -> Losses:
    batches, found = zip(*done, strict=True)  # there is at least one
    values = torch.cat([part.double() for part in found]).cpu().numpy()  # one wait for the device
    if not np.isfinite(values).all():
        raise NonFiniteError("the model computed NaN or Inf")
    lessons = np.concatenate([batch.padded.lessons for batch in batches])
    weights = torch.cat([batch.weight.double() for batch in batches]).cpu().numpy()
    order = np.argsort(lessons, kind="stable")
    return Losses(lessons[order], values[order], weights[order], sum(batch.padded.tokens for batch in batches))
