"""The winner becomes a model folder: weights, recipe, lock, results, card."""

import json
from pathlib import Path

from mergeopt.files import write_text
from mergeopt.merge.folder import merge_to_folder
from mergeopt.report.card import model_card
from mergeopt.study.events import Listener, Phase, Written
from mergeopt.study.log import plain
from mergeopt.study.search import Found, SearchJob


def publish(found: Found, job: SearchJob, out: Path, listener: Listener) -> None:
    """Writes OUT.

    Raises:
        MergeoptError: disk full, a source that changed meanwhile.
    """
    listener(Phase("write", found.prepared.plan.nbytes))
    items = {info.name: {s: list(h) for s, h in info.hashes.items()} for info in job.suite.evals}
    merge_to_folder(found.prepared, out, progress=lambda count: listener(Written(count)), lock_also={"items": items})
    write_text(out / "result.json", result_text(found, job))
    write_text(out / "README.md", model_card(found, job))


def result_text(found: Found, job: SearchJob) -> str:
    """`result.json`: the table and the options; no local path that the recipe does not name."""
    data = found.result.data() | {"optimize": job.file.optimize.model_dump(mode="json")}
    return json.dumps(plain(data), indent=1) + "\n"  # unbounded intervals as null: JSON has no infinity
