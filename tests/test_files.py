import os
from pathlib import Path

import pytest

from mergeopt import files
from mergeopt.errors import InputError, MergeoptError
from mergeopt.files import find_file, shipped, size_text, sweep, write_text


def test_text_appears_whole(tmp_path: Path):
    path = tmp_path / "new" / "x.txt"
    write_text(path, "ü\n")
    write_text(path, "second")
    assert path.read_text() == "second" and [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_a_failed_write_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(MergeoptError, match=r"x\.txt: cannot be written \(No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_swept(tmp_path: Path):
    dead, mine, others = (tmp_path / name for name in (".x.4194304999.tmp", f".x.{os.getpid()}.tmp", ".x.y.tmp"))
    for path in (dead, mine, others):
        path.touch()
    sweep(tmp_path)
    assert not dead.exists() and mine.exists() and others.exists()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder `here`, a recipe's folder `near`, and one shipped file."""
    for name in ("here", "near", "shipped"):
        (tmp_path / name).mkdir()
    (tmp_path / "shipped" / "uniform-weights.yml").write_text("{}")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(files, "shipped", lambda kind: tmp_path / "shipped")
    return tmp_path


def test_the_working_folder_then_the_recipes_then_the_shipped(places: Path):
    assert find_file("uniform-weights", places / "near", "search_spaces").name == "uniform-weights.yml"
    assert find_file("uniform-weights.yml", None, "search_spaces").parent.name == "shipped"
    (places / "near/uniform-weights.yml").write_text("{}")
    assert find_file("uniform-weights.yml", places / "near", "search_spaces").parent.name == "near"
    assert find_file(str(places / "near/uniform-weights.yml"), None, "search_spaces").parent.name == "near"


def test_two_files_of_one_name_are_ambiguous(places: Path):
    for name in ("here", "near"):
        (places / name / "x.yml").write_text("{}")
    with pytest.raises(InputError, match=r"'x\.yml' is ambiguous"):
        find_file("x.yml", places / "near", "evals")
    (places / "near/x.yml").unlink()
    (places / "near/x.yml").symlink_to(places / "here/x.yml")
    assert find_file("x.yml", places / "near", "evals") == Path("x.yml")


def test_nothing_found_names_what_is_close(places: Path):
    with pytest.raises(InputError, match=r"no such file: uniform-wieghts; did you mean 'uniform-weights'\?"):
        find_file("uniform-wieghts", None, "search_spaces")


def test_what_a_shipped_file_names_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    name = "evals/data/sort.prompts.jsonl"
    assert find_file(name, tmp_path, "evals") == shipped("evals").parent / name
    with pytest.raises(InputError, match="no such file"):
        find_file("evals/data/none.jsonl", tmp_path, "evals")


def test_shipped_files_are_in_the_checkout_or_the_package():
    assert shipped("evals").name == "evals"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 kB"), (1, "1 kB"), (24_300, "25 kB"), (3_140_000, "3.1 MB"), (14_484_000_000, "14.48 GB")],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert size_text(count) == text
