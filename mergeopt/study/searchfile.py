"""The search file: a recipe with holes, what to optimise, and how.

Its schema is the reference; unknown keys are errors here, because no published search file depends on being
misunderstood.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mergeopt.errors import InputError, did_you_mean
from mergeopt.methods import SCHEMAS
from mergeopt.optimizers import LEARNING, OPTIMIZERS
from mergeopt.recipe.document import Document, Route, parse_document
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.write import to_yaml
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.splits import Shares
from mergeopt.space.free import free as free_numbers
from mergeopt.space.genome import donor_of, is_genome, translate_genome

COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMbBgG]?)")
SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|min|sec)?")


def _count(value: Any) -> Any:
    """5M as 5000000."""
    if isinstance(value, str):
        if not (match := COUNT.fullmatch(value.strip())):
            raise ValueError("write a number, e.g. 500k or 5M")
        return int(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}[match[2].lower()])
    return value


def _seconds(value: Any) -> Any:
    """30m as 1800.0."""
    if isinstance(value, str):
        if not (match := SPAN.fullmatch(value.strip())):
            raise ValueError("write e.g. 90s, 30m or 2h")
        return float(match[1]) * {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}[match[2] or "s"]
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Splits(_Section):
    """Shares of the items, relative to each other."""

    calibrate: float = Field(0.2, ge=0, description="For gradients; unused, it joins search.")
    search: float = Field(0.4, gt=0, description="Every candidate is scored on these.")
    select: float = Field(0.2, gt=0, description="The finalists, once.")
    report: float = Field(0.2, gt=0, description="The final table; read once, at the end.")

    @property
    def shares(self) -> Shares:
        return Shares(self.calibrate, self.search, self.select, self.report)


class Optimize(_Section):
    """How to search."""

    method: str = Field("auto", description="auto, gradient, cmaes, tpe, gp, nsga2, random or grid.")
    trials: int | None = Field(None, ge=0, description="Proposals to measure; 200 where no other budget is given.")
    tokens: Annotated[int | None, BeforeValidator(_count, json_schema_input_type=int | str | None), Field(ge=1)] = (
        Field(None, description="Tokens through the model while searching, e.g. 5M.")
    )
    time: Annotated[float | None, BeforeValidator(_seconds, json_schema_input_type=float | str | None), Field(gt=0)] = (
        Field(None, description="Wall time of the search, e.g. 30m. Not repeatable exactly.")
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Of proposals, splits and random masks.")
    splits: Splits | None = Field(
        None, description="2 : 4 : 2 : 2 by default; 4 : 2 : 2 : 2 where the gradient learns from calibrate."
    )
    portable: bool = Field(
        True, description="Keep to what a mergekit recipe can say; false: numbers below the tensor too."
    )
    start: list[str] = Field(default_factory=list, description="Recipes tried first.")
    compare: list[str] = Field(default_factory=list, description="Recipes in the final table.")
    batch: int = Field(8, ge=1, description="Proposals per generation, whatever the number of workers.")
    finalists: int = Field(5, ge=1, description="How many trials are scored again on the select split.")
    storage: str | None = Field(None, description="Optuna storage URL; a journal file in OUT/search by default.")

    @property
    def shares(self) -> Shares:
        """How the items are divided."""
        if self.splits is not None:
            return self.splits.shares
        return Shares(0.4, 0.2, 0.2, 0.2) if self.learns else Shares()

    @property
    def learns(self) -> bool:
        """Whether anything is learned by gradient: from the calibrate items."""
        return self.method in LEARNING or not self.portable

    @property
    def most_trials(self) -> int:
        """The budget in trials; without one, tokens or time end the search."""
        if self.trials is not None:
            return self.trials
        return 200 if self.tokens is None and self.time is None else 1_000_000

    def expected_trials(self, tokens: int) -> int:
        """How many trials the budget of trials and tokens allows where each takes so many tokens."""
        return self.most_trials if self.tokens is None else min(self.most_trials, -(-self.tokens // max(tokens, 1)))


class Prompts(_Section):
    """Unlabelled prompts that a teacher answers once: from a file, from a data set, or written by the teacher."""

    teacher: str = Field(description="The model that answers; it must have the others' vocabulary.")
    file: str | None = Field(None, description="A .jsonl, .json, .csv, .parquet or .txt file.")
    dataset: str | None = Field(None, description="A data set of the Hub, or a local one.")
    config: str | None = Field(None, description="Of the data set, where it has several.")
    split: str = Field("train", description="Of the data set.")
    write: int | None = Field(
        None,
        ge=1,
        description="How many the teacher writes itself: after the prompts of the eval that it teaches, "
        "else by its own chat template.",
    )
    column: str | None = Field(None, description="Where a file has several.")
    limit: int | None = Field(None, ge=1, description="Prompts to take at most.")
    chat_template: bool = Field(False, description="Prompts are user's turns, or lists of messages.")
    max_tokens: int = Field(256, ge=1, description="Of an answer; an eval's own setting where its teacher is this one.")
    stop: list[str] = Field(default_factory=list, description="Texts that end an answer, beside the end of text.")
    temperature: float = Field(0.0, ge=0, description="0 is greedy.")

    @model_validator(mode="after")
    def _one_source(self) -> "Prompts":
        if sum(source is not None for source in (self.file, self.dataset, self.write)) != 1:
            raise ValueError("give exactly one of file, dataset and write")
        return self

    @property
    def where(self) -> str:
        """What to call them."""
        return self.file or self.dataset or f"{self.teacher}'s own"


class Learn(_Section):
    """Settings of the gradient."""

    loss: Literal["kl", "nll"] | None = Field(
        None, description="kl: imitate a teacher; nll: the right answers. By default kl where a teacher beats the base."
    )
    steps: int = Field(300, ge=1, description="Of the gradient, for each choice of the space, at most.")
    size: int = Field(16, ge=1, description="Lessons of each eval per step.")
    retain: float | None = Field(
        None,
        ge=0,
        description="Weight of staying close to the base's outputs, beside 1 for all evals. Left out: 0.1 below the "
        "tensor on constrained evals, else 0.",
    )
    pull: float = Field(0.0, ge=0, description="Weight of staying close to the init, in squared shares of the ranges.")
    prompts: list[Prompts] = Field(default_factory=list, description="Unlabelled prompts, answered once.")
    refine: Literal["rows+columns", "rows", "columns", "singular"] = Field(
        "rows+columns", description="What gets numbers below the tensor, with portable: false."
    )
    write: int = Field(
        2000,
        ge=0,
        description="With portable: false and no prompts: how many every teacher writes itself, after its eval's.",
    )
    refine_steps: int = Field(1200, ge=1, description="Of the gradient below the tensor, at most.")


class SearchSchema(_Section):
    """A search file."""

    recipe: dict[str, Any] = Field(description="A mergekit recipe in which any number may be a hole.")
    objective: Annotated[list[ObjectiveEntry], Field(min_length=1, description="Evals: terms and constraints.")]
    optimize: Optimize = Optimize()
    learn: Learn | None = Field(None, description="Settings of the gradient.")


@dataclass(frozen=True)
class SearchFile:
    """A search file as read: the recipe with its lines, the rest as values."""

    recipe: Document
    objective: tuple[ObjectiveEntry, ...]
    optimize: Optimize
    learn: Learn | None
    notices: tuple[str, ...] = ()


def read_search_file(
    document: Document,
    *,
    layers_of: Callable[[ModelRef], int | None],
    overrides: Sequence[str] = (),
    free: Sequence[str] = (),
    evals: Sequence[str] = (),
) -> SearchFile:
    """Reads a search file, a plain recipe with `free` parameters, or a mergekit-evolve genome.

    Args:
        document: The YAML.
        layers_of: Layers of a model, which a genome counts in; None where the model is not to be looked for.
        overrides: ``a.b=c``: sets any key; list positions are numbers.
        free: Parameters of a plain recipe whose numbers become holes.
        evals: The objective of a plain recipe.

    Raises:
        InputError: with file, line and key.
    """
    notices = list(document.notices)
    if not isinstance(document.data, dict):
        raise InputError("is no search file", where=document.where(), remedy="it has the keys recipe: and objective:")
    if is_genome(document):
        translation = translate_genome(document, schemas=SCHEMAS, layers=layers_of(donor_of(document)))
        notices += translation.notices
        data = {"recipe": translation.recipe, "objective": translation.objective}
        document = parse_document(to_yaml(data), f"{document.source} (translated)")
    elif "merge_method" in document.data:
        document = _from_recipe(document, free, evals)
    elif free:
        raise InputError("--free is for plain recipes; this is a search file", where=document.where())
    document = override(document, overrides)
    try:
        schema = SearchSchema.model_validate(document.data)
    except ValidationError as error:
        raise explained(error, document, SearchSchema) from None
    if schema.optimize.method not in OPTIMIZERS:
        raise InputError(
            f"no optimizer is called {schema.optimize.method!r}",
            where=document.where(("optimize", "method")),
            remedy=did_you_mean(schema.optimize.method, tuple(OPTIMIZERS)),
        )
    if all(entry.is_constraint for entry in schema.objective):
        raise InputError(
            "only constraints, nothing to optimise",
            where=document.where(("objective",)),
            remedy="add an eval without at_most and at_least",
        )
    return SearchFile(document.part("recipe"), tuple(schema.objective), schema.optimize, schema.learn, tuple(notices))


def _from_recipe(document: Document, free: Sequence[str], evals: Sequence[str]) -> Document:
    if not free:
        raise InputError(
            "is a plain recipe: there is nothing to search",
            where=document.where(),
            remedy="name parameters to free, e.g. --free weight,density, or replace numbers by {range: [0, 1]}",
        )
    if not evals:
        raise InputError(
            "says nothing about what to optimise", where=document.where(), remedy="add --eval evals/x.yaml"
        )
    freed = free_numbers(document, free)
    lines = {("recipe", *route): line for route, line in freed.lines.items()}
    data = {"recipe": freed.data, "objective": [{"eval": name} for name in evals]}
    return Document(data, freed.source, lines, freed.notices, freed.text)


def override(document: Document, overrides: Sequence[str]) -> Document:
    """The document with ``a.b=c`` applied, values read as YAML.

    Raises:
        InputError: no ``=``, a path through something that is not a mapping or list, a position out of range.
    """
    data = document.data
    for text in overrides:
        path, sign, value = text.partition("=")
        if not sign or not path:
            raise InputError(f"--set {text!r} is not key=value", remedy="write e.g. --set optimize.trials=50")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {text!r}: the value is not YAML", remedy="quote it") from None
        data = _with(data, path.split("."), parsed, text)
    return Document(data, document.source, document.lines, document.notices, document.text)


def _with(data: Any, path: Sequence[str], value: Any, text: str) -> Any:
    """A copy of `data` in which `path` is `value`."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        if not head.isdigit() or int(head) >= len(data):
            raise InputError(f"--set {text!r}: the list has positions 0 to {len(data) - 1}, not {head!r}")
        return [_with(item, rest, value, text) if i == int(head) else item for i, item in enumerate(data)]
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise InputError(f"--set {text!r}: {head!r} would stand inside {data!r}, which is no mapping")
    return {**data, head: _with(data.get(head), rest, value, text)}


