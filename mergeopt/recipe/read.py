"""A recipe file becomes a `Recipe`, and whatever it says in vain is named.

Mistakes that change nothing (a key nobody reads, a parameter the method does not know) are *notices*: published,
working recipes are full of them. Mistakes that would change the result are errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.damage import damage
from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.elsewhere import dialect, no_such_method, pattern_like, unread_key, unread_parameter
from mergeopt.recipe.format import ModelPart, RecipeFile, SlicePart, SourcePart
from mergeopt.recipe.modules import by_module, joined
from mergeopt.recipe.recipe import DTYPES, ModelRef, Recipe, Slice, Source
from mergeopt.recipe.rules import (
    check_sources,
    copied,
    of_base_alone,
    spelled_twice,
    with_base_as_source,
    with_common_base,
)
from mergeopt.recipe.schema import MethodSchema
from mergeopt.recipe.settings import Setting, parse_setting
from mergeopt.recipe.tokenizer import said_in_vain, tokenizer_request

Schemas = Mapping[str, MethodSchema]


@dataclass(frozen=True)
class Reading:
    """A recipe and what was said in vain in its file."""

    recipe: Recipe
    notices: tuple[str, ...]


def read_recipe(document: Document, schemas: Schemas) -> Reading:
    """Reads a recipe.

    Args:
        document: The YAML, as plain data with lines.
        schemas: Every known method.

    Raises:
        InputError: with file, line and key, for what would make the merge impossible or another one than meant.
    """
    parts = by_module(document)
    readings = {name: _Reader(part, schemas, name).read() for name, part in parts.items()}
    first = next(iter(readings.values()))
    if list(readings) == [""]:
        return first
    notices = dict.fromkeys(text for reading in readings.values() for text in reading.notices)
    recipe = joined({name: reading.recipe for name, reading in readings.items()}, first.recipe)
    return Reading(recipe, tuple(notices))


class _Reader:
    def __init__(self, document: Document, schemas: Schemas, module: str) -> None:
        self.document, self.schemas, self.module = document, schemas, module
        self.notices = list(document.notices)

    def read(self) -> Reading:
        file = self._validated()
        schema = self._schema(file.merge_method)
        self._name_unknown_keys(file, (), schema)
        base = self._base(file)
        if file.models is not None:
            slices: tuple[Slice, ...] = (self._models(file.models, schema),)
        else:
            slices = tuple(self._slice(part, i, schema) for i, part in enumerate(file.slices or []))
        recipe = Recipe(
            method=schema.name,
            slices=slices,
            base=base,
            parameters=self._settings(file.parameters, ("parameters",), schema),
            dtype=self._dtype(file.dtype, "dtype"),
            out_dtype=self._dtype(file.out_dtype, "out_dtype"),
            tokenizer=tokenizer_request(file, self.document),
            chat_template=file.chat_template,
            seed=file.seed,
            refinement=self._refinement(file.refinement),
        )
        recipe = with_common_base(recipe)
        if not self.module and of_base_alone(recipe, schema):
            self._notice(("base_model",), f"{recipe.base} is the only model: nothing is added to it, it is copied")
            recipe, schema = copied(recipe), self.schemas["passthrough"]
        recipe = with_base_as_source(recipe, schema)
        check_sources(recipe, schema, self._place, self.document.where)
        self._name_layer_range_mistakes(recipe)
        for route, text in said_in_vain(file):
            self._notice(route, text)
        self._name_odd_models(recipe)
        return Reading(recipe, tuple(self.notices))

    # structure ---------------------------------------------------------------------------------------------------

    def _validated(self) -> RecipeFile:
        data = self.document.data
        if not isinstance(data, dict):
            raise InputError(
                f"is a {_kind(data)}, not a recipe",
                where=self.document.where(),
                remedy=damage(self.document.text, 1) or "a recipe is a mapping with merge_method:",
            )
        if "merge_method" not in data:
            self._refuse_dialects(data)
            near = _nearest("merge_method", data)
            remedy = f"did you mean merge_method instead of {near!r}?" if near else "add e.g. merge_method: ties"
            raise InputError("no merge_method", where=self._at(near) if near else self.document.where(), remedy=remedy)
        if isinstance(data["merge_method"], str):  # before the rest: a fork's method has keys of its own
            self._schema(data["merge_method"])
        try:
            file = RecipeFile.model_validate(data)
        except ValidationError as error:
            raise self._explained(error) from None
        if "chain" in data:
            problem = "a chain is several merges, one is wanted here"
            raise InputError(problem, where=self._at("chain"), remedy="`mergeopt merge` makes it")
        given = [key for key in ("models", "slices") if getattr(file, key)]
        if len(given) != 1:
            problem = f"has both {' and '.join(given)}" if given else "names no models"
            near = None if given else _nearest("models", data) or _nearest("slices", data)
            remedy = "give exactly one of models: and slices:"
            if near:
                remedy = f"{near}: is empty" if near in ("models", "slices") else f"did you mean models: by {near!r}?"
            raise InputError(problem, where=self._at(near) if near else self.document.where(), remedy=remedy)
        return file

    def _explained(self, error: ValidationError) -> InputError:
        first = error.errors()[0]
        route = tuple(step for step in first["loc"] if not (isinstance(step, str) and step in ("str", "dict[str,any]")))
        known = route
        problem = first["msg"][0].lower() + first["msg"][1:]
        remedy = None
        if first["type"] == "missing":
            problem = f"{route[-1]!r} is missing"
            given = self._value(route[:-1])
            if isinstance(given, dict) and given:
                remedy = f"given here: {', '.join(map(repr, given))}"
            elif isinstance(given, str):
                problem, remedy = f"{given!r} stands alone", f"write - model: {given}"
            known = route[:-1]
        elif first["type"] in ("model_type", "dict_type", "list_type"):
            problem = (
                f"{first['input']!r} stands where a {'list' if first['type'] == 'list_type' else 'mapping'} belongs"
            )
            remedy = _restated(first["input"], route)
        elif "input" in first:
            problem += f", not {first['input']!r}"
        return InputError(problem, where=self.document.where(known), remedy=remedy)

    def _value(self, route: Route) -> Any:
        data = self.document.data
        for step in route:
            try:
                data = data[step]
            except (KeyError, IndexError, TypeError):
                return None
        return data

    def _refuse_dialects(self, data: Mapping[str, Any]) -> None:
        if found := dialect(data):
            key, what = found
            remedy = "a merge recipe says merge_method: and models:"
            raise InputError(f"is {what} (it has {key!r})", where=self._at(key), remedy=remedy)

    def _refinement(self, name: str | None) -> str | None:
        """The file beside the recipe's, else as given, in the working folder."""
        if name is None:
            return None
        path = Path(name).expanduser()
        beside = Path(self.document.source).parent / path
        return str(beside if beside.is_file() else path)

    def _schema(self, name: str) -> MethodSchema:
        if name not in self.schemas:
            problem, remedy = no_such_method(name, self.schemas)
            raise InputError(problem, where=self._at("merge_method"), remedy=remedy)
        return self.schemas[name]

    # sources -----------------------------------------------------------------------------------------------------

    def _models(self, parts: list[ModelPart], schema: MethodSchema) -> Slice:
        sources = []
        for i, part in enumerate(parts):
            route: Route = ("models", i)
            self._name_unknown_keys(part, route, schema)
            sources.append(self._source(part.model, None, part.parameters, route, schema))
        return Slice(tuple(sources))

    def _slice(self, part: SlicePart, index: int, schema: MethodSchema) -> Slice:
        route: Route = ("slices", index)
        self._name_unknown_keys(part, route, schema)
        if part.residual_weight is not None:
            self._notice((*route, "residual_weight"), "'residual_weight' has no effect")
        sources = []
        for i, source in enumerate(part.sources):
            here: Route = (*route, "sources", i)
            self._name_unknown_keys(source, here, schema)
            sources.append(self._source(source.model, self._range(source, here), source.parameters, here, schema))
        base = None
        if part.base_model is not None:
            base = ModelRef.parse(part.base_model, self.document.where((*route, "base_model")))
        return Slice(tuple(sources), self._settings(part.parameters, (*route, "parameters"), schema), base)

    def _base(self, file: RecipeFile) -> ModelRef | None:
        return ModelRef.parse(file.base_model, self._at("base_model")) if file.base_model is not None else None

    def _source(
        self, model: Any, layers: tuple[int, int] | None, parameters: Any, route: Route, schema: MethodSchema
    ) -> Source:
        ref = ModelRef.parse(model, self.document.where((*route, "model")))
        return Source(ref, layers, self._settings(parameters, (*route, "parameters"), schema))

    def _range(self, part: SourcePart, route: Route) -> tuple[int, int]:
        first, last = part.layer_range
        if not 0 <= first < last:
            remedy = "write [first, last) with 0 <= first < last"
            if min(first, last) < 0:
                remedy = (
                    "layers are not counted from the end: for a whole model use models:, or name its number of layers"
                )
            where = self.document.where((*route, "layer_range"))
            raise InputError(f"layer_range [{first}, {last}] holds no layer", where=where, remedy=remedy)
        return first, last

    def _name_layer_range_mistakes(self, recipe: Recipe) -> None:
        for i, part in enumerate(recipe.slices):
            lengths = {s.layer_range[1] - s.layer_range[0] for s in part.sources if s.layer_range}
            if len(lengths) > 1:
                raise InputError(
                    f"sources give {' and '.join(map(str, sorted(lengths)))} layers",
                    where=self.document.where(("slices", i, "sources")),
                    remedy="every source of a slice gives the same number",
                )
            if len({s.layer_range for s in part.sources}) > 1:
                self._notice(
                    ("slices", i),
                    "the sources' layer ranges differ: layer n of one is merged with another layer of the next",
                )

    # settings ----------------------------------------------------------------------------------------------------

    def _settings(self, raw: Mapping[str, Any], route: Route, schema: MethodSchema) -> dict[str, Setting]:
        settings = {}
        for key, value in raw.items():
            parameter = schema.parameters.get(key)
            here = (*route, key)
            if parameter is None:
                self._refuse_mapping(key, value, here)
                if text := unread_parameter(key, schema, self.schemas, RecipeFile.model_fields):
                    self._notice(here, text)
            elif not parameter.per_source and route[-3:-2] in (("models",), ("sources",)):
                self._notice(
                    here, f"{schema.name} reads {key!r} for the whole merge, not per model; move it to the top level"
                )
            elif value is not None:
                settings[key] = parse_setting(value, parameter.kind, self.document.where(here))
                self._name_patterns(settings[key], here)
        return settings

    def _refuse_mapping(self, key: str, value: Any, route: Route) -> None:
        """A mapping that is no setting says something that no version of mergekit has ever read."""
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and "value" not in item:
                problem = f"{key!r} is no parameter, and {item!r} is no setting"
                raise InputError(problem, where=self.document.where(route), remedy="remove it, or write {value: ...}")

    def _name_patterns(self, setting: Setting, route: Route) -> None:
        for entry in setting:
            if entry.filter is not None and pattern_like(entry.filter):
                text = f"filter {entry.filter!r} is searched for as it stands; it is no range and no pattern"
                self._notice(route, text)

    def _name_unknown_keys(self, part: BaseModel, route: Route, schema: MethodSchema) -> None:
        known = set(type(part).model_fields)
        for key in part.model_extra or {}:
            self._notice((*route, key), unread_key(key, known, schema, self.schemas, RecipeFile.model_fields))

    def _name_odd_models(self, recipe: Recipe) -> None:
        """Models that are not what their author took them for."""
        for one, other in spelled_twice(recipe):
            self._notice((), f"{one!r} and {other!r} are two models here; if they are one, spell it in one way")

    @property
    def _place(self) -> Route:
        return ("models",) if self.document.data.get("models") else ("slices",)

    def _dtype(self, name: str | None, key: str) -> str | None:
        if name is None:
            return None
        short = name.removeprefix("torch.")
        if short not in DTYPES:
            hint = {
                "bf16": "bfloat16",
                "fp16": "float16",
                "fp32": "float32",
                "half": "float16",
                "float": "float32",
            }.get(short)
            remedy = f"did you mean {hint!r}?" if hint else did_you_mean(short, DTYPES)
            raise InputError(f"unknown dtype {name!r}", where=self._at(key), remedy=remedy)
        return short

    def _at(self, key: str) -> str:
        return self.document.where((key,))

    def _notice(self, route: Route, text: str) -> None:
        self.notices.append(f"{self.document.where(route)}: {text}")


def _nearest(key: str, given: Mapping[str, Any]) -> str | None:
    """The key of `given` that may mean `key`."""
    folded = {str(name).lower().strip().replace("-", "_"): name for name in given}
    near = get_close_matches(key, folded, n=1)
    return str(folded[near[0]]) if near else None


def _restated(given: Any, route: Route) -> str | None:
    """How to write a value that is of another kind than its key wants."""
    key = route[-1]
    if len(route) == 2 and route[0] == "models":
        return f"write - model: {given}"
    if isinstance(given, list) and given and all(isinstance(item, dict) for item in given):
        return f"write the entries of {key}: without their dashes"
    if key == "tokenizer" and isinstance(given, str):
        return f"write tokenizer: {{source: {given}}}"
    if key in ("models", "slices", "sources") and isinstance(given, dict):
        return f"begin each entry of {key}: with a dash"
    return None


def _kind(data: Any) -> str:
    return {list: "list", str: "piece of text", int: "number", float: "number"}.get(type(data), type(data).__name__)
