"""Trains a family into a folder: base, one folder per specialist, multitask, each an ordinary model folder.

A member appears by rename when it is whole and is then recorded in `zoo.json`, so an interrupted run goes on with the
next member. Every member starts from files and from a random generator of its own: resuming changes nothing.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import tokenizers
import torch
import transformers

from mergeopt.errors import InputError
from mergeopt.files import write_text
from mergeopt.zoo.spec import FamilySpec, Stage
from mergeopt.zoo.tasks import Item, get_task
from mergeopt.zoo.tokenizer import make_tokenizer
from mergeopt.zoo.train import CONTEXT, new_model, train

RECORD = "zoo.json"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Member:
    """One model of a family: its folder's name, what it is trained on beside the mixture, and how."""

    name: str
    tasks: tuple[str, ...]
    stage: Stage


def members(spec: FamilySpec) -> tuple[Member, ...]:
    """The models of a family in the order they are trained: the base first, the multi-task model last."""
    own = tuple(specialist.task for specialist in spec.specialists)
    return (
        Member("base", spec.mixture, spec.base),
        *(Member(specialist.task, (specialist.task,), specialist.stage) for specialist in spec.specialists),
        Member("multitask", own, spec.multitask),
    )


def make_family(spec: FamilySpec, folder: Path | str, *, progress: Progress | None = None) -> None:
    """Train the models of `spec` that `folder` does not have yet.

    Args:
        spec: The family, for instance `mergeopt.zoo.spec.DEMO`.
        folder: Made if it is not there. Model folders inside appear only when whole.
        progress: Called as ``progress(member, steps done, steps in all)`` after every step.

    Raises:
        InputError: The folder holds a family of another spec, or files that are no family.
    """
    folder = Path(folder)
    record = _open_record(spec, folder)
    for member in members(spec):
        if member.name in record["members"] and (folder / member.name).is_dir():
            continue
        began = time.monotonic()
        loss = _make_member(spec, member, folder, progress or _silent)
        record["members"][member.name] = {"seconds": round(time.monotonic() - began, 1), "loss": loss}
        _write(folder, record)


def _make_member(spec: FamilySpec, member: Member, folder: Path, progress: Progress) -> float:
    """Train and save one member; the base starts from nothing, the others from the base's files. Returns the loss."""
    model = new_model(spec) if member.name == "base" else _load(folder / "base")
    loss = train(
        model,
        member.stage,
        lambda rng: _draw(rng, member, spec.mixture),
        batch=spec.batch,
        rng=Random(f"{spec.seed}/{member.name}"),
        step_done=lambda step: progress(member.name, step, member.stage.steps),
    )
    with _without_bars():
        _save(model, folder / member.name)
    return loss


def _silent(member: str, step: int, steps: int) -> None:
    """Progress that nobody watches."""


def _draw(rng: Random, member: Member, mixture: tuple[str, ...]) -> Item:
    tasks = mixture if rng.random() < member.stage.replay else member.tasks
    return get_task(rng.choice(tasks)).item(rng, held_out=False)


def _open_record(spec: FamilySpec, folder: Path) -> dict[str, Any]:
    """The folder's record, begun if the folder is new; a folder of something else is refused."""
    path = folder / RECORD
    wanted = json.loads(json.dumps(asdict(spec)))  # tuples as lists, as they are read back
    if path.exists():
        return _read_record(path, wanted)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"is not empty and has no {RECORD}", where=str(folder), remedy="give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    versions = {module.__name__: str(module.__version__) for module in (torch, transformers, tokenizers)}
    record = {"spec": wanted, "versions": versions, "members": {}}
    _write(folder, record)
    return record


def _read_record(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    remedy = "give another folder, or remove this one"
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        found = dict(record["spec"])
        record["members"].keys()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError("is not the record of a family", where=str(path), remedy=remedy) from error
    if found != wanted:
        differ = ", ".join(key for key in wanted if found.get(key) != wanted[key])
        raise InputError(f"holds a family of another spec ({differ})", where=str(path), remedy=remedy)
    return record


def _write(folder: Path, record: dict[str, Any]) -> None:
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _load(folder: Path) -> transformers.PreTrainedModel:
    with _without_bars(), torch.random.fork_rng(devices=[]):
        model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        )
    return model


@contextmanager
def _without_bars() -> Iterator[None]:
    """Reading and writing take milliseconds here: no bars of transformers' own among the caller's progress."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def _save(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Write model and tokenizer beside `folder`, then rename: a reader never sees half a model."""
    partial = folder.with_name(f".{folder.name}.partial")
    for stale in (partial, folder):  # of an interrupted run; neither is in the record
        shutil.rmtree(stale, ignore_errors=True)
    model.save_pretrained(partial)
    make_tokenizer(CONTEXT).save_pretrained(partial)
    partial.rename(folder)
