from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mergeopt.checkpoint.locate import Located, commits, locate, locate_model
from mergeopt.errors import InputError
from mergeopt.recipe.recipe import ModelRef


class Hub:
    """Stands for snapshot_download: `cached` and `online` are what it gives without and with the network."""

    def __init__(self, cached: Path | None = None, online: Path | None = None) -> None:
        self.folders = {True: cached, False: online}
        self.asked: list[tuple[str, str | None, bool]] = []
        self.online_pickle: str | None = None  # what a download that asks for pickles brings

    def __call__(self, repo: str, *, revision: str | None, allow_patterns: Any, local_files_only: bool) -> str:
        self.asked.append((repo, revision, local_files_only))
        folder = self.folders[local_files_only]
        if folder is None:
            raise LocalEntryNotFoundError("not there\nsecond line")
        if self.online_pickle and any(fnmatch(self.online_pickle, pattern) for pattern in allow_patterns):
            (folder / self.online_pickle).touch()
        return str(folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    return hub


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, beside the recipe's."""
    for name in ("work", "recipes"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_the_working_folder_then_the_recipes(work: Path, tmp_path: Path) -> None:
    near = tmp_path / "recipes"
    (near / "zoo" / "sort").mkdir(parents=True)
    assert locate_model(ModelRef("zoo/sort"), near) == near / "zoo" / "sort"

    (work / "zoo" / "base").mkdir(parents=True)
    assert locate_model(ModelRef("zoo/base"), near) == work / "zoo" / "base"
    assert locate_model(ModelRef("../recipes/zoo/sort"), near) == work / "../recipes/zoo/sort"
    assert locate_model(ModelRef(str(near / "zoo")), None) == near / "zoo"


def test_two_different_folders_are_ambiguous_and_one_twice_is_not(work: Path, tmp_path: Path) -> None:
    near = tmp_path / "recipes"
    (work / "m").mkdir()
    (near / "m").symlink_to(work / "m")
    assert locate_model(ModelRef("m"), near) == work / "m"
    assert locate_model(ModelRef("m"), work) == work / "m"

    (near / "m").unlink()
    (near / "m").mkdir()
    with pytest.raises(InputError, match=r"'m' is ambiguous: .*work/m and .*recipes/m; write an absolute path"):
        locate_model(ModelRef("m"), near)


@pytest.mark.parametrize("path", ["./zoo/srot", "../work/zoo/srot", "zoo/a/srot", "~/no such", "a--b"])
def test_what_cannot_be_a_repository_never_asks_the_hub(hub: Hub, work: Path, path: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        locate_model(ModelRef(path))
    assert hub.asked == []


@pytest.mark.parametrize("path", ["~nobody-of-this-name/m", "a" * 5000])
def test_paths_that_cannot_be_looked_up(path: str) -> None:
    with pytest.raises(InputError, match="cannot be looked up"):
        locate_model(ModelRef(path))


def test_close_names_are_offered(hub: Hub, work: Path) -> None:
    (work / "zoo" / "sort").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no such folder: './zoo/srot'; did you mean 'sort'"):
        locate_model(ModelRef("./zoo/srot"))
    with pytest.raises(InputError, match=r"zoo/srot is not on disk; did you mean 'sort'\? Otherwise"):
        locate_model(ModelRef("zoo/srot"))


def test_a_file_and_a_revision_of_a_folder(work: Path) -> None:
    (work / "m").touch()
    with pytest.raises(InputError, match="'m' is a file"):
        locate_model(ModelRef("m"))
    (work / "d").mkdir()
    with pytest.raises(InputError, match="'d' is a local folder and has no revision 'main'"):
        locate_model(ModelRef("d", revision="main"))


def test_the_cache_serves_without_the_network(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cached").mkdir()
    (tmp_path / "cached" / "model.safetensors").touch()
    hub.folders[True] = tmp_path / "cached"
    assert locate_model(ModelRef("org/m", revision="v1")) == tmp_path / "cached"
    assert hub.asked == [("org/m", "v1", True)]


def test_a_cache_without_weights_is_completed(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cached").mkdir()
    hub.folders = {True: tmp_path / "cached", False: tmp_path / "online"}
    assert locate_model(ModelRef("org/m")) == tmp_path / "online"


def test_offline_is_one_line_with_the_command(hub: Hub) -> None:
    with pytest.raises(InputError) as caught:
        locate_model(ModelRef("org/m", revision="v1"))
    assert str(caught.value) == (
        "org/m@v1 is not on disk; give a local path, or run `hf download org/m --revision v1` on a connected machine"
    )


@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "adapter_model.bin"])
def test_pickles_are_fetched_only_where_there_is_nothing_else(hub: Hub, tmp_path: Path, file: str) -> None:
    (tmp_path / "online").mkdir()
    hub.folders[False], hub.online_pickle = tmp_path / "online", file
    assert locate_model(ModelRef("org/m")) == tmp_path / "online"
    assert [cached for *_, cached in hub.asked] == [True, False, False]
    hub.asked, hub.folders[True] = [], tmp_path / "online"
    assert locate_model(ModelRef("org/m")) == tmp_path / "online" and len(hub.asked) == 1
    (tmp_path / "online" / file).unlink()
    (tmp_path / "online" / "model.safetensors").touch()
    assert locate_model(ModelRef("org/m")) == tmp_path / "online" and len(hub.asked) == 2


OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache as the Hub's client lays it out: `org/m` at two commits, the branch main and the tag v1."""
    repository = tmp_path / "cache" / "models--org--m"
    (repository / "refs").mkdir(parents=True)
    for name, commit in (("main", NEW), ("v1", OLD)):
        (repository / "refs" / name).write_text(commit)
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "model.safetensors").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return repository / "snapshots"


@pytest.mark.parametrize(
    ("revision", "commit"), [(None, NEW), ("main", NEW), ("v1", OLD), (OLD, OLD), (NEW, NEW)], ids=str
)
def test_branches_tags_and_commits_in_the_cache(cache: Path, revision: str | None, commit: str) -> None:
    folder = locate_model(ModelRef("org/m", revision))
    assert folder == cache / commit
    assert commits([folder / "model.safetensors", Path("a/b.safetensors")]) == {"org/m": commit}


def test_a_revision_that_is_not_cached(cache: Path) -> None:
    with pytest.raises(InputError, match=r"org/m@v2 is not on disk; .*--revision v2"):
        locate_model(ModelRef("org/m", "v2"))


def test_model_and_adapter_each_at_a_revision(cache: Path, work: Path) -> None:
    (work / "lora").mkdir()
    assert locate(ModelRef.parse("org/m@v1+lora", "")) == Located(cache / OLD, work / "lora")
    assert locate(ModelRef.parse("org/m+org/m@v1", "")) == Located(cache / NEW, cache / OLD)
    assert locate(ModelRef.parse("org/m", "")) == Located(cache / NEW)


@pytest.mark.parametrize("name", ["llama+alpaca", "m@v1", "a+b+c", "runs/x+y@2", "a@1@2"])
def test_a_folder_with_plus_or_at_in_its_name(hub: Hub, work: Path, tmp_path: Path, name: str) -> None:
    near = tmp_path / "recipes"
    (near / name).mkdir(parents=True)
    assert locate(ModelRef.parse(name, ""), near) == Located(near / name)
    assert locate(ModelRef(name), near) == Located(near / name)
    absolute = str(near / name)
    assert locate(ModelRef.parse(absolute, "")) == Located(near / name) and hub.asked == []


def test_both_readings_are_an_error_that_names_both(work: Path) -> None:
    for name in ("llama+alpaca", "llama", "alpaca"):
        (work / name).mkdir()
    with pytest.raises(
        InputError, match=r"'llama\+alpaca' is a folder, .*llama\+alpaca, and also the adapter .*/alpaca"
    ):
        locate(ModelRef.parse("llama+alpaca", ""))
    assert locate(ModelRef("llama+alpaca")) == Located(work / "llama+alpaca")
    (work / "alpaca").rmdir()
    assert locate(ModelRef.parse("llama+alpaca", "")) == Located(work / "llama+alpaca")
    (work / "llama+alpaca").rmdir()
    with pytest.raises(InputError, match="alpaca"):
        locate(ModelRef.parse("llama+./alpaca", ""))
