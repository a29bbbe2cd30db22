"""A search, read and checked: everything that could go wrong later is found here, from headers and files alone."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.errors import InputError, placed
from mergeopt.files import find_file
from mergeopt.merge.layout import lay_out
from mergeopt.merge.notices import layout_notices
from mergeopt.merge.plan import unmatched_filters
from mergeopt.merge.sources import Checkpoints, facts, open_models
from mergeopt.merge.vocabulary import Vocabulary, choose_vocabulary
from mergeopt.methods import SCHEMAS
from mergeopt.optimizers import VERSION
from mergeopt.recipe.document import Document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef, Recipe
from mergeopt.recipe.shape import Shape
from mergeopt.scoring.statistics import detectable
from mergeopt.scoring.suite import Suite
from mergeopt.space.space import Space, parse_space
from mergeopt.study.evals import with_files
from mergeopt.study.record import StudyRecord
from mergeopt.study.references import Contender, contenders, named, side_by_side
from mergeopt.study.searchfile import SearchFile
from mergeopt.study.steps import Steps
from mergeopt.study.tokenizer import check_models_spoken, check_one_vocabulary, output_tokenizer


@dataclass(frozen=True)
class SearchJob:
    """A search, read and checked; no weights read."""

    file: SearchFile
    space: Space
    recipe: Recipe  # the first branch at its init: names the models; of a chain, those merged in the end
    checkpoints: Checkpoints  # as candidates are made of them: seen through the vocabulary
    vocabulary: Vocabulary
    opened: Checkpoints  # as they are on disk
    contenders: tuple[Contender, ...]
    suite: Suite
    near: Path | None
    notices: tuple[str, ...]
    steps: Steps  # of a chain, those before the last

    @property
    def speaker(self) -> ModelRef | None:
        """Whose generation settings go with the output's tokenizer; None: each candidate's donor's."""
        return None if self.recipe.tokenizer is None else self.vocabulary.donor

    def recipe_at(self, branch: int, point: Sequence[float]) -> Recipe:
        """The plain recipe of a point."""
        data = {"seed": self.file.optimize.seed} | self.space.branches[branch].recipe(point)
        return read_recipe(Document(data, self.file.recipe.source), SCHEMAS).recipe

    def detectable(self) -> float:
        """The smallest difference in the mean of the evals' 0/1 scores that the report items show with power 0.8."""
        terms = [info for info in self.suite.evals if not info.entry.is_constraint]
        per_eval = [detectable(info.count("report")) for info in terms]
        return float(np.sqrt(np.sum(np.square(per_eval))) / len(terms))


def prepare_search(
    file: SearchFile, near: Path | None, *, trust_eval_code: bool = False, allow_benchmark: bool = False
) -> SearchJob:
    """Opens models by their headers, parses the space, plans every branch, divides the items; no weights are read.

    Args:
        file: From `read_search_file`.
        near: The search file's folder: paths are looked up there after the working folder.
        trust_eval_code: Allow evals to run local code.
        allow_benchmark: Allow searching on a benchmark's test split.

    Raises:
        InputError: anything that would make the search fail later.
    """
    with placed(file.recipe.source):
        return _prepared(file, near, trust_eval_code, allow_benchmark)


