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
from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.format import ModelPart, RecipeFile, SlicePart, SourcePart
from mergeopt.recipe.modules import without_modules
from mergeopt.recipe.recipe import DTYPES, ModelRef, Recipe, Slice, Source
from mergeopt.recipe.rules import check_sources, copied, of_base_alone, with_base_as_source
from mergeopt.recipe.schema import MethodSchema
from mergeopt.recipe.settings import Setting, parse_setting
from mergeopt.recipe.tokenizer import said_in_vain, tokenizer_request

Schemas = Mapping[str, MethodSchema]

# mergekit's other methods: so that della_linear is not taken for a misspelt dare_linear.
OTHER_METHODS = ("breadcrumbs", "breadcrumbs_ties", "della", "della_linear")

# Dialects of neighbours, recognised by the key that gives them away.
DIALECTS = {
    "gate_mode": "a mergekit-moe recipe",
    "experts": "a mergekit-moe recipe",
    "genome": "a mergekit-evolve genome",
    "metric_method": "a mergekit-metrics file",
    "method": "an mlx-lm recipe",
    "_target_": "a fusion_bench configuration",
}


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
    return _Reader(document, schemas).read()


class _Reader:
    def __init__(self, document: Document, schemas: Schemas) -> None:
        self.document, self.schemas = without_modules(document), schemas
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
        if of_base_alone(recipe, schema):
            self._notice(("base_model",), f"{recipe.base} is the only model: nothing is added to it, it is copied")
            recipe, schema = copied(recipe), self.schemas["passthrough"]
        recipe = with_base_as_source(recipe, schema)
        check_sources(recipe, schema, self.document.where(("models",) if file.models is not None else ("slices",)))
        self._name_layer_range_mistakes(recipe)
        for route, text in said_in_vain(file):
            self._notice(route, text)
        return Reading(recipe, tuple(self.notices))

    # structure ---------------------------------------------------------------------------------------------------

    def _validated(self) -> RecipeFile:
        data = self.document.data
        if not isinstance(data, dict):
            raise InputError(
                f"is a {_kind(data)}, not a recipe",
                where=self.document.where(),
                remedy="a recipe is a mapping with merge_method:",
            )
        if "merge_method" not in data:
            self._refuse_dialects(data)
            near = get_close_matches("merge_method", data, n=1)
            remedy = f"did you mean merge_method instead of {near[0]!r}?" if near else "add e.g. merge_method: ties"
            raise InputError("no merge_method", where=self.document.where(), remedy=remedy)
        try:
            file = RecipeFile.model_validate(data)
        except ValidationError as error:
            raise self._explained(error) from None
        given = [key for key in ("models", "slices") if getattr(file, key)]
        if len(given) != 1:
            problem = f"has both {' and '.join(given)}" if given else "names no models"
            raise InputError(problem, where=self.document.where(), remedy="give exactly one of models: and slices:")
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
            if len(route) == 2 and route[0] == "models":
                remedy = f"write - model: {first['input']}"
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
        for key, dialect in DIALECTS.items():
            if key in data:
                raise InputError(
                    f"is {dialect} (it has {key!r})",
                    where=self._at(key),
                    remedy="a merge recipe says merge_method: and models:",
                )

    def _refinement(self, name: str | None) -> str | None:
        """The file beside the recipe's, else as given, in the working folder."""
        if name is None:
            return None
        path = Path(name).expanduser()
        beside = Path(self.document.source).parent / path
        return str(beside if beside.is_file() else path)

    def _schema(self, name: str) -> MethodSchema:
        if name not in self.schemas:
            known = ", ".join(sorted(self.schemas))
            if name in OTHER_METHODS:
                problem = f"method {name!r} of mergekit is not known here yet"
                raise InputError(problem, where=self._at("merge_method"), remedy=f"known: {known}")
            remedy = did_you_mean(name, tuple(self.schemas))
            raise InputError(f"unknown method {name!r}", where=self._at("merge_method"), remedy=remedy)
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
        return Slice(tuple(sources), self._settings(part.parameters, (*route, "parameters"), schema))

    def _base(self, file: RecipeFile) -> ModelRef | None:
        """The base of the recipe; slices may say it instead of the top level, if all say the same."""
        top = ModelRef.parse(file.base_model, self._at("base_model")) if file.base_model is not None else None
        bases = {}
        for i, part in enumerate(file.slices or []):
            where = self.document.where(("slices", i, "base_model"))
            bases[top if part.base_model is None else ModelRef.parse(part.base_model, where)] = where
        if len(bases) > 1 or (top is not None and bases and top not in bases):
            raise InputError(
                "slices with a base of their own cannot be merged yet",
                where=next(reversed(bases.values())),
                remedy="give one base_model at the top level",
            )
        return next(iter(bases), top)

    def _source(
        self, model: Any, layers: tuple[int, int] | None, parameters: Any, route: Route, schema: MethodSchema
    ) -> Source:
        ref = ModelRef.parse(model, self.document.where((*route, "model")))
        return Source(ref, layers, self._settings(parameters, (*route, "parameters"), schema))

    def _range(self, part: SourcePart, route: Route) -> tuple[int, int]:
        first, last = part.layer_range
        if not 0 <= first < last:
            raise InputError(
                f"layer_range [{first}, {last}] holds no layer",
                where=self.document.where((*route, "layer_range")),
                remedy="write [first, last) with 0 <= first < last",
            )
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
                self._name_unread(key, here, schema)
            elif not parameter.per_source and route[-3:-2] in (("models",), ("sources",)):
                self._notice(
                    here, f"{schema.name} reads {key!r} for the whole merge, not per model; move it to the top level"
                )
            elif value is not None:
                settings[key] = parse_setting(value, parameter.kind, self.document.where(here))
        return settings

    def _name_unread(self, key: str, route: Route, schema: MethodSchema) -> None:
        elsewhere = sorted(name for name, other in self.schemas.items() if key in other.parameters)
        if key in RecipeFile.model_fields:
            self._notice(route, f"{key!r} has no effect under parameters:; it belongs at the top level")
        elif key in ("int8_mask",):
            return  # changes only an intermediate type in mergekit: nothing is lost
        elif elsewhere:
            self._notice(route, f"{schema.name} does not read {key!r} (it belongs to {', '.join(elsewhere[:4])})")
        else:
            hint = did_you_mean(key, tuple(schema.parameters)) or f"{schema.name} reads {', '.join(schema.parameters)}"
            self._notice(route, f"unknown parameter {key!r} has no effect; {hint}")

    def _name_unknown_keys(self, part: BaseModel, route: Route, schema: MethodSchema) -> None:
        known = set(type(part).model_fields)
        for key in part.model_extra or {}:
            here = (*route, key)
            if key in schema.parameters or key == "int8_mask":
                self._notice(here, f"{key!r} has no effect here; it belongs under parameters:")
            elif key == "revision":
                self._notice(here, "'revision' has no effect here; write model: name@revision")
            elif key in RecipeFile.model_fields:
                self._notice(here, f"{key!r} has no effect here; it belongs at the top level")
            elif key in ("pad_to_multiple_of", "tokens"):
                self._notice(here, f"{key!r} has no effect here; it belongs under tokenizer:")
            else:
                self._notice(here, f"unknown key {key!r} has no effect; {did_you_mean(key, known) or ''}".rstrip("; "))

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


def _kind(data: Any) -> str:
    return {list: "list", str: "piece of text", int: "number", float: "number"}.get(type(data), type(data).__name__)
