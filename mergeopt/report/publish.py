"""The winner becomes a model folder: weights, recipe, lock, results, card."""

import json
import shutil
from pathlib import Path

from mergeopt.errors import MergeoptError
from mergeopt.files import size_text, write_text
from mergeopt.merge.folder import check_apart, merge_to_folder
from mergeopt.merge.plan import make_plan
from mergeopt.merge.sources import facts
from mergeopt.methods import SCHEMAS
from mergeopt.optimizers import VERSION
from mergeopt.report.card import model_card
from mergeopt.study.events import Listener, Phase, Written
from mergeopt.study.job import SearchJob
from mergeopt.study.lock import StudyLock
from mergeopt.study.log import plain
from mergeopt.study.search import Found


def check_room(job: SearchJob, out: Path) -> None:
    """Is there room for the winner? Better said before the search than after it.

    Raises:
        InputError: `out` is the folder of a source.
        MergeoptError: the disk is too full.
    """
    check_apart(out, job.checkpoints)
    needed = make_plan(job.recipe, facts(job.checkpoints), SCHEMAS[job.recipe.method]).nbytes
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise MergeoptError(f"{out}: the model needs {size_text(needed)}, the disk has {size_text(free)} free")


def publish(found: Found, job: SearchJob, out: Path, listener: Listener) -> None:
    """Writes OUT.

    Raises:
        MergeoptError: disk full, a source that changed meanwhile.
    """
    listener(Phase("write", found.prepared.plan.nbytes))
    items = {info.name: {s: list(h) for s, h in info.hashes.items()} for info in job.suite.evals}
    merge_to_folder(
        found.prepared,
        out,
        progress=lambda count: listener(Written(count)),
        lock_also={"items": items, "auto": VERSION},
    )
    write_text(out / "result.json", result_text(found, job))
    write_text(out / "README.md", model_card(found, job))


def result_text(found: Found, job: SearchJob) -> str:
    """`result.json`: the table and the options; no local path that the recipe does not name."""
    data = found.result.data() | {"optimize": job.file.optimize.model_dump(mode="json")}
    return json.dumps(plain(data), indent=1) + "\n"  # unbounded intervals as null: JSON has no infinity


def begin_anew(out: Path) -> None:
    """Takes away an earlier study and what would pass for the result of the new one.

    Raises:
        InputError: another process works on the study.
    """
    if (out / "search").is_dir():
        StudyLock(out / "search" / "lock").release()  # refuses while another process writes it
        shutil.rmtree(out / "search")
    stale = ("result.json", "recipe.yaml", "mergekit_config.yml", "recipe.lock.json", "README.md", "config.json")
    for name in stale:
        (out / name).unlink(missing_ok=True)
