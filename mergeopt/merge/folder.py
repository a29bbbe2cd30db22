"""A recipe becomes a model folder, and a lock file says from what.

Everything appears whole or not at all: weights are staged by the writer, side files are renamed into place, and the
config, which makes the folder a model, comes last.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import xxhash

import mergeopt
from mergeopt.checkpoint.hashing import InputHashes
from mergeopt.checkpoint.locate import commits
from mergeopt.checkpoint.sidefiles import copy_side_files, output_config, write_config
from mergeopt.checkpoint.writer import CheckpointWriter, OutputTensor
from mergeopt.errors import InputError
from mergeopt.files import write_text
from mergeopt.merge.finite import told
from mergeopt.merge.layout import lay_out
from mergeopt.merge.notices import layout_notices
from mergeopt.merge.plan import Plan, fill, unmatched_filters
from mergeopt.merge.refinement import SIDECAR, Refinement
from mergeopt.merge.sources import Checkpoints, facts
from mergeopt.merge.stream import Progress, stream
from mergeopt.merge.vocabulary import TEMPLATE_FILE, Vocabulary, choose_vocabulary
from mergeopt.methods import METHODS, SCHEMAS
from mergeopt.recipe.recipe import Recipe, Source
from mergeopt.recipe.write import recipe_data, to_yaml


@dataclass(frozen=True)
class Prepared:
    """A recipe with its models opened and its plan made; no weights read yet."""

    recipe: Recipe
    checkpoints: Checkpoints
    plan: Plan
    notices: tuple[str, ...]
    refinement: Refinement | None = None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Whose tokenizer and chat template the output carries."""
        return choose_vocabulary(self.recipe, self.checkpoints)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The output's config.json."""
        donor = self.checkpoints[self.recipe.donor]
        picked = self.plan.picked
        return output_config(
            donor.config,
            dtype=_main_dtype(self.plan),
            layers=None if picked is None else len(picked),
            tie=False if self.plan.untied else None,
            picked=picked,
            stack=donor.shape.main,
        )


def prepare(recipe: Recipe, checkpoints: Checkpoints) -> Prepared:
    """Plans the merge. Raises InputError where models, settings, the refinement or the output's config do not fit."""
    schema = SCHEMAS[recipe.method]
    models = facts(checkpoints)
    layout = lay_out(recipe, models, schema)
    plan = fill(layout, recipe, schema)
    refinement = None if recipe.refinement is None else Refinement.read(Path(recipe.refinement), plan)
    prepared = Prepared(recipe, checkpoints, plan, (), refinement)
    _ = prepared.config  # refused now, not when the weights are written
    notices = [*unmatched_filters(layout, recipe), *layout_notices(layout, recipe, models)]
    joined = recipe.base is not None and recipe.whole_models and not schema.takes_base
    if joined and recipe.slices[0].sources[-1] == Source(recipe.donor):
        notices.append(f"base_model {str(recipe.base)!r} is merged like the models listed: {schema.name} has no base")
    notices += dict.fromkeys(notice for checkpoint in checkpoints.values() for notice in checkpoint.notices)
    return replace(prepared, notices=(*notices, *prepared.vocabulary.notices))


