"""What a measurement is: the numbers of one model on one split of a suite of evals.

The study, the optimizers and the objective speak in these values only. Per-item outcomes are kept because comparisons
between models are paired: every model sees the same items in the same order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from mergeopt.errors import MergeoptError
from mergeopt.scoring.entry import ObjectiveEntry

Split = Literal["calibrate", "search", "select", "report", "all"]
SPLITS: tuple[Split, ...] = ("calibrate", "search", "select", "report")

Items = npt.NDArray[np.float64]


class NonFiniteError(MergeoptError):
    """The model computed NaN or Inf: this candidate has no score. A failed trial, never a crash."""


@dataclass(frozen=True, slots=True)
class EvalInfo:
    """One eval of a suite.

    `name` is unique in the suite; `metric` is lm-eval's "metric,filter"; `hashes` holds, per split, the content hash
    of every item in the split's fixed order.
    """

    name: str
    metric: str
    higher_is_better: bool
    entry: ObjectiveEntry
    hashes: Mapping[str, tuple[str, ...]]

    def count(self, split: Split) -> int:
        """The number of items in `split`, 0 where the suite has no such split."""
        return len(self.hashes.get(split, ()))


@dataclass(frozen=True, slots=True)
class EvalScore:
    """One model on one split of one eval.

    `value` is lm-eval's aggregate. `items` has one number per item, in the split's fixed order, and its mean is
    `value`: the outcomes where it is a mean (0/1 for accuracies), else each item's share in the aggregate (linearised
    for perplexities and bits per byte, jackknife pseudo-values for the rest). So a difference of two models is the mean
    of their paired differences.
    """

    name: str
    metric: str
    value: float
    items: Items
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """One model on one split: an `EvalScore` per eval, in the suite's order; `tokens` went through the model."""

    split: Split
    evals: Mapping[str, EvalScore]
    tokens: int = 0

    def __getitem__(self, name: str) -> EvalScore:
        return self.evals[name]

    def __iter__(self) -> Iterator[EvalScore]:
        return iter(self.evals.values())


class Scorer(Protocol):
    """Scores whatever weights the resident model holds now."""

    @property
    def evals(self) -> tuple[EvalInfo, ...]:
        """The suite's evals, in order."""
        ...

    def score(self, split: Split, *, forced: frozenset[str] = frozenset()) -> Scores:
        """Every eval on `split`; evals named in `forced` by one teacher-forced pass instead of generating.

        Raises:
            NonFiniteError: The model computed NaN or Inf.
        """
        ...

    def forcing_agrees(self, split: Split) -> dict[str, bool]:
        """For every eval that generates: does one teacher-forced pass give the same outcome on every item?"""
        ...
