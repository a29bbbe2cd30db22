#!/usr/bin/env python
"""Writes the generated pages of docs/ again: the search file's reference, the methods, and JSON Schemas for editors.

Everything in them is said once, in the schema's descriptions and the methods' docstrings; a test finds pages that are
older than these.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mergeopt.files import write_text
from mergeopt.methods import METHODS, Method
from mergeopt.optimizers import OPTIMIZERS
from mergeopt.recipe.format import ModelPart, RecipeFile, SlicePart, SourcePart, TokenizerPart, TokenPart
from mergeopt.recipe.schema import REQUIRED
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.space.hole import CHOICE_KEYS, RANGE_KEYS, Choice, Hole
from mergeopt.study.searchfile import Learn, Optimize, Prompts, SearchSchema, Splits

DRAFT = "https://json-schema.org/draft/2020-12/schema"
NOTE = "<!-- written by scripts/make_docs.py: change the {} instead -->"
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "nothing"}
Json = dict[str, Any]

RANGE_WORDS = {"range": "[low, high]: the number is sought between them."}
CHOICE_WORDS = {"choice": "A list of values to choose among, e.g. methods.", "share": "As above."}


def pages() -> dict[str, str]:
    """File name → text."""
    return {
        "search-file.md": search_page(),
        "methods.md": methods_page(),
        "search.schema.json": _json(search_schema()),
        "recipe.schema.json": _json(recipe_schema()),
    }


# JSON Schema -----------------------------------------------------------------------------------------------------


def recipe_schema() -> Json:
    """A recipe: known keys have types and descriptions, unknown ones are let pass, as when it is read."""
    schema = RecipeFile.model_json_schema()
    schema["$defs"]["Parameters"] = {
        "type": "object",
        "properties": {
            name: {"description": f"Read by {', '.join(readers)}."} for name, readers in sorted(_readers().items())
        },
    }
    for part in [schema, *schema["$defs"].values()]:
        if "parameters" in part["properties"]:
            said = part["properties"]["parameters"]["description"]
            part["properties"]["parameters"] = {
                "anyOf": [{"$ref": "#/$defs/Parameters"}, {"type": "null"}],
                "description": said,
            }
    schema["properties"]["merge_method"]["enum"] = list(METHODS)
    return _finished(schema, "A merge recipe (mergekit's YAML).")


def search_schema() -> Json:
    """A search file: a recipe in which words may be choices, with objective, optimize and learn."""
    schema, recipe = SearchSchema.model_json_schema(), recipe_schema()
    described(schema["$defs"]["ObjectiveEntry"], ObjectiveEntry)
    schema["$defs"] |= recipe.pop("$defs") | {"Choice": _choice_schema()}
    for name in ("$schema", "title"):
        del recipe[name]
    fixed = {"modules", "models", "slices", "parameters", "tokenizer"}
    for name in recipe["properties"].keys() - fixed:
        words = {key: value for key, value in recipe["properties"][name].items() if key != "description"}
        said = recipe["properties"][name].get("description", "")
        recipe["properties"][name] = {"anyOf": [words, {"$ref": "#/$defs/Choice"}], "description": said}
    schema["$defs"]["RecipeWithHoles"] = recipe
    schema["properties"]["recipe"] = {"$ref": "#/$defs/RecipeWithHoles"}
    schema["$defs"]["Optimize"]["properties"]["method"]["enum"] = list(OPTIMIZERS)
    return _finished(schema, "A search file of mergeopt: a recipe with holes.")


def _choice_schema() -> Json:
    keys = {"choice": {"type": "array", "minItems": 1}, "share": {"type": "string"}}
    said = "One of a few values; share: the same one as elsewhere."
    return {"type": "object", "properties": keys, "additionalProperties": False, "description": said}


def _readers() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for method in METHODS.values():
        for name in method.schema.parameters:
            found.setdefault(name, []).append(method.name)
    return found


def _finished(schema: Json, title: str) -> Json:
    return {"$schema": DRAFT, "title": title} | _untitled(schema)


def _untitled(value: Any) -> Any:
    """Without the titles that pydantic makes of field names."""
    if isinstance(value, list):
        return [_untitled(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _untitled(item) for key, item in value.items() if key != "title" or not isinstance(item, str)}


def _json(data: Json) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


# the search file -------------------------------------------------------------------------------------------------


def search_page() -> str:
    """The reference, key by key."""
    intro = """# The search file, key by key

