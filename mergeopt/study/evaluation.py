"""Models side by side on evals: `mergeopt eval`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergeopt.errors import InputError
from mergeopt.files import find_file
from mergeopt.merge.sources import open_models
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.scoring.base import Scores, Split
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.splits import Shares
from mergeopt.scoring.statistics import PairedDifference, interval, mean_stderr, paired_difference
from mergeopt.scoring.suite import Suite
from mergeopt.study.result import Cell
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
        models: Folders or Hub ids; the output of a search brings its own evals and, by default, its report items.
        evals: YAML files, shipped names or lm-eval task names; none: those of the first search output among the models.
        compute: Device, dtype, batch size.
        limit: Items per eval.
        split: Of a search output.
        trust_eval_code: Let evals run local code.

    Raises:
        InputError: a model or eval that cannot be used; an unknown split.
    """
    refs = [ModelRef.parse(name, "MODEL") for name in models]
    checkpoints = open_models(refs, None)
    tokenizer = load_tokenizer(checkpoints[refs[0]].folder)
    searched = next((Path(name) for name in models if (Path(name) / "result.json").is_file()), None)
    if searched is not None and not evals:
        suite, chosen = _suite_of_search(searched, tokenizer, split, trust_eval_code)
    elif split is not None:
        raise InputError(f"--split {split} is for the output of a search, with no evals named")
    else:
        entries = [ObjectiveEntry(eval=_eval_path(name), limit=limit) for name in evals]
        suite, chosen = Suite.whole(entries, tokenizer=tokenizer, trust_eval_code=trust_eval_code), "all"
    scored: list[Scores] = []
    for ref in refs:  # one after the other: only one model's weights are held
        bench = Workbench({ref: checkpoints[ref]}, suite, compute)
        scored.append(bench.measure(Recipe("passthrough", (Slice((Source(ref),)),)), chosen))
    return [
        _row(name, scores, scored[0], first=i == 0) for i, (name, scores) in enumerate(zip(models, scored, strict=True))
    ], suite.notices


def _eval_path(name: str) -> str:
    """Shipped evals by name; what is not shipped stays a task name of lm-eval."""
    try:
        return str(find_file(name, None, "evals"))
    except InputError:
        if name.endswith((".yaml", ".yml")):
            raise
        return name


def _suite_of_search(out: Path, tokenizer: Any, split: str | None, trust: bool) -> tuple[Suite, Split]:
    """The evals and items of a finished search."""
    facts = json.loads((out / "result.json").read_text())["objective"]
    entries = [ObjectiveEntry.model_validate(entry) for entry in facts["entries"]]
    suite = Suite.build(
        entries,
        tokenizer=tokenizer,
        near=Path(facts["near"]) if facts.get("near") else None,
        shares=Shares(**facts["splits"]),
        seed=facts["seed"],
        trust_eval_code=trust,
        allow_benchmark=True,
    )
    name = split or "report"
    if name not in ("search", "select", "report"):
        raise InputError(f"unknown split {name!r}", where="--split", remedy="use report, select or search")
    return suite, name  # type: ignore[return-value]


def _row(model: str, scores: Scores, first_scores: Scores, *, first: bool) -> ModelRow:
    cells, against = {}, {}
    for score in scores:
        low, high = interval(score.items)
        cells[score.name] = Cell(score.value, mean_stderr(score.items)[1], low, high)
        if not first:
            against[score.name] = paired_difference(score.items, first_scores[score.name].items)
    return ModelRow(model, cells, against)
