"""The winner becomes a model folder: weights, recipe, lock, results, card; the report stands beside the study."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergeopt.errors import InputError, MergeoptError
from mergeopt.files import size_text, write_text
from mergeopt.merge.folder import check_apart, merge_to_folder
from mergeopt.merge.plan import make_plan
from mergeopt.merge.sources import facts
from mergeopt.merge.stages import merge_stages, prepare_stages
from mergeopt.methods import SCHEMAS
from mergeopt.optimizers import VERSION
from mergeopt.report.card.keep import remove_card, write_card
from mergeopt.report.card.searched import model_card
from mergeopt.report.html.items import write_items
from mergeopt.report.html.page import write_report
from mergeopt.report.html.png import FIGURE, write_png
from mergeopt.study.events import Listener, Notice, Phase, Written
from mergeopt.study.job import SearchJob, open_record
from mergeopt.study.lock import StudyLock
from mergeopt.study.log import plain
from mergeopt.study.record import StudyRecord
from mergeopt.study.search import Found


def check_room(job: SearchJob, out: Path) -> None:
    """Is there room for the winner? Better said before the search than after it.

    Raises:
        InputError: `out` is the folder of a source.
        MergeoptError: the disk is too full.
    """
    check_apart(out, job.checkpoints)
    steps = max(len(job.steps.below(job.recipe_at(i, branch.init))) for i, branch in enumerate(job.space.branches))
    needed = make_plan(job.recipe, facts(job.checkpoints), SCHEMAS[job.recipe.method]).nbytes * (1 + steps)
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise MergeoptError(f"{out}: the model needs {size_text(needed)}, the disk has {size_text(free)} free")


@contextmanager
def opened_study(job: SearchJob, out: Path, *, resume: bool) -> Iterator[StudyRecord]:
    """The record of the study in `out`, begun or gone on with; after a mistake before the first trial nothing stays."""
    existed = out.exists()
    record = open_record(job, out / "search", resume=resume)
    try:
        with record:
            yield record
    except InputError:
        if not resume and not record.trials:
            shutil.rmtree(out / "search" if existed else out)
        raise


def publish(found: Found, job: SearchJob, out: Path, listener: Listener) -> None:
    """Writes OUT.

    Raises:
        MergeoptError: disk full, a source that changed meanwhile.
    """
    items = {info.name: {s: list(h) for s, h in info.hashes.items()} for info in job.suite.evals}
    also = {"items": items, "auto": VERSION}

    def progress(count: int) -> None:
        listener(Written(count))

    if job.steps.needed(found.winner.recipe):  # as `mergeopt merge` makes the chain, step by step
        chain = prepare_stages(job.steps.chain(found.winner.recipe, job.near))
        listener(Phase("write", chain.nbytes))
        folder = out / "search" / "steps"
        merge_stages(chain, out, folder=folder, keep=False, progress=progress, lock_also=also)
    else:
        listener(Phase("write", found.prepared.plan.nbytes))
        merge_to_folder(found.prepared, out, progress=progress, lock_also=also)
    write_text(out / "result.json", result_text(found, job))
    write_png(found.result, out / FIGURE)
    kept = write_card(out, model_card(found, job, out.resolve().name))
    if kept:
        listener(Notice(kept))
    write_items(job.suite, out / "search")
    write_report(out, storage=job.file.optimize.storage)


def result_text(found: Found, job: SearchJob) -> str:
    """`result.json`: the table and the options; no local path that the recipe does not name."""
    data = found.result.data() | {"optimize": job.file.optimize.model_dump(mode="json", exclude={"storage"})}
    return json.dumps(plain(data), indent=1) + "\n"  # unbounded intervals as null: JSON has no infinity


def begin_anew(out: Path) -> None:
    """Takes away an earlier study and what would pass for the result of the new one.

    Raises:
        InputError: another process works on the study.
    """
    if (out / "search").is_dir():
        StudyLock(out / "search" / "lock").release()  # refuses while another process writes it
        shutil.rmtree(out / "search")
    for name in ("result.json", "recipe.yaml", "mergekit_config.yml", "recipe.lock.json", FIGURE, "config.json"):
        (out / name).unlink(missing_ok=True)
    remove_card(out)
