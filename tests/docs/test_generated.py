"""The generated pages are what the code says now, and the JSON Schemas take what the readers take."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from mergeopt.recipe.document import read_document
from mergeopt.recipe.write import to_yaml
from tests.study.family import search_data

ROOT = Path(__file__).parents[2]
PAGES: dict[str, str] = runpy.run_path(str(ROOT / "scripts" / "make_docs.py"))["pages"]()
SCHEMAS: dict[str, Any] = {
    name: read_document(ROOT / "docs" / f"{name}.schema.json").data for name in ("search", "recipe")
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_fresh(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name], "run scripts/make_docs.py"


def fits(value: Any, schema: Any, root: Any) -> bool:
    """As much of JSON Schema as ours use."""
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return any(fits(value, one, root) for one in schema["anyOf"])
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": int | float, "boolean": bool}
    kind = schema.get("type")
    if kind == "null" or value is None:
        return kind in ("null", None) and (value is None)
    if kind and (not isinstance(value, kinds[kind]) or (kind in ("integer", "number") and isinstance(value, bool))):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, list):
        return all(fits(item, schema.get("items", {}), root) for item in value)
    if not isinstance(value, dict):
        return True
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    if not set(schema.get("required", ())) <= set(value) or (more is False and not set(value) <= set(known)):
        return False
    other = more if isinstance(more, dict) else {}
    return all(fits(item, known.get(key, other), root) for key, item in value.items())


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yml")), ids=lambda path: path.stem)
def test_editors_take_the_shipped_spaces(path: Path) -> None:
    assert fits(read_document(path).data, SCHEMAS["search"], SCHEMAS["search"])


def test_editors_see_mistakes(tmp_path: Path) -> None:
    def taken(change: dict[str, Any]) -> bool:
        (tmp_path / "s.yml").write_text(to_yaml(search_data() | change))
        return fits(read_document(tmp_path / "s.yml").data, SCHEMAS["search"], SCHEMAS["search"])

    recipe = search_data()["recipe"]
    assert taken({}) and taken({"optimize": {"tokens": "5M", "time": "30m", "splits": {"report": 0.4}}})
    assert taken({"recipe": recipe | {"merge_method": {"choice": ["ties", "linear"]}}})
    assert taken({"objective": [{"eval": "x", "direction": "max", "at_most": {"base": 1.02}}]})
    assert not taken({"optimise": {}}) and not taken({"optimize": {"trails": 3}})
    assert not taken({"objective": [{"metric": "acc"}]}) and not taken({"optimize": {"method": "cma"}})
    assert not taken({"recipe": recipe | {"merge_method": "tiess"}})
    assert not taken({"recipe": recipe | {"models": [{"parameters": {}}]}})
