"""The shipped evals are plain lm-eval tasks: `lm_eval --include_path .` beside them gives our scores."""

import copy
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.resident import ResidentScorer
from mergeopt.scoring.suite import Suite

EVALS = Path(__file__).parents[2] / "evals"
NAMES = sorted(path.stem for path in EVALS.glob("*.yaml"))


def test_shipped_evals_score_as_in_lm_eval(model, tokenizer, monkeypatch):
    monkeypatch.chdir(EVALS)
    theirs = simple_evaluate(
        HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=4),
        tasks=NAMES,
        task_manager=TaskManager(include_defaults=False, include_path="."),
        limit=5,
        bootstrap_iters=0,
    )
    entries = [ObjectiveEntry(eval=f"{name}.yaml", limit=5) for name in NAMES]
    ours = ResidentScorer(Suite.whole(entries, tokenizer=tokenizer), model).score("all")
    assert {s.name: s.value for s in ours} == pytest.approx(
        {name: theirs["results"][name][ours[name].metric] for name in NAMES}, rel=1e-6
    )
