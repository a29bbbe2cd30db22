from pathlib import Path

import pytest
import yaml

from mergeopt.errors import InputError
from mergeopt.recipe.document import MAX_BYTES, parse_document, read_document


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_document(text, "r.yml")
    return str(caught.value)


def test_lines_of_keys_list_items_and_missing_keys():
    document = parse_document(
        "merge_method: ties\n# note\nmodels:\n  - model: a\n    parameters:\n      weight: 1\n", "r.yml"
    )
    assert document.where(("models", 0, "parameters", "weight")) == "r.yml:6 models[0].parameters.weight"
    assert document.where(("models", 0)) == "r.yml:4 models[0]"
    assert document.where(("models", 0, "parameters", "density")) == "r.yml:5 models[0].parameters.density"
    assert document.where() == "r.yml:1"


def test_part_keeps_lines():
    document = parse_document("name: x\nrecipe:\n  merge_method: ties\n  dtype: bfloat16\n", "s.yml")
    assert document.part("recipe").data == {"merge_method": "ties", "dtype": "bfloat16"}
    assert document.part("recipe").where(("dtype",)) == "s.yml:4 dtype"


def test_data_equals_pyyaml():
    text = "a: [1, 2.5, x, null, true, 1e-5, .5]\nb: {c: 'x y', 3: 2001-01-01}\nd: &k {e: 1, f: 2}\ng: {<<: *k, e: 9}\n"
    expected = yaml.safe_load(text)
    expected["b"]["3"] = expected["b"].pop(3)  # keys are words here
    assert parse_document(text, "r.yml").data == expected


def test_merge_keys_do_not_override_what_stands_before_them():
    assert parse_document("d: &k {e: 1, f: 2}\ng: {e: 9, <<: *k}\n", "r.yml").data["g"] == {"e": 9, "f": 2}
    assert parse_document("a: &a {x: 1}\nb: &b {x: 2, y: 3}\nc: {<<: [*a, *b]}\n", "r.yml").data["c"] == {
        "x": 1,
        "y": 3,
    }


def test_duplicate_key_counts_last_and_is_named():
    document = parse_document("dtype: float32\nmerge_method: ties\ndtype: bfloat16\n", "r.yml")
    assert document.data["dtype"] == "bfloat16"
    assert document.notices == ("r.yml:3 dtype: given twice (first on line 1); the last one counts",)


def test_tab_is_named():
    line = refused("merge_method: ties\nmodels:\n\t- model: a\n")
    assert line.startswith("r.yml:3") and "tab" in line


@pytest.mark.parametrize("text", ["", "   \n", "# only a comment\n", "---\n"])
def test_empty(text: str):
    assert "is empty" in refused(text)


def test_empty_documents_do_not_count():
    assert parse_document("---\na: 1\n---\n", "r.yml").data == {"a": 1}


def test_several_documents_name_the_second():
    assert refused("a: 1\n---\nb: 2\n").startswith("r.yml:3: holds 2 documents")


@pytest.mark.parametrize(
    "text, word",
    [
        ("a: [1, 2", "not YAML"),
        ("a: 'x", "not YAML"),
        ("a: *nowhere", "not YAML"),
        ("? [a]\n: 1", "plain word"),
        ("{MODEL}: 1", "plain word"),
        ("a: !!python/object/apply:os.system [ls]", "not plain YAML"),
        ("a: !!python/name:os.system", "constructor"),
        ("a: 2001-99-99", "month"),
        ("a: \x00", "not YAML"),
        ('"\\U9007199254740993": 1', "not YAML"),
    ],
)
def test_not_yaml(text: str, word: str):
    line = refused(text)
    assert line.startswith("r.yml") and word in line and "\n" not in line


@pytest.mark.parametrize("value", ["!!timestamp x", "!!bool x", "!!int ''", "!!float x", "2001-02-30"])
def test_a_value_that_its_tag_does_not_fit(value: str):
    assert refused(f"a:\n  b: {value}").startswith("r.yml:2 a.b: cannot be read: ")


def test_characters_in_two_halves():
    assert parse_document('a: "\\ud83d\\ude00"\n"\\ud83d\\ude00": ü', "r.yml").data == {"a": "😀", "😀": "ü"}
    assert "holds half a character" in refused('a: "x\\ud83d"')
    assert "holds half a character" in refused('"\\ude00": 1')


def test_deep_nest_and_alias_bomb_are_stopped_quickly():
    assert "40 levels" in refused("[" * 60 + "]" * 60)
    assert "levels" in refused("[" * 5000 + "]" * 5000)
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n"
    for name, previous in zip("bcdefgh", "abcdefg", strict=True):
        bomb += f"{name}: &{name} [{','.join([f'*{previous}'] * 9)}]\n"
    assert "values" in refused(bomb)


def test_self_reference_is_stopped():
    assert "levels" in refused("a: &a [*a]\n")


def test_files(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_bytes("\ufeffmerge_method: ties\n".encode())
    assert read_document(file).data == {"merge_method": "ties"}
    with pytest.raises(InputError, match=r"no such file; did you mean '.*recipe\.yaml'"):
        read_document(tmp_path / "recpie.yaml")
    with pytest.raises(InputError, match="is a folder"):
        read_document(tmp_path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_document(file)
    file.write_text("a: " + "x" * MAX_BYTES)
    with pytest.raises(InputError, match="too many"):
        read_document(file)
