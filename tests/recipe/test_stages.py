"""Documents become stages in the order to be made; what cannot be ordered is refused in one line."""

from pathlib import Path
from textwrap import dedent

import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document, parse_documents
from mergeopt.recipe.stages import Stages, read_stages

CHAIN = """\
name: second
merge_method: slerp
base_model: linear
models: [{model: c}]
parameters: {t: 0.5}
---
name: linear
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 0.5}
dtype: bfloat16
---
merge_method: task_arithmetic
base_model: a
models: [{model: second}, {model: c}]
parameters: {weight: 1}
"""


def documents(text: str, source: str = "r.yml") -> list[Document]:
    return list(parse_documents(dedent(text), source))


def stages(text: str) -> Stages:
    return read_stages(documents(text), SCHEMAS)


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        stages(text)
    return str(caught.value)


def test_stages_come_after_what_they_need_and_the_unnamed_one_last() -> None:
    chain = stages(CHAIN)
    assert [stage.name for stage in chain.stages] == ["linear", "second", ""]
    assert [str(ref) for ref in chain.models] == ["a", "b", "c"]
    assert {str(ref): name for ref, name in chain.final.needs.items()} == {"second": "second"}
    assert chain.notices == ()


def test_a_name_is_looked_for_only_where_a_model_is_expected() -> None:
    for name in ("linear", "bfloat16"):
        chain = stages(
            CHAIN.replace("name: linear", f"name: {name}").replace("base_model: linear", f"base_model: {name}")
        )
        first = chain.stages[0]
        assert (first.name, first.recipe.method, first.recipe.dtype) == (name, "linear", "bfloat16")


def test_without_an_unnamed_document_the_one_that_no_other_uses_is_the_output() -> None:
    chain = stages(CHAIN + "name: all\n")
    assert [stage.name for stage in chain.stages] == ["linear", "second", "all"]


def test_a_single_document_may_be_called_like_its_model() -> None:
    chain = stages("name: a\nmerge_method: passthrough\nmodels: [{model: a}]\n")
    assert len(chain.stages) == 1 and not chain.final.needs


def test_a_stage_nobody_uses_is_named_and_not_made() -> None:
    chain = stages(CHAIN + "---\nname: idle\nmerge_method: passthrough\nmodels: [{model: a}]\n")
    assert [stage.name for stage in chain.stages] == ["linear", "second", ""]
    assert chain.notices == ("r.yml:18: no other uses the stage 'idle': it is not made",)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (CHAIN.replace("name: linear\n", ""), ("r.yml:12: a second document without a name (the first: r.yml:7)",)),
        (CHAIN.replace("name: linear", "name: second"), ("r.yml:7 name: a second stage is called 'second'",)),
        (
            CHAIN.replace("models: [{model: a}, {model: b}]", "models: [{model: a}, {model: second}]"),
            ("in a circle: 'second' -> 'linear' -> 'second'", "r.yml:1"),
        ),
        (CHAIN.replace("name: linear", "name: [x]"), ("r.yml:7 name: ['x'] is no name",)),
        (
            CHAIN.replace("base_model: linear", "base_model: a") + "name: all\n",
            ("'linear' and 'all' are used by no other stage: which is the output?",),
        ),
        (CHAIN.replace("{t: 0.5}", "{}"), ("r.yml:5 parameters: slerp needs 't'",)),
    ],
)
def test_what_cannot_be_ordered(text: str, parts: tuple[str, ...]) -> None:
    line = refusal(text)
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_all_in_a_circle() -> None:
    text = "name: x\nmerge_method: passthrough\nmodels: [{model: y}]\n---\n"
    text += "name: y\nmerge_method: passthrough\nmodels: [{model: x}]\n"
    assert "in a circle: 'x' -> 'y' -> 'x'" in refusal(text)


def test_files_in_order_are_stages_called_after_the_files(tmp_path: Path) -> None:
    first = documents("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n", "up/first.yml")
    last = documents("merge_method: passthrough\nmodels: [{model: first}]\n", "last.yml")
    chain = read_stages([*first, *last], SCHEMAS)
    assert [stage.name for stage in chain.stages] == ["first", ""]
    assert [stage.near for stage in chain.stages] == [Path("up"), Path()]


@pytest.mark.parametrize("path", ["/home/me/models/first", "./merges/first", "C:\\models\\first"])
def test_a_missing_local_path_that_ends_in_a_stages_name_is_the_stage(path: str) -> None:
    first = documents("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n", "first.yml")
    last = documents(f"merge_method: passthrough\nmodels: [{{model: '{path}'}}]\n", "last.yml")
    chain = read_stages([*first, *last], SCHEMAS)
    assert [stage.name for stage in chain.stages] == ["first", ""]
    assert chain.notices == (f"last.yml:1: model {path!r} is taken for the stage 'first'",)


def test_a_folder_that_exists_is_itself(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    text = f"""\
    name: first
    merge_method: passthrough
    models: [{{model: a}}]
    ---
    merge_method: passthrough
    models: [{{model: "{tmp_path}/first"}}]
    """
    chain = stages(text)
    assert [stage.name for stage in chain.stages] == [""]
    assert "no other uses the stage 'first'" in chain.notices[0]
    assert not stages(text.replace(f"{tmp_path}/first", "org/first")).final.needs
