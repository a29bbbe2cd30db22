"""Is this folder what its recipe gives? Merge again, into hashes alone, and compare tensor by tensor.

Three accounts of every tensor and file are laid side by side: what the lock file says, what the folder holds, and what
the merge gives now. Where one differs from the other two, that one is to blame.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import torch

import mergeopt
from mergeopt.checkpoint.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from mergeopt.checkpoint.hashing import InputHashes, Progress, hash_of, tensor_digests
from mergeopt.checkpoint.sidefiles import side_file_names
from mergeopt.checkpoint.sink import Comparer, Distance
from mergeopt.errors import InputError, did_you_mean, placed
from mergeopt.merge.folder import Prepared, hash_merge, merge_to_folder, outputs, prepare, write_side_files
from mergeopt.merge.lock import LOCK_FILE, Hashes, Lock, machine, versions
from mergeopt.merge.mergekit_mode import Match
from mergeopt.merge.sources import Checkpoints, open_models
from mergeopt.merge.stream import Execute, stream
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef, Recipe

RECIPE_FILE = "recipe.yaml"

Bars = Callable[[str, int], AbstractContextManager[Progress]]
"""Shows a phase of so many bytes: ``with bar("merging", total) as progress``."""


class Blame(StrEnum):
    """Which account differs from the others."""

    FOLDER = "the folder was changed after the merge"
    MERGE = "the merge gives something else here"
    LOCK = "the lock file says something else than folder and merge"
    ALL = "lock file, folder and merge all differ"


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor or a file on which the accounts differ: its hash in each, None where it is missing.

    `distance` is between the folder's tensor and the merge's, where both exist in one shape and dtype.
    """

    name: str
    tensor: bool
    blame: Blame
    locked: str | None
    held: str | None
    made: str | None
    distance: Distance | None = None


@dataclass(frozen=True)
class Comparison:
    """The outcome: how many `tensors` and `files` were compared, and which differ."""

    tensors: int
    files: int
    differences: tuple[Difference, ...]
    notices: tuple[str, ...]


def reproduce(folder: Path, moved: Mapping[str, Path], bar: Bars, *, out: Path | None = None) -> Comparison:
    """Makes the model in `folder` again and compares.

    Args:
        folder: What `mergeopt merge` or `mergeopt search` wrote; the weights may be missing.
        moved: Where models are now, by the name that the recipe gives them. Others are looked for in the working
            folder, in `folder` and in the folders above it.
        bar: Shows progress.
        out: Where to keep the merge made again; by default nothing is written.

    Raises:
        InputError: no such folder, a damaged lock file, a model that is missing, input files that are not those that
            were merged (each is named), `out` is `folder`.
        MergeoptError: a file that changes meanwhile; disk full.
    """
    if out is not None and out.resolve() == folder.resolve():
        raise InputError("is the folder to compare with", where=str(out), remedy="give --out another folder")
    lock = Lock.read(folder)
    reading = read_recipe(read_document(folder / RECIPE_FILE), SCHEMAS)
    with placed(str(folder / RECIPE_FILE)):
        prepared = prepare(reading.recipe, _find_models(reading.recipe, moved, folder))
    match = Match(lock.match["random_seed"]) if lock.match else None
    prepared = match.prepared(prepared) if match else prepared
    execute = match.execution(prepared) if match else stream
    weights = _weights(folder)
    _check_inputs(lock, prepared.checkpoints, bar)
    with bar("merging again", prepared.plan.nbytes) as progress, _threads(lock):
        made, side_files = _made(prepared, out, progress, execute, match)
    held = None if weights is None else _held(weights, prepared, bar)
    tensors = _compare(lock.outputs, held, made, tensor=True)
    files: tuple[Difference, ...] = ()
    if lock.side_files is not None:
        files = _compare(lock.side_files, _held_files(folder, weights), side_files, tensor=False)
    if weights is not None and match is None:  # mergekit's draws go on from tensor to tensor
        tensors = _with_distances(tensors, prepared, weights)
    notices = _notices(lock, prepared, folder, weights, changed=bool(tensors or files))
    return Comparison(len(made), len(lock.side_files or ()), (*tensors, *files), notices)


def _find_models(recipe: Recipe, moved: Mapping[str, Path], folder: Path) -> Checkpoints:
    names = {str(ref): ref for ref in recipe.named}
    for name in moved:
        if name not in names:
            raise InputError(f"--models {name}: the recipe names no such model", remedy=did_you_mean(name, set(names)))
    found = {}
    for name, ref in names.items():
        if name in moved:
            there = replace(ref, path=str(moved[name].absolute()), revision=None)
            found[ref] = open_models([there], folder, recipe.base)[there]
        else:
            found[ref] = open_models([ref], _near(ref, folder), recipe.base)[ref]
    return found


def _near(ref: ModelRef, folder: Path) -> Path | None:
    """The folder that a model's path starts from, where that is not the working folder: `folder` or one above it."""
    if Path(ref.path).expanduser().is_dir():
        return None
    above = (folder.resolve(), *folder.resolve().parents)
    return next((place for place in above if (place / ref.path).is_dir()), None)


def _weights(folder: Path) -> Checkpoint | None:
    """The folder's weights; None where it has none (a recipe and its lock file, say)."""
    held = any((folder / name).exists() for name in (SINGLE_FILE, INDEX_FILE))
    return Checkpoint.open(folder) if held else None