A search file is a [recipe](recipes.md) in which any number may be a *hole*. [The README](../README.md#the-search-file)
has a whole one, `search_spaces/` has a dozen, [which-space.md](which-space.md) says when to use which.

Editors check and complete it with a first line (for a recipe `recipe.schema.json`):

```yaml
# yaml-language-server: $schema=docs/search.schema.json
```

An unknown key is an error, except inside `recipe:`, where it is named and has no effect.
"""
    holes = """## A hole

A mapping with `range` stands where a number may stand, one with `choice` where a word, a number or true and false may;
every other mapping is mergekit's. `{share: name}` alone is the hole of that name elsewhere: the same value.
"""
    parts = [
        NOTE.format("descriptions in the code") + "\n", intro, _keys_of(SearchSchema), holes,
        _table(_rows(RANGE_KEYS, RANGE_WORDS | _attributes(Hole))),
        _table(_rows(CHOICE_KEYS, CHOICE_WORDS | _attributes(Choice))),
        "## recipe\n\nSettings under `parameters:` are a number, a list over depth, or a list of `{filter, value}`;\n"
        "[methods.md](methods.md) has those of every method.\n",
        _keys_of(RecipeFile),
    ]  # fmt: skip
    nested: list[tuple[str, type[BaseModel]]] = [
        ("recipe.models[]", ModelPart), ("recipe.slices[]", SlicePart), ("recipe.slices[].sources[]", SourcePart),
        ("recipe.tokenizer", TokenizerPart), ("recipe.tokenizer.tokens.TOKEN", TokenPart),
        ("objective[]", ObjectiveEntry), ("optimize", Optimize), ("optimize.splits", Splits),
        ("learn", Learn), ("learn.prompts[]", Prompts),
    ]  # fmt: skip
    for name, model in nested:
        parts += [f"## {name}\n\n{_first_paragraph(model)}\n", _keys_of(model)]
    return "\n".join(parts)


def described(schema: Json, model: type[BaseModel]) -> Json:
    """The schema with the descriptions that the class's docstring has under Attributes."""
    for name, text in _attributes(model).items():
        schema["properties"].get(name, {}).setdefault("description", text)
    schema["description"] = _first_paragraph(model)
    return schema


def _keys_of(model: type[BaseModel]) -> str:
    schema = described(model.model_json_schema(), model)
    required = schema.get("required", [])
    rows = []
    for name, entry in schema["properties"].items():
        default = "needed" if name in required else _default(entry)
        inner = schema.get("$defs", {}).get(entry.get("$ref", "").rpartition("/")[2], {})
        said = entry.get("description") or inner.get("description", "")
        rows.append((f"`{name}`", _type_words(entry), default, _cell(said)))
    return _table([("key", "is", "default", "means"), *rows])


def _default(entry: Json) -> str:
    value = entry.get("default")
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or isinstance(value, dict) else f"{value}"


def _type_words(entry: Json) -> str:
    if "anyOf" in entry:
        words = [_type_words(one) for one in entry["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if "enum" in entry:
        return ", ".join(f"`{word}`" for word in entry["enum"])
    if "$ref" in entry or entry.get("type") == "object":
        return "mapping"
    if entry.get("type") == "array":
        return f"list of {_plural(_type_words(entry.get('items', {})))}"
    return TYPES.get(entry.get("type", ""), "anything")


def _plural(words: str) -> str:
    return re.sub(r"\b(mapping|number)\b", r"\1s", words)


def _rows(keys: tuple[str, ...], words: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [("key", "means"), *((f"`{key}`", _cell(words[key])) for key in keys)]


def _attributes(thing: type) -> dict[str, str]:
    """The entries under ``Attributes:`` of a docstring."""
    _, _, listed = (inspect.getdoc(thing) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        if match := re.match(r"    (\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


def _first_paragraph(thing: type) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


# methods ---------------------------------------------------------------------------------------------------------


def methods_page() -> str:
    """Every method: its paper, its equations, its parameters."""
    intro = """# Methods

δ_i = x_i − base is what source i changed; everything acts tensor by tensor. Numbers are computed in float32, sums that
decide anything in float64, and rounded once ([agreeing with mergekit](mergekit.md)). A parameter has one value per
source, under its `parameters:`, or one for the merge. Every number may vary with depth and tensor name; what has a
gradient can be [learned](learning.md).
"""
    listed = ["| method | sources | base | in a sentence |\n|---|---|---|---|"]
    for method in METHODS.values():
        said = _cell(method.schema.summary)
        listed.append(f"| [{method.name}](#{method.name}) | {_sources(method)} | {_base(method)} | {said} |")
    parts = [NOTE.format("docstrings in mergeopt/methods") + "\n", intro, "\n".join(listed) + "\n"]
    for method in METHODS.values():
        paper = _first_paragraph_of(inspect.getmodule(method.function).__doc__ or "")  # type: ignore[union-attr]
        parts += [f"## {method.name}\n\n*{paper}*\n", f"{inspect.getdoc(method.function)}\n", *_parameters(method)]
    return "\n".join(parts)


def _parameters(method: Method) -> Iterator[str]:
    rows = [
        (f"`{p.name}`", "source" if p.per_source else "merge", _word(p.default), "yes" if p.smooth else "no")
        for p in method.schema.parameters.values()
    ]
    if rows:
        yield _table([("parameter", "one per", "default", "gradient"), *rows])
    if method.schema.random:
        yield "Masks are drawn by the recipe's `seed`, the tensor's name and the element's index.\n"


def _word(value: Any) -> str:
    if value is REQUIRED:
        return "needed"
    return {"None": "none", "True": "true", "False": "false"}.get(str(value), str(value))


def _sources(method: Method) -> str:
    low, high = method.schema.min_sources, method.schema.max_sources
    return f"{low} or more" if high is None else f"{low}" if low == high else f"{low} to {high}"


def _base(method: Method) -> str:
    schema = method.schema
    return "needed" if schema.needs_base else "may have one" if schema.takes_base else "no"


def _first_paragraph_of(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


# Markdown --------------------------------------------------------------------------------------------------------


def _cell(text: str) -> str:
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs"
    for name, text in pages().items():
        write_text(folder / name, text)
