"""mergekit-evolve's files, translated: its genome is a recipe with holes, its tasks are an objective.

A genome names models and a method; every model gets each of the method's numbers, per group of `layer_granularity`
layers and per filter. That is a hole with depth and parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.document import Document
from mergeopt.recipe.elsewhere import no_such_method
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.schema import REQUIRED, MethodSchema, ParameterSchema
from mergeopt.space.hole import number

GENOME_KEYS = (
    "models",
    "merge_method",
    "base_model",
    "tokenizer_source",
    "layer_granularity",
    "normalize",
    "allow_negative_weights",
    "smooth",
    "filters",
)
TASK_KEYS = ("name", "weight", "metric")


@dataclass(frozen=True)
class Translation:
    """A search file's `recipe` and `objective` as plain data, and what could not be said."""

    recipe: dict[str, Any]
    objective: list[dict[str, Any]]
    notices: tuple[str, ...]


def is_genome(document: Document) -> bool:
    """Is this a file for mergekit-evolve?"""
    return isinstance(document.data, dict) and isinstance(document.data.get("genome"), dict)


def donor_of(document: Document) -> ModelRef:
    """The model whose number of layers `translate_genome` wants: the base, else the first."""
    genome = document.data["genome"]
    models = genome.get("models")
    given = genome.get("base_model") or (models[0] if isinstance(models, list) and models else None)
    return ModelRef.parse(given, document.where(("genome", "models")))


def translate_genome(document: Document, *, schemas: Mapping[str, MethodSchema], layers: int | None) -> Translation:
    """A mergekit-evolve file as a recipe with holes and an objective.

    Args:
        document: The file, for which `is_genome` holds.
        schemas: Every known method.
        layers: Layers of `donor_of`; None where the model is not at hand and the file is only to be checked.

    Raises:
        InputError: no models, an unknown method, no tasks.
    """
    return _Translator(document, schemas, layers).run()