def _check_inputs(lock: Lock, checkpoints: Checkpoints, bar: Bars) -> None:
    """Raises InputError where the input files are not those that the lock file names."""
    expected: dict[Path, str] = {}
    for ref, checkpoint in checkpoints.items():
        locked = lock.inputs.get(str(ref))
        if locked is None:
            raise InputError(f"the recipe reads {str(ref)!r}, of which {LOCK_FILE} knows nothing", where=RECIPE_FILE)
        files = {file.name: file for file in checkpoint.files}
        if files.keys() != locked.keys():
            problem = f"holds {', '.join(sorted(files))}; what was merged were {', '.join(sorted(locked))}"
            raise InputError(problem, where=str(checkpoint.folder), remedy="give the model in its former files")
        expected |= {file: locked[name] for name, file in files.items()}
    with bar("checking the inputs", sum(file.stat().st_size for file in expected)) as progress:
        hashes = InputHashes.start(expected, like=expected, progress=progress)
        try:
            found = hashes.result()
        finally:
            hashes.cancel()
    changed = [str(file) for file, digest in expected.items() if digest != found[file]]
    if changed:
        problem = "is not the file that was" if len(changed) == 1 else "are not the files that were"
        raise InputError(
            f"{', '.join(changed)} {problem} merged (by its hash in {LOCK_FILE})",
            remedy="give the model as it was: --models NAME=FOLDER",
        )


@contextmanager
def _threads(lock: Lock) -> Iterator[None]:
    """As many of torch's threads as mergekit's arithmetic depended on."""
    before = torch.get_num_threads()
    torch.set_num_threads(lock.match["threads"] if lock.match else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _made(
    prepared: Prepared, out: Path | None, progress: Progress, execute: Execute, match: Match | None
) -> tuple[Hashes, Hashes]:
    """Hashes of the tensors and of the side files of the merge made again."""
    if out is not None:
        also = match.lock_entries if match else None
        again = merge_to_folder(prepared, out, progress=progress, execute=execute, lock_also=also).lock
        return again.outputs, again.side_files or {}
    with tempfile.TemporaryDirectory(prefix="mergeopt-") as scratch:
        side_files = write_side_files(prepared, Path(scratch))
    return hash_merge(prepared, progress, execute), side_files


def _held(weights: Checkpoint, prepared: Prepared, bar: Bars) -> Hashes:
    """Hashes of the folder's tensors; the same bytes in another shape or dtype are another tensor, and say so."""
    wanted = {job.tensor: (job.dtype, job.shape) for job in prepared.plan.jobs}
    with bar("reading the folder", weights.nbytes) as progress:
        digests = tensor_digests(weights, progress)
    held = {}
    for name, digest in digests.items():
        stored = weights.tensors[name]
        same = wanted.get(name) in (None, (stored.dtype, stored.shape))
        held[name] = f"xxh3-128:{digest}" if same else f"{stored.dtype} {list(stored.shape)}"
    return held


def _held_files(folder: Path, weights: Checkpoint | None) -> Hashes | None:
    names = side_file_names(folder)
    if weights is None and not names:
        return None
    return {name: hash_of((folder / name).read_bytes()) for name in names}


def _compare(locked: Hashes, held: Hashes | None, made: Hashes, *, tensor: bool) -> tuple[Difference, ...]:
    """Where the accounts differ; a folder that holds nothing (None) is not asked."""
    found = []
    for name in dict.fromkeys((*locked, *made, *(held or ()))):
        accounts = locked.get(name), locked.get(name) if held is None else held.get(name), made.get(name)
        blame = _blame(*accounts)
        if blame is not None:
            found.append(
                Difference(name, tensor, blame, accounts[0], None if held is None else accounts[1], accounts[2])
            )
    return tuple(found)


def _blame(locked: str | None, held: str | None, made: str | None) -> Blame | None:
    if locked == made:
        return None if held == locked else Blame.FOLDER
    if held == locked:
        return Blame.MERGE
    return Blame.LOCK if held == made else Blame.ALL


def _with_distances(found: tuple[Difference, ...], prepared: Prepared, weights: Checkpoint) -> tuple[Difference, ...]:
    """Merges once more what differs, to measure by how much."""
    both = {d.name for d in found if d.made and d.held and d.held != d.made and d.held.startswith("xxh3-128:")}
    plan = replace(prepared.plan, jobs=tuple(job for job in prepared.plan.jobs if job.tensor in both))
    with weights.reader() as reader:
        comparer = Comparer(outputs(plan), reader)
        stream(plan, prepared.checkpoints, comparer, None, prepared.refinement)
    return tuple(replace(each, distance=comparer.found.get(each.name)) for each in found)


def _notices(
    lock: Lock, prepared: Prepared, folder: Path, weights: Checkpoint | None, *, changed: bool
) -> tuple[str, ...]:
    """What a reader of the outcome should know besides."""
    found = []
    if weights is None:
        found.append(f"{folder} holds no weights: only the merge was compared with {LOCK_FILE}")
    if lock.side_files is None:
        found.append(f"{LOCK_FILE} is of an older mergeopt and says nothing of config, tokenizer and chat template")
    if lock.recipe not in (None, hash_of((folder / RECIPE_FILE).read_bytes())):
        found.append(f"{RECIPE_FILE} was changed after the merge")
    refinement = None if prepared.refinement is None else hash_of(prepared.refinement.encoded())
    if refinement != lock.refinement:
        found.append("the recipe's refinement is not the one that was merged")
    then = {"torch": lock.versions.get("torch"), "processor": lock.machine, "mergeopt": lock.tool}
    now = {"torch": versions()["torch"], "processor": machine(), "mergeopt": mergeopt.__version__}
    other = [f"{name} {then[name] or 'unknown'}, here {now[name]}" for name in then if then[name] != now[name]]
    if changed and other:
        found.append(f"it was made with {'; '.join(other)}")
    return tuple(found)
