"""Models side by side on evals: `mergeopt eval`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.tokenizer import same_tokenizer
from mergeopt.errors import InputError
from mergeopt.merge.sources import open_models
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.scoring.base import SPLITS, Scores, Split
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.statistics import PairedDifference, interval, mean_stderr, paired_difference
from mergeopt.scoring.suite import Suite
from mergeopt.study.evals import find_eval, with_files
from mergeopt.study.lock import StudyLock
from mergeopt.study.log import EventLog, read_log
from mergeopt.study.result import Cell
from mergeopt.study.searchfile import Optimize
from mergeopt.study.tokenizer import load_tokenizer
from mergeopt.study.workbench import Compute, Workbench


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model: its score per eval, and the paired difference to the first model (empty for the first)."""

    model: str
    evals: Mapping[str, Cell]
    against: Mapping[str, PairedDifference]


def evaluate_models(
    models: Sequence[str],
    evals: Sequence[str],
    compute: Compute,
    *,
    limit: float | None = None,
    split: str | None = None,
    trust_eval_code: bool = False,
) -> tuple[list[ModelRow], tuple[str, ...]]:
    """Scores every model on every eval, paired to the first model.

    Args:
        models: Folders or Hub ids, each scored with its own tokenizer; the output of a search brings its own evals
            and, by default, its report items.
        evals: YAML files, shipped names or lm-eval task names; none: those of the first search output among the models.
        compute: Device, dtype, batch size.
        limit: Items per eval.
        split: Of a search output.
        trust_eval_code: Let evals run local code.

    Raises:
        InputError: a model or eval that cannot be used; an unknown split; a search that is still running.
    """
    refs = [ModelRef.parse(name, "MODEL") for name in models]
    checkpoints = open_models(refs, None)
    searched = next((Path(name) for name in models if (Path(name) / "search" / "log.jsonl").is_file()), None)
    if split is not None and (searched is None or evals):
        raise InputError(f"--split {split} is for the output of a search, with no evals named")

    def suite_for(ref: ModelRef) -> tuple[Suite, Split]:
        tokenizer = load_tokenizer(checkpoints[ref].folder)
        if searched is not None and not evals:
            return _suite_of_search(searched, tokenizer, split, trust_eval_code)
        entries = [ObjectiveEntry(eval=find_eval(name, None), limit=limit) for name in evals]
        return Suite.whole(entries, tokenizer=tokenizer, trust_eval_code=trust_eval_code), "all"

    suite, chosen = suite_for(refs[0])
    if searched is not None and chosen == "report":
        _note_reading(searched)
    scored: list[Scores] = []
    for ref in refs:
        own = suite if same_tokenizer(checkpoints[refs[0]], checkpoints[ref]) else suite_for(ref)[0]
        recipe = Recipe("passthrough", (Slice((Source(ref),)),))
        # the bench is not kept: only one model's weights are held
        scored.append(Workbench({ref: checkpoints[ref]}, own, compute).measure(recipe, chosen))
    return [
        _row(name, scores, scored[0], first=i == 0) for i, (name, scores) in enumerate(zip(models, scored, strict=True))
    ], suite.notices


def _suite_of_search(out: Path, tokenizer: Any, split: str | None, trust: bool) -> tuple[Suite, Split]:
    """The evals and items of a finished search, from its log."""
    path = out / "search" / "log.jsonl"
    if not path.is_file():
        raise InputError("has no search/log.jsonl, so its evals are not known", where=str(out), remedy="name evals")
    name = next((known for known in SPLITS[1:] if known == (split or "report")), None)
    if name is None:
        raise InputError(f"unknown split {split!r}", where="--split", remedy="use report, select or search")
    events = read_log(path)
    if not events or events[0]["event"] != "study":
        raise InputError("is not the log of a study", where=str(path), remedy="name evals")
    identity = events[0]["identity"]
    folders = [event["payload"]["folder"] for event in events if event.get("kind") == "near"]
    near = Path(folders[0]) if folders else None
    options = Optimize.model_validate(identity["optimize"])
    suite = Suite.build(
        with_files([ObjectiveEntry.model_validate(entry) for entry in identity["objective"]], near),
        tokenizer=tokenizer,
        near=near,
        shares=options.shares,
        seed=options.seed,
        calibrate_used=options.learns,
        trust_eval_code=trust,
        allow_benchmark=True,
    )
    return suite, name


def _note_reading(out: Path) -> None:
    """Another reading of the report items, noted in the search's log.

    Raises:
        InputError: the search is running.
    """
    lock = StudyLock(out / "search" / "lock")
    try:
        path = out / "search" / "log.jsonl"
        readings = sum(event.get("kind") == "report" for event in read_log(path))
        with EventLog(path) as log:
            log.append("note", kind="report", payload={"reading": readings + 1, "by": "eval"}, time=time.time())
    finally:
        lock.release()


def _row(model: str, scores: Scores, first_scores: Scores, *, first: bool) -> ModelRow:
    cells, against = {}, {}
    for score in scores:
        low, high = interval(score.items)
        cells[score.name] = Cell(score.value, mean_stderr(score.items)[1], low, high)
        if not first:
            against[score.name] = paired_difference(score.items, first_scores[score.name].items)
    return ModelRow(model, cells, against)