class _Translator:
    def __init__(self, document: Document, schemas: Mapping[str, MethodSchema], layers: int | None) -> None:
        self.document, self.layers = document, layers
        self.genome: dict[str, Any] = document.data["genome"]
        self.notices = list(document.notices)
        method = self.genome.get("merge_method")
        if not isinstance(method, str) or method not in schemas:
            problem, remedy = no_such_method(str(method), schemas)
            raise self._error(problem, "merge_method", remedy)
        self.schema = schemas[method]
        if self.schema.needs_base and self.genome.get("base_model") is None:
            raise self._error(f"{method} needs base_model", "base_model", "add it to the genome")

    def run(self) -> Translation:
        for key in self.document.data:
            if key not in ("genome", "tasks", "evaluation"):
                self._notice((key,), f"{key!r} is not used")
        for key in self.genome:
            if key not in GENOME_KEYS:
                hint = did_you_mean(str(key), GENOME_KEYS)
                self._notice(("genome", key), f"{key!r} is not used; {hint}")
        return Translation(self._recipe(), self._objective(), tuple(self.notices))

    def _recipe(self) -> dict[str, Any]:
        models = self.genome.get("models")
        if not isinstance(models, list) or not models:
            raise self._error("the genome names no models", "models", "list them under models:")
        recipe: dict[str, Any] = {"merge_method": self.schema.name}
        base = self.genome.get("base_model")
        if base is not None:
            recipe["base_model"] = base
        recipe["models"] = [self._model(model, base) for model in models]
        parameters = {p.name: self._hole(p) for p in self._searched(per_source=False)}
        if self.genome.get("normalize") is not None:
            if "normalize" in self.schema.parameters:
                parameters["normalize"] = self.genome["normalize"]
            else:
                self._notice(("genome", "normalize"), f"{self.schema.name} does not read 'normalize'")
        if parameters:
            recipe["parameters"] = parameters
        recipe["dtype"] = "bfloat16"  # what mergekit-evolve always writes
        if self.genome.get("tokenizer_source") is not None:
            recipe["tokenizer_source"] = self.genome["tokenizer_source"]
        return recipe

    def _model(self, model: Any, base: Any) -> dict[str, Any]:
        where = self.document.where(("genome", "models"))
        is_base = base is not None and ModelRef.parse(model, where) == ModelRef.parse(base, where)
        holes = {p.name: self._hole(p) for p in self._searched(per_source=True)}
        if not holes or (self.schema.takes_base and is_base):
            return {"model": model}
        return {"model": model, "parameters": holes}

    def _searched(self, *, per_source: bool) -> list[ParameterSchema]:
        """The numbers a genome holds: weights, densities, and what else the method requires."""
        return [
            p
            for p in self.schema.parameters.values()
            if p.per_source == per_source and (p.default is REQUIRED or (per_source and p.name == "density"))
        ]

    def _hole(self, parameter: ParameterSchema) -> dict[str, Any]:
        negative = parameter.name == "weight" and bool(self.genome.get("allow_negative_weights"))
        ranges = {"weight": [-1.5 if negative else 0.0, 1.5], "density": [0.05, 1.0]}
        hole: dict[str, Any] = {"range": ranges.get(parameter.name, [0.0, 1.0])}
        if parameter.name == "weight":
            self._notice(("genome",), f"weights are searched in {hole['range']}; widen the range if need be")
        points = self._points()
        if points is not None:
            hole["depth"] = points
        filters = self.genome.get("filters")
        if filters is not None:
            hole["parts"] = list(filters) if isinstance(filters, list) else filters
        return hole

    def _points(self) -> int | None:
        """Control points over depth: one per group of layers."""
        given = self.genome.get("layer_granularity")
        size = number(given)
        if given is None or size == 0:
            return None
        if size is None or not 0 < size < inf or size != int(size):
            raise self._error(
                f"layer_granularity is {given!r}", "layer_granularity", "give the number of layers in a group"
            )
        route = ("genome", "layer_granularity")
        self._notice(
            route, "embeddings, final norm and head keep the start value; add outer: to the holes to search them"
        )
        if self.layers is None:
            self._notice(route, "how many groups the layers make needs the model")
            return 1
        points = -(-self.layers // int(size))
        if self.layers % int(size):
            self._notice(
                route, f"{self.layers} layers do not divide into groups of {int(size)}: {points} points instead"
            )
        if points > 1 and not self.genome.get("smooth"):
            self._notice(
                route, f"values run linearly between {points} points over depth, not in steps of {int(size)} layers"
            )
        return points

    def _objective(self) -> list[dict[str, Any]]:
        tasks, route, limit = self.document.data.get("tasks"), ("tasks",), None
        other = self.document.data.get("evaluation")
        if tasks is None and isinstance(other, dict):
            tasks, route, limit = other.get("tasks"), ("evaluation",), other.get("limit")
            self._notice(("evaluation",), "read as tasks:, which is mergekit-evolve's name for it")
        if not isinstance(tasks, list) or not tasks:
            raise InputError(
                "names no tasks", where=self.document.where(route), remedy="list lm-eval tasks under tasks:"
            )
        entries = [self._entry(task, (*route, i), limit) for i, task in enumerate(tasks)]
        kept = [entry for entry in entries if entry is not None]
        if not kept:
            raise InputError("no task counts", where=self.document.where(route), remedy="give one a weight above 0")
        return kept

    def _entry(self, task: Any, route: tuple[str | int, ...], limit: Any) -> dict[str, Any] | None:
        task = {"name": task} if isinstance(task, str) else task
        if not isinstance(task, dict) or not isinstance(task.get("name"), str):
            raise InputError(f"{task!r} is no task", where=self.document.where(route), remedy="write - name: gsm8k")
        for key in task:
            if key not in TASK_KEYS:
                self._notice((*route, key), f"{key!r} is not used; {did_you_mean(str(key), TASK_KEYS)}")
        weight = number(task.get("weight", 1.0))
        if weight is None or weight <= 0:
            self._notice(route, f"task {task['name']!r} has weight {task.get('weight')!r} and is left out")
            return None
        metric, _, strained = str(task.get("metric", "acc,none")).partition(",")
        entry = {"eval": task["name"], "metric": metric} | (
            {"filter": strained} if strained not in ("", "none") else {}
        )
        return entry | {"weight": weight} | ({} if limit is None else {"limit": limit})

    def _notice(self, route: tuple[str | int, ...], text: str) -> None:
        notice = f"{self.document.where(route)}: {text}"
        if notice not in self.notices:
            self.notices.append(notice)

    def _error(self, problem: str, key: str, remedy: str | None) -> InputError:
        return InputError(problem, where=self.document.where(("genome", key)), remedy=remedy)
