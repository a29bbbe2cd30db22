"""The winner becomes a model folder: weights, recipe, lock, results, card."""

import json
from pathlib import Path
from typing import Any

from mergeopt.files import write_text
from mergeopt.merge.folder import merge_to_folder
from mergeopt.report.card import model_card
from mergeopt.study.events import Listener, Phase, Written
from mergeopt.study.search import Found, SearchJob


def publish(found: Found, job: SearchJob, out: Path, listener: Listener) -> None:
    """Writes OUT.

    Raises:
        MergeoptError: disk full, a source that changed meanwhile.
    """
    listener(Phase("write", found.prepared.plan.nbytes))
    items = {info.name: {s: list(h) for s, h in info.hashes.items()} for info in job.suite.evals}
    merge_to_folder(found.prepared, out, progress=lambda count: listener(Written(count)), lock_also={"items": items})
    write_text(out / "result.json", json.dumps(result_data(found, job), indent=1, default=float) + "\n")
    write_text(out / "README.md", model_card(found, job))


def result_data(found: Found, job: SearchJob) -> dict[str, Any]:
    """`result.json`: the table, and what is needed to score another model on the same items."""
    options = job.file.optimize
    objective = {
        "entries": [entry.model_dump(mode="json", exclude_none=True) for entry in job.file.objective],
        "near": str(job.near) if job.near else None,
        "splits": options.splits.model_dump(),
        "seed": options.seed,
    }
    return found.result.data() | {"objective": objective, "optimize": options.model_dump(mode="json")}
