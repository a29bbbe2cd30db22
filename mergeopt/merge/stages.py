"""A chain of merges becomes a model folder: every stage planned before the first byte is written, then made in turn.

A stage that has not been made is planned on as a checkpoint without bytes, so a mistake in the last stage is found
before the first. Stages are written to a folder of their own and made only where what stands there was made from
something else: after an interruption or a change, the chain goes on where it must.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

import mergeopt
from mergeopt.checkpoint.adapter import with_adapter
from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.locate import locate_model
from mergeopt.errors import InputError, placed
from mergeopt.merge.folder import Prepared, merge_to_folder, prepare
from mergeopt.merge.lock import LOCK_FILE
from mergeopt.merge.mergekit_mode import Match
from mergeopt.merge.sources import Checkpoints, open_models
from mergeopt.merge.stream import Progress, stream
from mergeopt.merge.unmade import unmade
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.stages import Stage, Stages
from mergeopt.recipe.write import recipe_data, to_yaml


@dataclass(frozen=True)
class PreparedStage:
    """A stage with its plan. `key` tells what it is made from: recipe, files and the stages before it."""

    stage: Stage
    opened: Checkpoints
    prepared: Prepared
    key: str


@dataclass(frozen=True)
class PreparedChain:
    """Every stage of a chain, planned; the last one is the output."""

    stages: tuple[PreparedStage, ...]
    match: Match | None = None

    @property
    def final(self) -> Prepared:
        return self.stages[-1].prepared

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are written on the way."""
        return sum(each.prepared.plan.nbytes for each in self.stages)

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(
            f"{each.stage.name}: {text}" if each.stage.name else text
            for each in self.stages
            for text in each.prepared.notices
        )

    @cached_property
    def text(self) -> str | None:
        """The whole chain as one recipe file; None where it is a single recipe."""
        if len(self.stages) == 1:
            return None
        return "---\n".join(
            to_yaml(({"name": each.stage.name} if each.stage.name else {}) | recipe_data(each.prepared.recipe))
            for each in self.stages
        )


def prepare_stages(stages: Stages, match: Match | None = None) -> PreparedChain:
    """Opens every model by its headers and plans every stage, as mergekit would for a `match`; no weights are read.

    Raises:
        InputError: a model that is missing, or stages that do not fit together.
    """
    done: dict[str, PreparedStage] = {}
    for stage in stages.stages:
        with placed(stage.where):
            ready = [ref for ref in stage.recipe.named if ref not in stage.needs]
            found = open_models(ready, stage.near, stage.recipe.base)
            earlier = {
                ref: _on(unmade(done[name].prepared, str(ref.bare), match), ref, stage)
                for ref, name in stage.needs.items()
            }
            opened = {ref: (found | earlier)[ref] for ref in stage.recipe.named}
            prepared = prepare(stage.recipe, opened)
            prepared = match.prepared(prepared) if match else prepared
        made_from = {str(ref): _stamps(checkpoint) for ref, checkpoint in found.items()}
        made_from |= {str(ref): [done[name].key] for ref, name in stage.needs.items()}
        done[stage.name] = PreparedStage(stage, opened, prepared, _key(stage, made_from, match))
    return PreparedChain(tuple(done.values()), match)


def merge_stages(
    chain: PreparedChain,
    out: Path,
    *,
    folder: Path,
    keep: bool,
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress | None = None,
    reused: Callable[[str], None] | None = None,
    strict: bool = False,
    lock_also: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Makes every stage and writes the last one to `out`.

    Args:
        chain: From `prepare_stages`.
        out: The model's folder; may exist.
        folder: Where the earlier stages are written, one folder each.
        keep: Leave them there at the end. After a fault they stay in any case: the next run goes on from them.
        max_shard_bytes: Limit per weight file.
        progress: Told of bytes as they are written, or need not be.
        reused: Told the name of a stage that stood there already.
        strict: Stop at a stage whose tensors came out with NaN or infinity.
        lock_also: Further entries of the output's lock file.

    Returns:
        What the user should know about the results, in words.

    Raises:
        InputError: a stage's folder holds something else.
        MergeoptError: as `merge_to_folder`.
    """
    match = chain.match

    def write(each: PreparedStage, place: Path, also: Mapping[str, Any], text: str | None) -> tuple[str, ...]:
        ready = _ready(each, made, match)
        return merge_to_folder(
            ready,
            place,
            max_shard_bytes=max_shard_bytes,
            progress=progress,
            lock_also={**also, **(match.lock_entries if match else {})},
            text=text,
            strict=strict,
            execute=match.execution(ready) if match else stream,
        ).notices

    made: dict[str, Path] = {}
    locks: dict[str, Any] = {}
    notices: list[str] = []
    for each in chain.stages[:-1]:
        name = each.stage.name
        place = folder / _folder_name(name)
        if _stands(place, each.key):
            if reused:
                reused(name)
            if progress:
                progress(each.prepared.plan.nbytes)
        else:
            notices += write(each, place, {"stage": each.key}, None)
        made[name] = place
        locks[name] = json.loads((place / LOCK_FILE).read_text(encoding="utf-8"))
    also = {**(lock_also or {}), **({"stages": locks} if locks else {})}
    notices += write(chain.stages[-1], out, also, chain.text)
    if not keep:
        for place in made.values():
            shutil.rmtree(place, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()
    return tuple(notices)


def _on(model: Checkpoint, ref: ModelRef, stage: Stage) -> Checkpoint:
    """The model of a stage, with the adapter that the reference adds."""
    if ref.adapter is None:
        return model
    return with_adapter(model, locate_model(ref.adapter, stage.near), str(ref))


def _ready(each: PreparedStage, made: Mapping[str, Path], match: Match | None) -> Prepared:
    """The stage's plan on the stages before it as they now lie on disk."""
    if not each.stage.needs:
        return each.prepared
    checkpoints = dict(each.opened)
    for ref, name in each.stage.needs.items():
        checkpoints[ref] = _on(Checkpoint.open(made[name], name=str(ref.bare)), ref, each.stage)
    prepared = prepare(each.stage.recipe, checkpoints)
    return replace(match.prepared(prepared) if match else prepared, notices=each.prepared.notices)


def _key(stage: Stage, made_from: Mapping[str, list[str]], match: Match | None) -> str:
    facts = [mergeopt.__version__, recipe_data(stage.recipe), made_from, match and match.lock_entries]
    return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())


def _stamps(checkpoint: Checkpoint) -> list[str]:
    """Name, size and time of change of each file: another model under an old name is another one."""
    return [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in checkpoint.files]


def _folder_name(name: str) -> str:
    """A stage's name as one path segment; names that must be changed for it stay distinct."""
    safe = re.sub(r"[^\w.-]+", "_", name).strip(".")[:80]
    return safe if safe == name else f"{safe}-{xxhash.xxh3_64_hexdigest(name.encode())[:8]}"


def _stands(place: Path, key: str) -> bool:
    """Whether the stage lies there whole, made from the same.

    Raises:
        InputError: the folder holds a model that is no stage.
    """
    lock = place / LOCK_FILE
    try:
        found = json.loads(lock.read_text(encoding="utf-8")).get("stage") if lock.is_file() else None
    except (OSError, ValueError, AttributeError):
        found = None
    whole = (place / "config.json").exists()  # it is written last
    if whole and found is None:
        raise InputError("holds a model that is no stage", where=str(place), remedy="give another --intermediate-dir")
    return whole and found == key
