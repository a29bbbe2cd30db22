"""What an output folder says of its search, finished or not; no weights are read, and nothing is written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.errors import InputError, MergeoptError
from mergeopt.merge.folder import prepare
from mergeopt.merge.lock import LOCK_FILE, Lock
from mergeopt.merge.sources import open_models
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document, read_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.shape import Shape
from mergeopt.recipe.write import to_yaml
from mergeopt.report.html.heatmap import Coefficients, coefficients_of
from mergeopt.report.html.items import Texts, read_items
from mergeopt.space.space import parse_space
from mergeopt.study.reading import Reading, read_study
from mergeopt.study.record import Trial
from mergeopt.study.result import Result


@dataclass(frozen=True)
class Facts:
    """Everything that the report is made of.

    `recipe` is the winner's, or the best trial's so far, and `whose` says which; `lacking` says why the coefficients
    are not known.
    """

    name: str
    study: Reading
    result: Result | None
    lock: Lock | None
    texts: Mapping[str, Texts]
    whose: str
    recipe: str
    coefficients: Coefficients | None
    lacking: str

    @property
    def near(self) -> Path | None:
        return _near(self.study)


def best_trial(study: Reading) -> Trial | None:
    """The best trial so far that keeps every constraint."""
    feasible = [trial for trial in study.trials if trial.value is not None and trial.violation == 0]
    return max(feasible, key=lambda trial: trial.value or 0.0, default=None)


def read_facts(out: Path, *, storage: str | None = None) -> Facts:
    """The facts of an output folder.

    Args:
        out: What `mergeopt search` wrote, or is writing.
        storage: The Optuna storage URL of the study, where it has one.

    Raises:
        InputError: no study, or a file of it that cannot be read.
    """
    study = read_study(out / "search", storage=storage)
    finished = (out / "result.json").is_file() and (out / LOCK_FILE).is_file()
    result = Result.parse(read_json_object(out / "result.json"), str(out / "result.json")) if finished else None
    document, whose, lacking = None, "", "no trial was finished yet"
    coefficients = None
    try:
        if result is not None:
            document, whose = read_document(out / "recipe.yaml"), "the winner"
        elif (best := best_trial(study)) is not None:
            document, whose = _recipe_of(best, study), f"trial {best.number}, the best so far"
        if document is not None:
            coefficients = _coefficients(document, _near(study))
            lacking = "" if coefficients.panels else f"{whose} is one model as it is"
    except MergeoptError as error:  # models that have moved since: the rest can be told all the same
        lacking = str(error)
    return Facts(
        name=out.resolve().name,
        study=study,
        result=result,
        lock=Lock.read(out) if finished else None,
        texts=read_items(out / "search") if finished else {},
        whose=whose,
        recipe="" if document is None else document.text or to_yaml(document.data),
        coefficients=coefficients,
        lacking=lacking,
    )


def _near(study: Reading) -> Path | None:
    """The folder of the search file."""
    return next((Path(note["folder"]) for note in study.notes("near")), None)


def _recipe_of(trial: Trial, study: Reading) -> Document:
    """The recipe of a trial: the search file's, its holes filled."""
    opened: dict[ModelRef, Any] = {}
    near = _near(study)

    def shape_of(ref: ModelRef) -> Shape:
        if ref not in opened:
            opened.update(open_models([ref], near))
        shape: Shape = opened[ref].shape
        return shape

    source = Document(study.identity["recipe"], "the search file")
    branches = parse_space(source, schemas=SCHEMAS, shape_of=shape_of).branches
    branch = next((branch for branch in branches if branch.name == trial.branch), None)
    if branch is None or {d.name for d in branch.dimensions} != trial.params.keys():
        raise InputError("the models have changed since the study was begun")
    return Document(branch.recipe([trial.params[d.name] for d in branch.dimensions]), source.source)


def _coefficients(document: Document, near: Path | None) -> Coefficients:
    recipe = replace(read_recipe(document, SCHEMAS).recipe, refinement=None)
    prepared = prepare(recipe, open_models(recipe.named, near, recipe.base))
    return coefficients_of(prepared.plan, prepared.checkpoints[recipe.donor].shape.main)
