"""Scores of contenders, each measured once: a resumed study finds them in its record."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergeopt.recipe.write import recipe_data, to_yaml
from mergeopt.scoring.base import EvalInfo, EvalScore, Scores, Split
from mergeopt.study.events import Listener, Notice, Scored
from mergeopt.study.job import digest
from mergeopt.study.record import StudyRecord
from mergeopt.study.references import Contender
from mergeopt.study.workbench import FAILURES, Workbench


class Scorebook:
    """Measures contenders, and remembers."""

    def __init__(self, record: StudyRecord, bench: Workbench, evals: Sequence[EvalInfo], listener: Listener) -> None:
        self._record, self._bench, self._evals, self._listener = record, bench, evals, listener

    def score(self, contender: Contender, split: Split, forced: frozenset[str] = frozenset()) -> Scores | None:
        """What a contender scores; None: NaN or infinity."""
        key = key_of(contender)
        kept = next((n for n in self._record.notes("score") if (n["recipe"], n["split"]) == (key, split)), None)
        if kept is not None:
            scores = _thawed(kept, self._evals)
        else:
            try:
                scores = self._bench.measure(contender.recipe, split, forced=forced, refinement=contender.refinement)
            except FAILURES as error:
                self._listener(Notice(f"{contender.name!r} cannot be scored: {error}"))
                return None
            self._record.note("score", {"name": contender.name, "recipe": key} | _frozen(scores))
        self._listener(Scored(contender.name, split, scores))
        return scores


def key_of(contender: Contender) -> str:
    """Contenders of one key are one model."""
    refinement = contender.refinement.encoded().hex() if contender.refinement else ""
    return digest(to_yaml(recipe_data(contender.recipe)) + refinement)


def _frozen(scores: Scores) -> dict[str, Any]:
    evals = {score.name: {"value": score.value, "items": score.items.tolist()} for score in scores}
    return {"split": scores.split, "tokens": scores.tokens, "evals": evals}


def _thawed(note: Mapping[str, Any], infos: Sequence[EvalInfo]) -> Scores:
    evals = {}
    for info in infos:
        kept = note["evals"][info.name]
        items = np.array(kept["items"], dtype=np.float64)
        evals[info.name] = EvalScore(info.name, info.metric, kept["value"], items, info.higher_is_better)
    return Scores(note["split"], evals, note["tokens"])
