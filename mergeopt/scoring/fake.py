"""A scorer without a model: deterministic made-up outcomes, for tests of whatever uses one."""

from collections.abc import Callable, Mapping

import numpy as np

from mergeopt.scoring.base import EvalInfo, EvalScore, NonFiniteError, Scores, Split
from mergeopt.scoring.entry import ObjectiveEntry

DEFAULT_COUNTS: Mapping[Split, int] = {"calibrate": 40, "search": 80, "select": 40, "report": 200}


class FakeScorer:
    """Answers item i of an eval rightly when the eval's quality is above the item's fixed difficulty.

    Args:
        quality: Per eval, a function of nothing that gives the present quality in [0, 1]; change what it reads to
            "merge". NaN stands for a model that computes NaN.
        counts: Items per split.
        entries: Per eval; plain accuracies by default.
        seed: Of the difficulties.
    """

    def __init__(
        self,
        quality: Mapping[str, Callable[[], float]],
        *,
        counts: Mapping[Split, int] = DEFAULT_COUNTS,
        entries: Mapping[str, ObjectiveEntry] | None = None,
        seed: int = 0,
    ) -> None:
        self._quality = quality
        self._difficulty = {
            (name, split): np.random.default_rng([seed, e, s]).random(count)
            for e, name in enumerate(quality)
            for s, (split, count) in enumerate(counts.items())
        }
        self.calls: list[Split] = []
        self.evals: tuple[EvalInfo, ...] = tuple(
            EvalInfo(
                name,
                "acc,none",
                True,
                (entries or {}).get(name) or ObjectiveEntry(eval=name),
                {split: tuple(f"{name}-{split}-{i}" for i in range(count)) for split, count in counts.items()},
            )
            for name in quality
        )

    def score(self, split: Split, *, forced: frozenset[str] = frozenset()) -> Scores:
        """0/1 outcomes at the present quality. Raises NonFiniteError where a quality is NaN."""
        del forced
        self.calls.append(split)
        scores: dict[str, EvalScore] = {}
        for info in self.evals:
            quality = self._quality[info.name]()
            if np.isnan(quality):
                raise NonFiniteError("the model computed NaN or Inf")
            items = (self._difficulty[info.name, split] < quality).astype(np.float64)
            scores[info.name] = EvalScore(info.name, info.metric, float(items.mean()), items, info.higher_is_better)
        return Scores(split, scores, tokens=sum(len(s.items) for s in scores.values()))

    def forcing_agrees(self, split: Split) -> dict[str, bool]:
        """Nothing here generates."""
        del split
        return {}


def constant_quality(values: Mapping[str, float]) -> dict[str, Callable[[], float]]:
    """Qualities that never change, for references such as base and parents."""
    return {name: lambda value=value: value for name, value in values.items()}  # type: ignore[misc]
