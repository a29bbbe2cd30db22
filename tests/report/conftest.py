from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.study.family import family


@pytest.fixture(scope="session", autouse=True)
def _data_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `datasets` prepares of the evals goes away with the test run."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = str(tmp_path_factory.mktemp("datasets"))
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the family's models and evals. Shared: write elsewhere."""
    folder = family(tmp_path_factory)
    monkeypatch.chdir(folder)
    return folder
