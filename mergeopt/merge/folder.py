"""A recipe becomes a model folder, and a lock file says from what.

Everything appears whole or not at all: weights are staged by the writer, side files are renamed into place, and the
config, which makes the folder a model, comes last.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.hashing import InputHashes, hash_of
from mergeopt.checkpoint.jsonfile import encode_json
from mergeopt.checkpoint.locate import commits
from mergeopt.checkpoint.sidefiles import output_config, remove_side_files, side_files, write_config
from mergeopt.checkpoint.sink import Hasher, OutputTensor
from mergeopt.checkpoint.staging import claimed
from mergeopt.checkpoint.writer import CheckpointWriter
from mergeopt.errors import InputError
from mergeopt.files import remove_files, write_text
from mergeopt.merge.finite import told
from mergeopt.merge.layout import lay_out
from mergeopt.merge.lock import LOCK_FILE, Lock
from mergeopt.merge.notices import layout_notices
from mergeopt.merge.plan import Plan, fill, unmatched_filters
from mergeopt.merge.refinement import SIDECAR, Refinement
from mergeopt.merge.sources import Checkpoints, facts
from mergeopt.merge.stream import Execute, Progress, stream
from mergeopt.merge.vocabulary import Vocabulary, carry_files, choose_vocabulary
from mergeopt.methods import METHODS, SCHEMAS
from mergeopt.methods.as_mergekit import ARITHMETIC
from mergeopt.recipe.recipe import Recipe, Source
from mergeopt.recipe.write import recipe_data, to_yaml

PORTABILITY = ("exact", "rounding", "other random draw", "mergeopt only")
_BLOCK = 4096  # bytes that a file may take beyond its size


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge left: the lock file's content, and what the user should know about the result, in words."""

    lock: Lock
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A recipe with its models opened and its plan made; no weights read yet.

    `checkpoints` are seen through the `vocabulary`, which says whose tokenizer and chat template the output carries.
    """

    recipe: Recipe
    checkpoints: Checkpoints
    plan: Plan
    vocabulary: Vocabulary
    notices: tuple[str, ...] = ()
    refinement: Refinement | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The output's config.json."""
        return merged_config(self.plan, self.checkpoints[self.recipe.donor])


def prepare(recipe: Recipe, checkpoints: Checkpoints) -> Prepared:
    """Plans the merge.

    Args:
        recipe: What to merge.
        checkpoints: Every model in `recipe.named`.

    Raises:
        InputError: models, tokenizers, settings, the refinement or the output's config do not fit.
    """
    schema = SCHEMAS[recipe.method]
    vocabulary = choose_vocabulary(recipe, checkpoints)
    models = facts(vocabulary.checkpoints)
    layout = lay_out(recipe, models, schema)
    plan = fill(layout, recipe, schema)
    refinement = None if recipe.refinement is None else Refinement.read(Path(recipe.refinement), plan)
    prepared = Prepared(recipe, vocabulary.checkpoints, plan, vocabulary, (), refinement)
    _ = prepared.config  # refused now, not when the weights are written
    notices = [*unmatched_filters(layout, recipe), *layout_notices(layout, recipe, models)]
    joined = recipe.base is not None and recipe.whole_models and not schema.takes_base
    if joined and recipe.slices[0].sources[-1] == Source(recipe.donor):
        notices.append(f"base_model {str(recipe.base)!r} is merged like the models listed: {schema.name} has no base")
    notices += dict.fromkeys(notice for checkpoint in checkpoints.values() for notice in checkpoint.notices)
    return replace(prepared, notices=(*notices, *vocabulary.notices))


def merged_config(plan: Plan, donor: Checkpoint) -> dict[str, Any]:
    """The config.json of a plan's output, after that of its donor."""
    picked = plan.picked
    return output_config(
        donor.config,
        dtype=_main_dtype(plan),
        layers=None if picked is None else len(picked),
        tie=False if plan.untied else None,
        picked=picked,
        stack=donor.shape.main,
    )


