"""The questions that models are asked when data is given, and how well they answer: in nats, and by the evals' metrics.

The smooth loss of the right answers is what paths are measured with: it moves where a 0/1 score does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergeopt.errors import InputError
from mergeopt.scoring.base import Split
from mergeopt.scoring.encoding import Encoder
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.learning.lessons import Lesson, lessons_of
from mergeopt.scoring.learning.loss import Kind, LessonBatch, Targets, evaluate
from mergeopt.scoring.learning.packing import PackedLessons
from mergeopt.scoring.learning.teacher import PASS, Teacher
from mergeopt.scoring.suite import Suite

SPLIT: Split = "search"  # never the items that a search reports on
LESSONS = 64  # per eval
POSITIONS = 512  # whose hidden states are compared


@dataclass(frozen=True)
class Exam:
    """Lessons of each eval that has any, packed end to end."""

    lessons: Mapping[str, Sequence[Lesson]]
    device: torch.device
    batching: Batching

    @classmethod
    def of(cls, suite: Suite, encoder: Encoder, device: torch.device, rows: int | None) -> "Exam":
        """The first lessons of every eval.

        Raises:
            InputError: no eval has any.
        """
        found = {info.name: lessons_of(suite, info.name, SPLIT, encoder)[:LESSONS] for info in suite.evals}
        asked = {name: some for name, some in found.items() if some}
        if not asked:
            raise InputError("no eval has right answers whose likelihood could be taken", remedy="give another --eval")
        return cls(asked, device, Batching(rows, PASS))

    def losses(self, model: Any, evals: Sequence[str] | None = None) -> dict[str, float]:
        """Nats per answer token of each eval, the mean over its lessons.

        Raises:
            NonFiniteError: the model computed NaN or Inf.
        """
        return {name: self._loss(model, self.lessons[name], "nll") for name in evals or self.lessons}

    def targets(self, model: Any, name: str, encoder: Encoder) -> Targets:
        """What the model says at each answer token of an eval."""
        return Teacher("diagnosed", lambda: model, encoder, None, self.batching).targets(self.lessons[name])

    def divergence(self, model: Any, name: str, targets: Targets) -> float:
        """KL(targets ‖ model) in nats per answer token of an eval."""
        return self._loss(model, self.lessons[name], "kl", targets)

    @torch.inference_mode()
    def states(self, model: Any, layer: int) -> Tensor:
        """Hidden states after `layer` layers where answers are predicted: [n, d] float32, at most `POSITIONS` rows."""
        whole = PackedLessons([lesson for lessons in self.lessons.values() for lesson in lessons])
        body = getattr(model, model.base_model_prefix)
        rows = torch.empty(whole.answer_tokens, model.config.get_text_config().hidden_size)
        for batch in whole.batches(np.arange(len(whole)), self.batching, self.device):
            states = body(batch.ids, output_hidden_states=True).hidden_states[layer]
            rows[batch.answer.cpu()] = states[batch.row, batch.column + batch.first].float().cpu()
        return rows[:: max(1, -(-len(rows) // POSITIONS))]

    def _loss(self, model: Any, lessons: Sequence[Lesson], kind: Kind, targets: Targets | None = None) -> float:
        packed = PackedLessons(lessons)
        batches = packed.batches(np.arange(len(packed)), self.batching, self.device)
        made = []
        for batch in batches:
            here = None if targets is None else _rows(targets, batch.answer.cpu())
            made.append(LessonBatch(batch, kind, torch.full((len(batch.lessons),), 1 / len(packed)), here))
        return evaluate(model, made).mean


def similarity(a: Tensor, b: Tensor) -> float:
    """Linear CKA of two models' hidden states [n, d] at the same places (Kornblith et al. 2019, arXiv 1905.00414)."""
    first, second = (_centred(x.double() @ x.double().T) for x in (a, b))
    return float((first * second).sum() / (first.norm() * second.norm()))


def _centred(gram: Tensor) -> Tensor:
    rows = gram - gram.mean(0, keepdim=True)
    return rows - rows.mean(1, keepdim=True)


def _rows(targets: Targets, rows: Tensor) -> Targets:
    return Targets(targets.ids[rows], targets.top[rows], targets.tail[rows])
