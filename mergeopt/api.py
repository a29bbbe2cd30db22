"""Merging from Python: what the commands do, as functions that return values which show themselves in a notebook.

::

    import mergeopt
    model = mergeopt.merge("recipe.yaml", "out")
    found = mergeopt.search("search.yml", "best", overrides={"optimize.trials": 8})
    found.plot()

A recipe or search file is a path, YAML text (a string of several lines) or plain data. Options are those of the command
line under the same names; so are the words of errors, which are `mergeopt.errors.InputError` for a mistake in what was
given. Nothing is printed: give `listener=print` to a search to see what happens.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergeopt.cli.common import check_out
from mergeopt.errors import InputError
from mergeopt.files import find_file
from mergeopt.merge.mergekit_mode import Match
from mergeopt.merge.stages import merge_stages, prepare_stages
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document, parse_documents, read_documents
from mergeopt.recipe.stages import read_stages
from mergeopt.recipe.write import to_yaml
from mergeopt.report.notebook import Evaluation, LearnedMerge, MergedModel, read_folder
from mergeopt.report.publish import begin_anew, check_room, opened_study, publish
from mergeopt.study.evaluation import evaluate_models
from mergeopt.study.events import Listener, nobody
from mergeopt.study.job import layers_near, prepare_search
from mergeopt.study.search import run_search
from mergeopt.study.searchfile import read_search_file
from mergeopt.study.workbench import Compute

__all__ = ["Evaluation", "LearnedMerge", "MergedModel", "evaluate", "load", "merge", "search"]

Yaml = str | Path | Mapping[str, Any]
"""A path, YAML text, or plain data."""


def merge(
    recipe: Yaml | Sequence[Yaml],
    out: str | Path,
    *,
    force: bool = False,
    strict: bool = False,
    max_shard_bytes: int = 5_000_000_000,
    match: str | None = None,
    random_seed: int | None = None,
) -> MergedModel:
    """Makes a model folder from a recipe, streaming.

    Args:
        recipe: A mergekit recipe; several are the stages of a chain, the last one the output.
        out: The folder.
        force: Write into a folder that is not empty.
        strict: Keys without effect, NaN and infinity are errors.
        max_shard_bytes: Limit per weight file.
        match: ``"mergekit"``: bit for bit what mergekit 0.1.5 writes.
        random_seed: mergekit's, with `match`.

    Raises:
        InputError: a mistake in the recipe or its models, with place and remedy.
        MergeoptError: disk full, a source that changed meanwhile.
    """
    place = Path(out)
    check_out(place, force=force)
    if match not in (None, "mergekit"):
        raise InputError(f"match {match!r} is unknown", remedy='write match="mergekit"')
    if random_seed is not None and match is None:
        raise InputError("random_seed is for merges that match mergekit's", remedy="give the recipe a seed:")
    given = [recipe] if isinstance(recipe, str | Path | Mapping) else list(recipe)
    stages = read_stages([document for one in given for document in _documents(one)], SCHEMAS)
    chain = prepare_stages(stages, None if match is None else Match(random_seed))
    notices = [*stages.notices, *chain.notices]
    if strict and notices:
        raise InputError(notices[0])
    notices += merge_stages(
        chain,
        place,
        folder=place.with_name(f"{place.name}.stages"),
        keep=False,
        max_shard_bytes=max_shard_bytes,
        strict=strict,
    )
    return MergedModel.read(place, notices)


def search(
    space: Yaml,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    overrides: Mapping[str, Any] | None = None,
    free: Sequence[str] = (),
    evals: Sequence[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | str = "auto",
    trust_eval_code: bool = False,
    allow_benchmark: bool = False,
    listener: Listener = nobody,
) -> LearnedMerge:
    """Learns the merge and writes the best one.

    Args:
        space: A search file (or the name of a shipped one), or a plain recipe with `free` and `evals`.
        out: The folder for the model, its recipe and the study.
        resume: Go on with the study in `out`.
        force: Begin anew in a folder that is not empty.
        overrides: Keys of the search file: ``{"optimize.trials": 50}``.
        free: Parameters of a plain recipe whose numbers are searched.
        evals: The objective of a plain recipe.
        device, dtype, batch_size: As on the command line.
        trust_eval_code: Let evals run local code.
        allow_benchmark: Search on a benchmark's own test items.
        listener: Told what happens, as `mergeopt.study.events`.

    Raises:
        InputError: a mistake in the file, its models or its evals.
        MergeoptError: disk full, models that give no finite scores.
    """
    place = Path(out)
    check_out(place, force=force, resume=resume)
    path = None if _is_text(space) else find_file(str(space), None, "search_spaces")
    near = Path() if path is None else path.parent
    document = _one(_documents(space if path is None else path))
    changes = [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()]
    file = read_search_file(document, layers_of=layers_near(near), overrides=changes, free=free, evals=evals)
    compute = Compute.parse(device, dtype, str(batch_size))
    job = prepare_search(file, near, trust_eval_code=trust_eval_code, allow_benchmark=allow_benchmark)
    check_room(job, place)
    if force and not resume:
        begin_anew(place)
    with opened_study(job, place, resume=resume) as record:
        found = run_search(job, record, compute, listener)
        publish(found, job, place, listener)
    return LearnedMerge(MergedModel.read(place, job.notices), found.result)


def evaluate(
    models: str | Path | Sequence[str | Path],
    evals: str | Sequence[str] = (),
    *,
    limit: float | None = None,
    split: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | str = "auto",
    trust_eval_code: bool = False,
) -> Evaluation:
    """Scores models side by side; without `evals` those of a search's output, on its report items.

    Raises:
        InputError: a model or an eval that cannot be used.
    """
    listed = [models] if isinstance(models, str | Path) else list(models)
    rows, notices = evaluate_models(
        [str(model) for model in listed],
        [evals] if isinstance(evals, str) else list(evals),
        Compute.parse(device, dtype, str(batch_size)),
        limit=limit,
        split=split,
        trust_eval_code=trust_eval_code,
    )
    return Evaluation(tuple(rows), tuple(notices))


def load(out: str | Path) -> MergedModel | LearnedMerge:
    """Opens what `merge` or `search` left in a folder. Raises InputError: neither wrote it."""
    return read_folder(Path(out))


def _is_text(given: Yaml) -> bool:
    return isinstance(given, Mapping) or (isinstance(given, str) and "\n" in given.strip())


def _documents(given: Yaml) -> tuple[Document, ...]:
    if isinstance(given, Mapping):
        return parse_documents(to_yaml(dict(given)), "recipe")
    if isinstance(given, str) and _is_text(given):
        return parse_documents(given, "recipe")
    return read_documents(Path(given))


def _one(documents: Sequence[Document]) -> Document:
    if len(documents) > 1:
        raise InputError("a search file is one document", where=documents[1].where())
    return documents[0]
