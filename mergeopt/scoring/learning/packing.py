"""Lessons as flat tensors, made once, and padded batches cut out of them without a loop over tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mergeopt.scoring.forward import Batching
from mergeopt.scoring.learning.lessons import Lesson

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PaddedLessons:
    """One padded forward pass. K answer tokens of R lessons are read from its logits.

    ids: [R, T] int64, right-padded (causal attention never looks there). first: the first column of logits to read.
    row, column, target, place: [K]: where to read, which token, and which of its lesson's. answer: [K] rows among all
    answer tokens of the packed lessons. lessons: [R] positions among the packed lessons.
    """

    ids: Tensor
    first: int
    row: Tensor
    column: Tensor
    target: Tensor
    place: Tensor
    answer: Tensor
    lessons: Positions
    tokens: int  # padding not counted


class PackedLessons:
    """The tokens of many lessons, end to end."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self.flat = torch.tensor([t for lesson in lessons for t in (*lesson.context, *lesson.answer)], dtype=torch.long)
        self.answers = np.array([len(lesson.answer) for lesson in lessons], dtype=np.int64)
        self.lengths = self.answers + np.array([len(lesson.context) for lesson in lessons], dtype=np.int64)
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._first_answer = np.cumsum(self.answers) - self.answers

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def answer_tokens(self) -> int:
        """How many answer tokens there are: the rows of a teacher's distributions, lesson by lesson."""
        return int(self.answers.sum())

    def batches(self, lessons: Positions, batching: Batching, device: torch.device) -> list[PaddedLessons]:
        """The given lessons, longest first, in padded passes that `batching` allows."""
        order: list[int] = lessons[np.argsort(-self.lengths[lessons], kind="stable")].tolist()
        groups = batching.split(order, lambda lesson: int(self.lengths[lesson]) - 1)
        return [self._pad(np.asarray(group), device) for group in groups]

    def _pad(self, lessons: Positions, device: torch.device) -> PaddedLessons:
        lengths, answers = self.lengths[lessons] - 1, self.answers[lessons]  # the last token is never an input
        columns = np.arange(lengths.max())
        inside = columns < lengths[:, None]
        ids = torch.from_numpy(np.where(inside, self._starts[lessons][:, None] + columns, 0))
        row = np.repeat(np.arange(len(lessons)), answers)
        place = np.arange(len(row)) - np.repeat(np.cumsum(answers) - answers, answers)
        column = (lengths - answers)[row] + place
        target = self.flat[torch.from_numpy(self._starts[lessons][row] + column + 1)]
        first = int(column.min())
        numbers = (row, column - first, place, self._first_answer[lessons][row] + place)
        row_, column_, place_, answer_ = torch.from_numpy(np.stack(numbers)).to(device)
        return PaddedLessons(
            ids=self.flat[ids].masked_fill(~torch.from_numpy(inside), 0).to(device),
            first=first,
            row=row_,
            column=column_,
            target=target.to(device),
            place=place_,
            answer=answer_,
            lessons=lessons,
            tokens=int(lengths.sum()),
        )