def merge_to_folder(
    prepared: Prepared,
    out: Path,
    *,
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress | None = None,
    lock_also: Mapping[str, Any] | None = None,
    text: str | None = None,
    strict: bool = False,
    execute: Execute = stream,
) -> Merged:
    """Writes the merged model: weights, config, the donor's tokenizer files, the recipe (its refinement beside it) and
    the lock file.

    Args:
        prepared: From `prepare`.
        out: The folder; may exist. An earlier model in it goes, with its tokenizer.
        max_shard_bytes: Limit per weight file.
        progress: Told of bytes as they are written.
        lock_also: Further entries of the lock file.
        text: What to write as the recipe: by default the prepared one alone.
        strict: Publish nothing where a tensor came out with NaN or infinity.
        execute: What computes the plan into the writer.

    Raises:
        InputError: `out` is or lies in the folder of a source, or another process is writing there; with `strict`, a
            tensor that is not finite.
        MergeoptError: disk full, a source that changed meanwhile. Nothing is left behind then, or, where the weights
            were in place already, a folder without config.json.
    """
    check_apart(out, prepared.checkpoints)
    with claimed(out):
        hashes = InputHashes.start([file for c in prepared.checkpoints.values() for file in c.files])
        try:
            beside, tensors = _bytes_beside(prepared), outputs(prepared.plan)
            with CheckpointWriter(out, tensors, max_shard_bytes=max_shard_bytes, beside=beside) as writer:
                broken = execute(prepared.plan, prepared.checkpoints, writer, progress, prepared.refinement)
                notices = (told(broken, prepared.checkpoints),) if broken else ()
                if strict and notices:
                    raise InputError(notices[0], remedy="mend or replace the source, or merge without --strict")
                inputs = hashes.result()
                for checkpoint in prepared.checkpoints.values():
                    checkpoint.check_unchanged()
                # of an earlier model: they do not describe these weights
                remove_files(out / name for name in ("config.json", LOCK_FILE))
                writer.commit()
                digests = writer.digests()
        finally:
            hashes.cancel()
        remove_side_files(out)
        hashed = write_side_files(prepared, out)
        found = lock(prepared, inputs, digests, hashed, _write_recipe(prepared, out, text))
        found.write(out, lock_also or {})
        write_config(out, prepared.config)
        return Merged(found, notices)


def hash_merge(prepared: Prepared, progress: Progress | None = None, execute: Execute = stream) -> dict[str, str]:
    """The hash of every output tensor, as in the lock file; nothing is written. `execute` is what computes.

    Raises:
        InputError, MergeoptError: what reading and merging met.
    """
    hasher = Hasher(outputs(prepared.plan))
    execute(prepared.plan, prepared.checkpoints, hasher, progress, prepared.refinement)
    for checkpoint in prepared.checkpoints.values():
        checkpoint.check_unchanged()
    return _marked(hasher.digests())


def write_side_files(prepared: Prepared, folder: Path) -> dict[str, str]:
    """Writes what stands beside the weights, except the config, which comes last; returns the hash of each file and of
    the config to come, by path inside the folder.

    Raises:
        MergeoptError: disk full, no permission.
    """
    files = carry_files(prepared.vocabulary, folder)
    hashes = {file.relative_to(folder).as_posix(): hash_of(file.read_bytes()) for file in files}
    return hashes | {"config.json": hash_of(encode_json(prepared.config))}


def lock(
    prepared: Prepared, inputs: Mapping[Path, str], digests: Mapping[str, str], side_files: Mapping[str, str], text: str
) -> Lock:
    """What the output was made from: enough to make it again and compare, tensor by tensor.

    Args:
        prepared: What was merged.
        inputs: Hashes of all weight files of the sources.
        digests: xxh3-128 of the output tensors (hexadecimal).
        side_files: Hashes of the files beside the weights.
        text: ``recipe.yaml``.
    """
    models = {str(ref): {file.name: inputs[file] for file in c.files} for ref, c in prepared.checkpoints.items()}
    return Lock(
        seed=prepared.recipe.seed,
        inputs=models,
        commits=commits(inputs),
        outputs=_marked(digests),
        side_files=side_files,
        recipe=hash_of(text.encode("utf-8")),
        refinement=None if prepared.refinement is None else hash_of(prepared.refinement.encoded()),
        portability=portability(prepared),
    )


