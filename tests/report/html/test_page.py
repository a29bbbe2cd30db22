"""The report as a file: what stands in it, of a finished and an unfinished study, and of names by strangers."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mergeopt.errors import InputError
from mergeopt.report.html.items import read_items, write_items
from mergeopt.report.html.page import write_report
from mergeopt.study.record import StudyRecord
from tests.report.html.conftest import HOSTILE, Page
from tests.study.family import search_data, write_yaml
from tests.study.test_search import prepare

Read = Callable[[Path], Page]
PICK = {
    "task": "pick",
    "output_type": "multiple_choice",
    "doc_to_choice": ["yes", "no"],
    "doc_to_target": 0,
    "target_delimiter": " ",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def test_the_report_of_a_finished_search(finished: Path, page: Read) -> None:
    found = page(finished)
    assert found.keys == ["evidence", "history", "coefficients", "importance", "front", "items", "recipe", "made"]
    result = json.loads((finished / "result.json").read_text())
    for row in result["rows"]:
        assert row["name"].rsplit("/")[-1] in found.said
    assert "8 trials (0 failed) and 6 gradient steps" in found.said
    assert " ".join((finished / "recipe.yaml").read_text().split()) in found.said
    versions = json.loads((finished / "recipe.lock.json").read_text())["versions"]
    assert versions["torch"] in found.said and versions["lm_eval"] in found.said
    texts = json.loads((finished / "search" / "items.json").read_text())["evals"]
    assert set(texts) == {"upper_lines", "sort_lines"}
    assert len(texts["sort_lines"]["items"]) == result["items"]["sort_lines"]["report"]
    assert any(item["prompt"].strip() in found.said for item in texts["sort_lines"]["items"])


def test_pictures_are_told_to_those_who_cannot_see_them(finished: Path, page: Read) -> None:
    found = page(finished)
    drawings = [attrs for name, attrs in found.tags if name == "svg"]
    assert drawings and all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawings)
    assert found.count("desc") == len(drawings)
    figures, tables = found.count("figure"), found.count("table")
    assert tables >= figures + 1  # every figure's numbers, and what made it
    assert found.tags[0] == ("html", {"lang": "en"})


def test_nothing_comes_from_elsewhere_and_nothing_runs(finished: Path, page: Read) -> None:
    found = page(finished)
    assert found.count("script") == 0
    for _, attrs in found.tags:
        assert not any(key.startswith("on") for key in attrs)
        for key in ("src", "href"):
            assert (attrs.get(key) or "#").startswith(("#", "data:"))
    style = " ".join(found.text)
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    policy = next(attrs["content"] for name, attrs in found.tags if "http-equiv" in attrs)
    assert policy is not None and policy.startswith("default-src 'none'")


def test_strangers_names_are_text(hostile: Path, page: Read) -> None:
    found = page(hostile)
    assert found.count("script") == 0 and "{{ 7*7 }}" in found.said
    raw = (hostile / "search" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in raw and "\u202e" not in raw and "\x1b" not in raw
    assert '<script>alert("1")</script>\'' in found.said and "\\u202e" in found.said
    assert HOSTILE[-300:] in raw  # whole in a tooltip or table, cut in a picture
    longest = max(len(text) for text in re.findall(r"<text[^>]*>([^<]*)", raw))
    assert longest < 200
    assert "coefficients" not in found.keys and "Not shown:" in found.said  # no such model is here


def test_the_texts_of_items(work: Path, tmp_path: Path) -> None:
    write_yaml(work / "evals" / "pick.yaml", yaml.safe_load((work / "evals" / "sort_whole.yaml").read_text()) | PICK)
    suite = prepare(search_data(evals=("sort_whole", "sort_lines", "pick")), tmp_path).suite
    write_items(suite, tmp_path)
    texts = read_items(tmp_path)
    docs = suite.docs("sort_whole", "report")
    assert [(t.prompt, t.answer) for t in texts["sort_whole"].items] == [(d["question"], d["answer"]) for d in docs]
    assert texts["sort_lines"].items[0].answer == "" and not texts["sort_lines"].higher_is_better
    assert texts["pick"].items[0].answer == " yes |  no"
    assert read_items(tmp_path / "elsewhere") == {}


def test_a_study_that_goes_on(finished: Path, tmp_path: Path, work: Path, page: Read) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "search", out / "search", ignore=shutil.ignore_patterns("*.html", "items.json"))
    before = {path.name: path.read_bytes() for path in (out / "search").iterdir()}
    write_report(out)
    assert {name: (out / "search" / name).read_bytes() for name in before} == before  # it only looks
    found = page(out)
    assert found.keys == ["references", "history", "coefficients", "front", "recipe", "made"]
    assert found.said.count("not finished") <= 1 and "Not finished: the best of 8 trials so far scores" in found.said
    assert re.search(r"Of trial \d+, the best so far", found.said)
    log = (out / "search" / "log.jsonl").read_text().splitlines(keepends=True)
    (out / "search" / "log.jsonl").write_text("".join(log[:3]))
    write_report(out)
    assert "Not finished: 0 trials so far" in page(out).said


def test_a_study_without_trials(tmp_path: Path, page: Read) -> None:
    identity = {"recipe": {}, "objective": []}
    StudyRecord.create(tmp_path / "search", space={}, identity=identity).close()
    write_report(tmp_path)
    assert page(tmp_path).keys == ["made"] and "no trial was finished yet" in page(tmp_path).said


def test_folders_without_a_study(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study"):
        write_report(tmp_path)
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "out" / "search" / "journal.log").unlink()
    with pytest.raises(InputError, match=r"in a storage elsewhere.*--storage"):
        write_report(tmp_path / "out")
    with pytest.raises(InputError, match="the storage cannot be read"):
        write_report(tmp_path / "out", storage=f"sqlite:///{tmp_path}/none.db")
    shutil.copytree(finished, tmp_path / "newer")
    (tmp_path / "newer" / "result.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="is of format 2, not 1"):
        write_report(tmp_path / "newer")