def explained(error: ValidationError, document: Document, schema: type[BaseModel]) -> InputError:
    """Pydantic's first complaint as one line with place and remedy."""
    complaints = [(_route(e["loc"], e["type"] == "extra_forbidden"), e) for e in error.errors()]
    route, first = complaints[0]
    # of a value that fits none of several types the longest complaint knows most
    route, first = max((c for c in complaints if c[0][: len(route)] == route), key=lambda c: len(c[1]["loc"]))
    problem, remedy = first["msg"][0].lower() + first["msg"][1:], None
    if first["type"] == "extra_forbidden":
        known = _fields(schema, route[:-1])
        problem, remedy = f"unknown key {route[-1]!r}", did_you_mean(str(route[-1]), tuple(known))
    elif first["type"] == "missing":
        problem, remedy = f"{route[-1]!r} is missing", f"add {route[-1]}:"
    else:
        given = repr(first["input"])
        given = given if len(given) <= 60 else f"{given[:57]}..."
        problem = f"{problem.removeprefix('value error, ')}, not {given}"
    return InputError(problem, where=document.where(route), remedy=remedy)


def _route(steps: tuple[int | str, ...], ends_in_key: bool) -> Route:
    """Pydantic's path without the names of types in it; the last step may be a key that only looks like one."""
    last = len(steps) - 1 if ends_in_key else None
    return tuple(step for i, step in enumerate(steps) if i == last or not _is_type_name(step))


def _is_type_name(step: int | str) -> bool:
    """Pydantic names the branch of a union inside the path."""
    return isinstance(step, str) and (step in ("float", "int", "str") or "[" in step)


def _fields(schema: type[BaseModel], route: Route) -> Mapping[str, Any]:
    """The keys known at `route`."""
    current: Any = schema
    for step in route:
        if isinstance(step, int):
            continue
        inner = str(current.model_fields[step].annotation)
        classes = (ObjectiveEntry, Optimize, Splits, Learn, Prompts)
        current = next((c for c in classes if c.__name__ in inner), current)
    fields: Mapping[str, Any] = current.model_fields
    return fields
