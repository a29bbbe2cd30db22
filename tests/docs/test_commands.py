"""Every command that the documentation shows works: it is run on a tiny zoo, or read by the command line's parser."""

import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
import yaml
from typer.testing import CliRunner

from mergeopt.cli.main import app
from mergeopt.files import shipped
from mergeopt.methods import METHODS
from tests.docs.pages import PAGES, ROOT, SHELLS, Block, anchors, blocks, links, write_files

OTHERS = ("pip", "cd", "optuna-dashboard")  # programs that are not ours
MARKS = ("runs", "runs: slow", "parses")


def shell_blocks(page: Path, *marks: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in SHELLS and block.mark in marks]


def with_commands(*marks: str) -> list[Path]:
    return [page for page in PAGES if shell_blocks(page, *marks)]


def run(words: list[str]) -> None:
    """Runs one command in this process."""
    if words[0] == "mergeopt":
        result = CliRunner().invoke(app, words[1:], env={"COLUMNS": "100"})
        assert result.exit_code == 0, f"{' '.join(words)}\n{result.output}\n{result.exception!r}"
        return
    script = ROOT / words[0]
    assert words[0].startswith("scripts/") and os.access(script, os.X_OK), words
    before = sys.argv
    sys.argv = [str(script), *words[1:]]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before


def parse(words: list[str]) -> None:
    """Would the command line take these words?"""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    command = group.commands[words[1]]
    command.make_context(words[1], words[2:])


def files_named(words: list[str]) -> Iterator[str]:
    """Words that are files of ours to read."""
    for word in words[2:]:
        if word.endswith((".yaml", ".yml")) and "=" not in word:
            yield word


def test_every_fence_with_commands_is_marked() -> None:
    for page in PAGES:
        for block in blocks(page):
            known = block.mark in MARKS if block.language in SHELLS else not block.mark or "file: " in block.mark
            assert known, f"{page.name}: mark this fence runs, runs: slow or parses\n{block.text}"
            said = any(line.startswith(("mergeopt ", "$ mergeopt")) for line in block.text.splitlines())
            assert block.language in SHELLS or not said, f"{page.name}: call this fence bash or console\n{block.text}"


@pytest.mark.parametrize("page", with_commands(*MARKS), ids=lambda page: page.stem)
def test_commands_are_understood(page: Path, tmp_path: Path) -> None:
    written = {*write_files(page, tmp_path), "recipe.yaml"}
    for block in shell_blocks(page, *MARKS):
        for words in block.commands:
            if words[0] == "mergeopt":
                parse(words)
                made = [name for name in files_named(words) if name.split("/")[0] in ("np", "sm", "mr")]
                for name in set(files_named(words)) - set(made) - written:
                    assert any((shipped(kind) / Path(name).name).is_file() for kind in ("evals", "search_spaces")), name
            elif words[0].startswith("scripts/"):
                assert os.access(ROOT / words[0], os.X_OK), words
            else:
                assert words[0] in OTHERS, words


@pytest.mark.parametrize("page", with_commands("runs"), ids=lambda page: page.stem)
def test_commands_run(page: Path, folder: Path) -> None:
    write_files(page, folder)
    for block in shell_blocks(page, "runs"):
        for words in block.commands:
            run(words)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", with_commands("runs: slow"), ids=lambda page: page.stem)
def test_slow_commands_run(page: Path, folder: Path) -> None:
    write_files(page, folder)
    for block in shell_blocks(page, "runs", "runs: slow"):
        for words in block.commands:
            run(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        there = (page.parent / name) if name else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: no heading {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_yaml_is_yaml(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            assert list(yaml.safe_load_all(block.text)) or block.text.startswith("#"), page.name


def test_recipes_on_pages_are_recipes(tmp_path: Path) -> None:
    """Whole recipes and search files: read without a complaint, so nobody copies a key said in vain."""
    count = 0
    for page in PAGES:
        for number, block in enumerate(blocks(page)):
            if block.language == "yaml" and re.search(r"^(merge_method|recipe):", block.text, re.MULTILINE):
                path = tmp_path / f"{page.stem}-{number}.yaml"
                path.write_text(block.text)
                result = CliRunner().invoke(app, ["validate", "--strict", str(path)])
                assert result.exit_code == 0, result.output
                count += 1
    assert count > 10


def test_code_that_pages_name_is_there() -> None:
    """``merge/plan.py:fill`` in the walkthrough, and every path of "Which file do I open?"."""
    text = (ROOT / "docs" / "walkthrough.md").read_text()
    named = re.findall(r"`(\w+/\w+\.py):(\w+)`", text)
    assert len(named) > 12
    for path, name in named:
        assert re.search(rf"^(def|class) {name}\b", (ROOT / "mergeopt" / path).read_text(), re.MULTILINE), (path, name)
    table = (ROOT / "README.md").read_text().partition("## Which file do I open?")[2]
    paths = [path for path in re.findall(r"`((?:\w+/)+\w+\.py)`", table) if "<" not in path]
    assert len(paths) > 8
    for path in paths:
        assert (ROOT / path).is_file() or (ROOT / "mergeopt" / path).is_file(), path


def test_the_readme_names_every_method_and_command() -> None:
    text = (ROOT / "README.md").read_text()
    assert not [name for name in METHODS if f"{name}" not in text.partition("## Speed")[0]]
    group = typer.main.get_command(app)
    assert not [name for name in group.commands if f"`mergeopt {name} " not in text]  # type: ignore[attr-defined]


def test_every_page_is_in_the_index() -> None:
    index = set(links(ROOT / "docs" / "README.md"))
    assert {page.name for page in PAGES if page.parent.name == "docs"} - {"README.md"} <= index
