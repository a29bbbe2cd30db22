"""One published merge, as its file says it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mergeopt.errors import InputError, did_you_mean
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document, read_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef, Recipe

LIBRARY = Path(__file__).parent / "library"
MERGE = "merge"
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Parent(_Section):
    """Facts of a model, for saying beforehand what it needs.

    Attributes:
        parameters: Numbers in its weights.
        dtype: Of the weights as published.
        gated: One must ask for access first.
        license: As its card states it.
    """

    parameters: int = Field(gt=0)
    dtype: Literal["float32", "float16", "bfloat16"]
    gated: bool = False
    license: str | None = None

    @property
    def nbytes(self) -> int:
        return self.parameters * BYTES[self.dtype]


class Eval(_Section):
    """An lm-eval task that the claims are of: `called` as the source calls it, `metric` with or without its filter."""

    eval: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    called: str = Field(min_length=1)

    @property
    def key(self) -> str:
        """lm-eval's ``metric,filter``."""
        return self.metric if "," in self.metric else f"{self.metric},none"


class Claims(_Section):
    """What one source says: model -> eval -> score. The model `merge` is the merge; others are its parents."""

    by: str = Field(min_length=1)
    source: str = Field(pattern=r"^https://\S+$")
    unit: Literal["percent", "share"] = "percent"
    scores: Mapping[str, Mapping[str, float]]

    def score(self, model: str, called: str) -> float | None:
        """The claim, 0 to 1, or None."""
        found = self.scores.get(model, {}).get(called)
        return None if found is None else found / 100 if self.unit == "percent" else found


class EntrySchema(_Section):
    """The file."""

    title: str = Field(min_length=1)
    recipe: Mapping[str, Any]
    models: Mapping[str, Parent]
    evals: Sequence[Eval] = Field(min_length=1)
    claims: Sequence[Claims] = Field(min_length=1)
    notes: Sequence[str] = ()

    @model_validator(mode="after")
    def _fits(self) -> "EntrySchema":
        called = [each.called for each in self.evals]
        if len(set(called)) < len(called):
            raise ValueError("two evals are called alike")
        if all(MERGE not in each.scores for each in self.claims):
            raise ValueError(f"nobody claims a score of {MERGE!r}")
        for each in self.claims:
            for model, scores in each.scores.items():
                unknown = sorted(scores.keys() - set(called))
                if unknown:
                    raise ValueError(f"a score of {unknown[0]!r}, which is none of the evals")
                if model != MERGE and model not in self.models:
                    raise ValueError(f"scores of {model!r}, which is none of the models")
                top = 100 if each.unit == "percent" else 1
                if not all(0 <= value <= top for value in scores.values()):
                    raise ValueError(f"a score of {model!r} is not between 0 and {top}")
        return self


@dataclass(frozen=True)
class Entry:
    """A published merge: its file, checked, and the recipe in it."""

    name: str
    facts: EntrySchema
    recipe: Recipe
    document: Document  # the recipe's part of the file

    @property
    def parents(self) -> tuple[ModelRef, ...]:
        """The models that are merged, as the recipe names them."""
        return self.recipe.named


def names() -> list[str]:
    """What the library holds."""
    return sorted(path.stem for path in LIBRARY.glob("*.yml"))


def find(name: str) -> Path:
    """The file of a published merge, by its name in the library or by a path.

    Raises:
        InputError: there is no such file.
    """
    path = Path(name).expanduser()
    if path.suffix in (".yml", ".yaml"):
        if not path.is_file():
            raise InputError(f"no such file: {name}", remedy="`mergeopt reproduce --list` shows what there is")
        return path
    if name not in names():
        raise InputError(f"no published merge {name!r}", remedy=did_you_mean(name, names()))
    return LIBRARY / f"{name}.yml"


def read_entry(path: Path) -> Entry:
    """Reads and checks the file of a published merge.

    Raises:
        InputError: with file, line and key.
    """
    document = read_document(path)
    try:
        facts = EntrySchema.model_validate(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        route = first["loc"]
        problem = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise InputError(problem, where=document.where(route), remedy="compare it with one in the library") from None
    part = document.part("recipe")
    recipe = read_recipe(part, SCHEMAS).recipe
    silent = [str(ref) for ref in recipe.named if ref.path not in facts.models and str(ref) not in facts.models]
    if silent:
        raise InputError(f"models: says nothing of {silent[0]!r}", where=document.where(("models",)))
    return Entry(path.stem, facts, recipe, part)