def portability(prepared: Prepared) -> str:
    """How mergekit's model from the same recipe compares with ours.

    "exact": bit for bit; "rounding": float32 inside and one rounding, where mergekit rounds as it goes;
    "other random draw": the same plan with another mask; "mergeopt only": mergekit has no way to say it.
    """
    tokenizer = prepared.recipe.tokenizer
    if not _known_to_mergekit(prepared) or (tokenizer is not None and tokenizer.among):
        return "mergeopt only"
    method = METHODS[prepared.plan.method]
    jobs = [job for job in prepared.plan.jobs if not job.verbatim]
    if method.schema.random and any(min(job.coefficients["density"], default=1) < 1 for job in jobs):
        return "other random draw"
    copied = method.name == "passthrough" and all(job.coefficients["scale"] == (None,) for job in jobs)
    return "exact" if copied else "rounding"


def _known_to_mergekit(prepared: Prepared) -> bool:
    """Has mergekit the recipe's method, and nothing of it below the tensor?"""
    return prepared.refinement is None and prepared.plan.method in ARITHMETIC


def check_apart(out: Path, checkpoints: Checkpoints) -> None:
    """Raises InputError where `out` is the folder of a source, whose weights would be replaced, or lies inside it."""
    for ref, checkpoint in checkpoints.items():
        source, place = checkpoint.folder.resolve(), out.resolve()
        if place.is_relative_to(source):
            relation = "is" if place == source else "lies in"
            raise InputError(f"{relation} the folder of {str(ref)!r}", where=str(out), remedy="give another OUT")


def outputs(plan: Plan) -> list[OutputTensor]:
    """Every tensor that a plan makes."""
    return [OutputTensor(job.tensor, job.shape, job.dtype) for job in plan.jobs]


def _bytes_beside(prepared: Prepared) -> int:
    """Roughly what stands beside the weights: whole blocks of the donor's files, of recipe, config and lock file."""
    sizes = [file.stat().st_size for file in side_files(prepared.vocabulary.checkpoints[prepared.vocabulary.donor])]
    lock_file = sum(len(job.tensor) + 64 for job in prepared.plan.jobs)
    refined = 0 if prepared.refinement is None else len(prepared.refinement.encoded())
    return sum(size + _BLOCK for size in (*sizes, lock_file, refined, *[0] * 3))


def _write_recipe(prepared: Prepared, out: Path, text: str | None) -> str:
    """Writes the recipe (or another text for it), for us and for mergekit, and its refinement; returns the text."""
    recipe = prepared.recipe
    if prepared.refinement is not None:
        prepared.refinement.write(out / SIDECAR)
        recipe = replace(recipe, refinement=SIDECAR)
    text = text or to_yaml(recipe_data(recipe))
    write_text(out / "recipe.yaml", text)
    if _known_to_mergekit(prepared):
        write_text(out / "mergekit_config.yml", text)
    else:  # past a refinement mergekit would read, and make another model in silence
        remove_files([out / "mergekit_config.yml"])
    return text


def _marked(digests: Mapping[str, str]) -> dict[str, str]:
    return {name: f"xxh3-128:{digest}" for name, digest in digests.items()}


def _main_dtype(plan: Plan) -> str:
    """The dtype of most elements that are numbers."""
    sizes: Counter[str] = Counter()
    for job in plan.jobs:
        sizes[job.dtype] += 0 if job.verbatim else prod(job.shape)
    return sizes.most_common(1)[0][0]
