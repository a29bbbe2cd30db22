"""One small study for the whole folder, and a browser where the machine has one."""

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mergeopt.report.html.page import write_report
from tests.study.conftest import _data_cache, work
from tests.study.family import family, search_data
from tests.study.test_search import search

__all__ = ["_data_cache", "work"]

HOSTILE = '<script>alert("1")</script>\'\n\u202e\x1b[31m&amp;{{ 7*7 }}' + "w" * 300
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())

    @property
    def keys(self) -> list[str | None]:
        return [attrs.get("id") for name, attrs in self.tags if name == "section" and "id" in attrs]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a search by gradient and trials. Tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    data = search_data(method="auto", trials=8) | {"learn": {"steps": 6}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(family(tmp_path_factory))
        return search(data, folder, write=True).out


@pytest.fixture
def hostile(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with another model's, eval's and item's name, where its models are not."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "hostile"
    shutil.copytree(finished, out)
    spelled = json.dumps(HOSTILE)[1:-1]
    for path in (out / "result.json", *out.glob("search/*.json*"), out / "search" / "journal.log"):
        text = path.read_text()
        path.write_text(text.replace("zoo/upper", spelled).replace("upper_lines", spelled + "2").replace("=", spelled))
    write_report(out)
    return out


@pytest.fixture
def page() -> Callable[[Path], Page]:
    """Reads the report of an output folder."""
    return lambda out: Page((out / "search" / "report.html").read_text(encoding="utf-8"))