def _prepared(file: SearchFile, near: Path | None, trust_eval_code: bool, allow_benchmark: bool) -> SearchJob:
    opened: dict[ModelRef, Any] = {}
    stated = file.recipe.data.get("base_model")
    base = ModelRef.parse(stated, "base_model") if isinstance(stated, str) else None

    def shape_of(ref: ModelRef) -> Shape:
        if ref not in opened:
            opened.update(open_models([ref], near, base))
        shape: Shape = opened[ref].shape
        return shape

    chained = "chain" in file.recipe.data
    if chained:
        _check_chain(file)
    steps = Steps.planned(file.recipe, file.optimize.seed, near)
    opened |= {ModelRef(name): view for name, view in steps.views.items()}
    space = parse_space(file.recipe, schemas=SCHEMAS, shape_of=shape_of)
    if len(space.branches) == 1:  # a hole that one choice has no use for may serve another
        for text in space.notices:
            if text.endswith("no tensor takes its value from it"):
                raise InputError(text, remedy="mend its filter, or leave it out")
    notices = [*file.notices, *steps.notices, *space.notices]
    recipes = []
    for branch in space.branches:
        reading = read_recipe(Document(branch.recipe(branch.init), file.recipe.source, file.recipe.lines), SCHEMAS)
        if reading.notices:  # in a search file nothing may be said in vain
            raise InputError(reading.notices[0])
        recipes.append(reading.recipe)
        for ref in reading.recipe.named:
            shape_of(ref)
    check_one_vocabulary(recipes)
    merged = recipes[0]
    if chained:
        leaves = dict.fromkeys(ref for recipe in recipes for ref in steps.chain(recipe, near).models)
        for ref in leaves:
            shape_of(ref)
        merged = side_by_side(tuple(leaves), merged, base)
    vocabulary = choose_vocabulary(merged, opened)
    known = facts(vocabulary.checkpoints)
    for recipe in recipes:
        layout = lay_out(recipe, known, SCHEMAS[recipe.method])
        for problem in unmatched_filters(layout, recipe):
            raise InputError(problem, where=file.recipe.source)
        notices += layout_notices(layout, recipe, known)
    listed = named(file.optimize.start, file.optimize.compare, near, merged)
    check_models_spoken(merged, [c.recipe for c in listed], _teachers(file))
    opened.update(open_models([r for c in listed for r in c.recipe.models if r not in opened], near))
    opened.update(open_models([ref for ref in _teachers(file) if ref not in opened], near))
    for prompts in file.learn.prompts if file.learn else ():
        if prompts.file is not None:  # a misspelt one should not wait for its turn
            find_file(prompts.file, near, "evals")
    seen = {**opened, **vocabulary.checkpoints}
    found, left = contenders(merged, listed, seen)
    suite = Suite.build(
        with_files(file.objective, near),
        tokenizer=output_tokenizer(vocabulary),
        near=near,
        shares=file.optimize.shares,
        seed=file.optimize.seed,
        calibrate_used=file.optimize.learns,
        trust_eval_code=trust_eval_code,
        allow_benchmark=allow_benchmark,
    )
    notices += [*vocabulary.notices, *left, *suite.notices]
    notices += [said for checkpoint in opened.values() for said in checkpoint.notices]
    if len(space.branches) == 1 and not space.branches[0].dimensions:
        notices.append("the recipe has no holes: nothing is searched, it is only compared")
    if len(space.branches) > file.optimize.most_trials > 0:
        notices.append(f"{len(space.branches)} branches and {file.optimize.most_trials} trials: not every one is tried")
    if file.optimize.learns:
        still = dict.fromkeys(name for branch in space.branches for name in branch.thresholds)
        notices += [f"{name} is a threshold: no gradient moves it, only a search by trials" for name in still]
    if file.learn is not None and not file.optimize.learns:
        notices.append(f"learn: has no effect on method {file.optimize.method}")
    notices = list(dict.fromkeys(notices))
    inner = steps.inner(recipes)  # read through other steps alone: a search has no need to hold them
    opened, seen = ({ref: c for ref, c in each.items() if ref not in inner} for each in (opened, seen))
    return SearchJob(file, space, merged, seen, vocabulary, opened, found, suite, near, tuple(notices), steps)


def _check_chain(file: SearchFile) -> None:
    """Raises InputError for what a search over chains cannot do yet."""
    for key in ("tokenizer", "tokenizer_source"):
        if file.recipe.data.get(key) is not None:
            problem, remedy = "a chain with a vocabulary of its own cannot be searched", "bring the models to one first"
            raise InputError(problem, where=file.recipe.where((key,)), remedy=remedy)
    if not file.optimize.portable:
        problem = "numbers below the tensor cannot be learned on a chain"
        raise InputError(problem, where="optimize.portable", remedy="leave it out")


def _teachers(file: SearchFile) -> list[ModelRef]:
    """The models that the file names as teachers."""
    named_ = [(e.teacher, f"objective {e.eval} teacher") for e in file.objective if e.teacher is not None]
    named_ += [(p.teacher, f"learn.prompts {p.where} teacher") for p in (file.learn.prompts if file.learn else ())]
    return list(dict.fromkeys(ModelRef.parse(name, where) for name, where in named_))


def layers_near(near: Path | None) -> Callable[[ModelRef], int]:
    """Counts a model's layers, from its headers."""
    return lambda ref: open_models([ref], near)[ref].shape.layers


def open_record(job: SearchJob, folder: Path, *, resume: bool) -> StudyRecord:
    """A new record in `folder`, or the one to go on with.

    Raises:
        InputError: nothing to resume, or a study of something else.
    """
    space = {branch.name: branch.dimensions for branch in job.space.branches}
    opener = StudyRecord.resume if resume else StudyRecord.create
    return opener(folder, space=space, identity=identity(job), storage=job.file.optimize.storage)


def identity(job: SearchJob) -> dict[str, Any]:
    """What makes a study this one: recipe, objective, options, models and items. Budgets may grow on resuming."""
    options = job.file.optimize.model_dump(mode="json", exclude={"trials", "tokens", "time", "storage", "finalists"})
    return {
        "recipe": job.file.recipe.data,
        "objective": [entry.model_dump(mode="json") for entry in job.file.objective],
        "optimize": options,
        "version": VERSION,
        "learn": None if job.file.learn is None else job.file.learn.model_dump(mode="json"),
        "models": {str(ref): stamps(checkpoint) for ref, checkpoint in job.checkpoints.items()},
        "items": {
            info.name: {s: len(h) and digest("".join(h)) for s, h in info.hashes.items()} for info in job.suite.evals
        },
    }


def stamps(checkpoint: Checkpoint) -> list[str]:
    """Name, size and time of change of each file: another model under an old name is another one."""
    return [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in checkpoint.files]


def digest(text: str) -> str:
    """A short hash, to recognise a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
