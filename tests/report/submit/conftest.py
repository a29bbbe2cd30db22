from pathlib import Path

import pytest

from tests.cli.test_commands import call
from tests.study.conftest import _data_cache, work
from tests.study.family import recipe, write_yaml

__all__ = ["_data_cache", "work"]


@pytest.fixture
def merged(work: Path, tmp_path: Path) -> Path:
    """A merge of the small family, in a folder that may be changed."""
    out = tmp_path / "merged"
    call("merge", write_yaml(tmp_path / "r.yml", recipe(0.5)), out, "-q")
    return out
