import shutil
from pathlib import Path

import pytest

from mergeopt.zoo.family import make_family
from mergeopt.zoo.spec import FamilySpec, Specialist, Stage
from tests.study.conftest import _data_cache

__all__ = ["_data_cache", "folder"]

TASKS = ("reverse", "sort", "shift", "dedup")
SPEC = FamilySpec(
    architecture="llama",
    hidden=32,
    layers=2,
    heads=2,
    intermediate=64,
    mixture=TASKS,
    base=Stage(steps=30, learning_rate=4e-3, replay=1.0),
    specialists=tuple(Specialist(task, Stage(steps=40, learning_rate=4e-3, replay=0.1)) for task in TASKS),
    multitask=Stage(steps=30, learning_rate=4e-3, replay=0.3),
    batch=16,
)
RECIPE = """\
merge_method: ties
base_model: runs/zoo/base
models:
  - {model: runs/zoo/dedup, parameters: {weight: 0.5, density: 0.5}}
  - {model: runs/zoo/sort, parameters: {weight: 0.5, density: 0.5}}
"""


@pytest.fixture(scope="session")
def small_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's models by their names, a few thousand parameters each."""
    zoo = tmp_path_factory.mktemp("docs") / "zoo"
    make_family(SPEC, zoo)
    return zoo


@pytest.fixture
def folder(small_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder as the pages assume it: the zoo in runs/zoo, and a recipe.yaml."""
    shutil.copytree(small_zoo, tmp_path / "runs" / "zoo")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path