def merge_to_folder(
    prepared: Prepared,
    out: Path,
    *,
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress | None = None,
    lock_also: Mapping[str, Any] | None = None,
    text: str | None = None,
    strict: bool = False,
) -> tuple[str, ...]:
    """Writes the merged model: weights, config, the donor's tokenizer files, the recipe (its refinement beside it) and
    the lock file.

    Args:
        prepared: From `prepare`.
        out: The folder; may exist.
        max_shard_bytes: Limit per weight file.
        progress: Told of bytes as they are written.
        lock_also: Further entries of the lock file.
        text: What to write as the recipe: by default the prepared one alone.
        strict: Publish nothing where a tensor came out with NaN or infinity.

    Returns:
        What the user should know about the result, in words.

    Raises:
        InputError: `out` is the folder of a source; with `strict`, a tensor that is not finite.
        MergeoptError: disk full, a source that changed meanwhile. Nothing is left behind then, or, where the weights
            were in place already, a folder without config.json.
    """
    check_apart(out, prepared.checkpoints)
    plan, vocabulary = prepared.plan, prepared.vocabulary
    hashes = InputHashes.start([file for c in prepared.checkpoints.values() for file in c.files])
    tensors = [OutputTensor(job.tensor, job.shape, job.dtype) for job in plan.jobs]
    try:
        with CheckpointWriter(out, tensors, max_shard_bytes=max_shard_bytes) as writer:
            broken = stream(plan, prepared.checkpoints, writer, progress, prepared.refinement)
            notices = (told(broken, prepared.checkpoints),) if broken else ()
            if strict and notices:
                raise InputError(notices[0], remedy="mend or replace the source, or merge without --strict")
            inputs = hashes.result()
            for checkpoint in prepared.checkpoints.values():
                checkpoint.check_unchanged()
            (out / "config.json").unlink(missing_ok=True)  # of an earlier model: it does not describe these weights
            writer.commit()
            digests = writer.digests()
    finally:
        hashes.cancel()
    copy_side_files(prepared.checkpoints[vocabulary.donor], out)
    if vocabulary.chat_template is not None:
        write_text(out / TEMPLATE_FILE, vocabulary.chat_template)
    recipe = prepared.recipe
    if prepared.refinement is not None:
        prepared.refinement.write(out / SIDECAR)
        recipe = replace(recipe, refinement=SIDECAR)
    text = text or to_yaml(recipe_data(recipe))
    write_text(out / "recipe.yaml", text)
    if prepared.refinement is None:
        write_text(out / "mergekit_config.yml", text)
    else:  # mergekit would read past the refinement and make another model in silence
        (out / "mergekit_config.yml").unlink(missing_ok=True)
    write_text(
        out / "recipe.lock.json", json.dumps(lock(prepared, inputs, digests) | dict(lock_also or {}), indent=1) + "\n"
    )
    write_config(out, prepared.config)
    return notices


def portability(prepared: Prepared) -> str:
    """How mergekit's model from the same recipe compares with ours.

    "exact": bit for bit; "rounding": float32 inside and one rounding, where mergekit rounds as it goes;
    "other random draw": the same plan with another mask; "mergeopt only": mergekit has no way to say it.
    """
    if prepared.refinement is not None:
        return "mergeopt only"
    method = METHODS[prepared.plan.method]
    jobs = [job for job in prepared.plan.jobs if not job.verbatim]
    if method.schema.random and any(min(job.coefficients["density"], default=1) < 1 for job in jobs):
        return "other random draw"
    copied = method.name == "passthrough" and all(job.coefficients["scale"] == (None,) for job in jobs)
    return "exact" if copied else "rounding"


def check_apart(out: Path, checkpoints: Checkpoints) -> None:
    """Raises InputError where `out` is the folder of a source: its weights would be replaced."""
    for ref, checkpoint in checkpoints.items():
        if out.resolve() == checkpoint.folder.resolve():
            raise InputError(f"is the folder of {str(ref)!r}", where=str(out), remedy="give another OUT")


def lock(prepared: Prepared, inputs: Mapping[Path, str], digests: Mapping[str, str]) -> dict[str, Any]:
    """What the output was made from: enough to make it again and compare, tensor by tensor."""
    models = {
        str(ref): {file.name: inputs[file] for file in checkpoint.files}
        for ref, checkpoint in prepared.checkpoints.items()
    }
    refined = prepared.refinement and f"xxh3-128:{xxhash.xxh3_128_hexdigest(prepared.refinement.encoded())}"
    return {
        "format": 1,
        "mergeopt": mergeopt.__version__,
        "seed": prepared.recipe.seed,
        "portability": portability(prepared),
        **({"refinement": refined} if refined else {}),
        "versions": versions(),
        "inputs": models,
        **({"commits": found} if (found := commits(inputs)) else {}),
        "outputs": {name: f"xxh3-128:{digest}" for name, digest in digests.items()},
    }


def versions() -> dict[str, str]:
    """Installed versions of what numbers depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "safetensors", "numpy", "optuna", "lm_eval")}


def _main_dtype(plan: Plan) -> str:
    """The dtype of most elements that are numbers."""
    sizes: Counter[str] = Counter()
    for job in plan.jobs:
        sizes[job.dtype] += 0 if job.verbatim else prod(job.shape)
    return sizes.most_common(1)[0][0]
