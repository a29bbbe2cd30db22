"""A published merge, made and measured again: the whole way on small models, and what a bad file says."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mergeopt.errors import InputError
from mergeopt.published.entry import read_entry
from mergeopt.published.reproduction import Line
from tests.cli.test_commands import call, refused
from tests.conftest import read_weights
from tests.study.family import recipe, write_yaml

FIRST = {"eval": "evals/upper_first.yaml", "metric": "exact_match", "called": "first"}
LINES = {"eval": "evals/sort_lines.yaml", "metric": "bits_per_byte", "called": "bits"}


def entry_data(**more: Any) -> dict[str, Any]:
    fact = {"parameters": 1000, "dtype": "float32"}
    return {
        "title": "A small merge",
        "recipe": recipe(0.5),
        "models": dict.fromkeys(("zoo/base", "zoo/upper", "zoo/sort"), fact),
        "evals": [FIRST, {"eval": "nobody_has_this.yaml", "metric": "acc", "called": "lost"}],
        "claims": [
            {
                "by": "A",
                "source": "https://a.example",
                "scores": {"merge": {"first": 50.0}, "zoo/upper": {"first": 90}},
            },
            {
                "by": "B",
                "source": "https://b.example",
                "unit": "share",
                "scores": {"merge": {"first": 0.25, "lost": 1}},
            },
        ],
        "notes": ["a note"],
        **more,
    }


def test_the_whole_way(work: Path, tmp_path: Path) -> None:
    data = entry_data(evals=[FIRST, LINES])
    data["claims"] = [data["claims"][0]]
    path, out = write_yaml(tmp_path / "small.yml", data), tmp_path / "out"
    dry = call("reproduce", f"published:{path}", "--dry-run", "--out", out)
    assert dry.exit_code == 0 and "download  nothing" in dry.stdout and "in zoo/upper" in dry.stdout
    assert not out.exists()
    result = call("reproduce", f"published:{path}", "--out", out, "--device", "cpu", "--dtype", "float32")
    assert result.exit_code == 0, result.output
    evaluated = json.loads(call("eval", out, "zoo/upper", "evals/upper_first.yaml", "--json", "--device", "cpu").stdout)
    scores = {Path(row["model"]).name: row["evals"]["upper_first"]["value"] for row in evaluated}
    lines = json.loads((out / "published.json").read_text())["lines"]
    found = {(line["model"], line["eval"]): line for line in lines}
    assert found.keys() == {(m, e) for m in ("merge", "zoo/upper") for e in ("first", "bits")}
    merge = found["merge", "first"]
    assert merge["measured"] == pytest.approx(scores["out"])
    assert merge["claimed"] == {"A": 0.5} and merge["difference"] == pytest.approx(scores["out"] - 0.5)
    assert found["zoo/upper", "first"]["measured"] == pytest.approx(scores["upper"])
    assert found["merge", "bits"]["measured"] > 0 and found["merge", "bits"]["difference"] is None
    assert f"{merge['difference'] * 100:+.2f}" in result.stdout and "50.00" in result.stdout
    assert "measured here" in result.stdout and "note: a note" in result.stderr
    assert "A merge of pre-trained language models" in (out / "README.md").read_text()
    assert "is what its recipe gives" in call("reproduce", out).stdout


@pytest.mark.slow  # lm-eval reads its index of tasks
def test_evals_that_cannot_be_run_are_left_out_and_said(work: Path, tmp_path: Path) -> None:
    path = write_yaml(
        tmp_path / "small.yml", entry_data(evals=[FIRST, {**LINES, "eval": "nope_task", "called": "lost"}])
    )
    said = call(
        "reproduce", f"published:{path}", "--out", tmp_path / "out", "--device", "cpu", "--limit", "5", "--json"
    )
    assert said.exit_code == 0, said.output
    data = json.loads(said.stdout)
    lost = [line for line in data["lines"] if line["eval"] == "lost"]
    assert [line["measured"] for line in lost] == [None, None]
    assert any(text.startswith("nope_task is left out: ") for text in data["notices"])


def test_without_evaluating_and_with_models_elsewhere(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_yaml(tmp_path / "small.yml", entry_data())
    plain = call("reproduce", f"published:{path}", "--out", tmp_path / "a", "--no-eval", "-q")
    assert plain.exit_code == 0, plain.output
    monkeypatch.chdir(tmp_path)
    absent = refused("reproduce", f"published:{path}", "--out", tmp_path / "b")
    assert "not on disk: zoo/upper (4 kB), zoo/sort (4 kB), zoo/base (4 kB); run `hf download zoo/upper" in absent
    moved = [word for n in ("base", "upper", "sort") for word in ("--models", f"zoo/{n}={work / 'zoo' / n}")]
    again = call("reproduce", f"published:{path}", "--out", tmp_path / "b", "--no-eval", *moved)
    assert again.exit_code == 0, again.output
    first, second = read_weights(tmp_path / "a"), read_weights(tmp_path / "b")
    assert all(first[name].equal(second[name]) for name in first)
    assert "is not empty" in refused("reproduce", f"published:{path}", "--out", tmp_path / "a", *moved)
    assert "names no such model" in refused("reproduce", f"published:{path}", "--models", "zoo/x=a")


def test_words_of_the_command(tmp_path: Path) -> None:
    assert "published:llama2-meditron-ties " in call("reproduce", "--list").stdout
    assert len(json.loads(call("reproduce", "--list", "--json").stdout)) >= 4
    assert "did you mean 'llama2-meditron-ties'?" in refused("reproduce", "published:llama2-meditron-tie")
    assert "no such file: nope.yml" in refused("reproduce", "published:nope.yml")
    assert "no DIR given" in refused("reproduce")
    assert "--dry-run is for published:NAME" in refused("reproduce", tmp_path, "--dry-run")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"claims": []}, "claims"),
        ({"evals": [FIRST, FIRST]}, "called alike"),
        ({"models": {}}, "scores of 'zoo/upper', which is none of the models"),
        ({"extra": 1}, "extra"),
        ({"recipe": {"merge_method": "magic"}}, "magic"),
        ({"models": {"zoo/upper": {"parameters": 1, "dtype": "float32"}}}, "says nothing of 'zoo/sort'"),
        (
            {"claims": [{"by": "x", "source": "https://x.y", "scores": {"zoo/upper": {}}}]},
            "nobody claims a score of 'merge'",
        ),
        ({"claims": [{"by": "x", "source": "https://x.y", "scores": {"merge": {"gsm": 1}}}]}, "none of the evals"),
        ({"claims": [{"by": "x", "source": "https://x.y", "scores": {"merge": {"first": 101}}}]}, "between 0 and 100"),
        ({"claims": [{"by": "x", "source": "file:///x", "scores": {"merge": {"first": 1}}}]}, "source"),
    ],
)
def test_a_bad_file_is_named_with_its_line(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yml"
    path.write_text(yaml.safe_dump(entry_data() | change, sort_keys=False))
    with pytest.raises(InputError) as caught:
        read_entry(path)
    assert problem in str(caught.value) and str(path) in str(caught.value)


def test_the_difference_is_to_the_first_that_claims() -> None:
    assert Line("merge", "x", {"A": None, "B": 0.5}, 0.75, None).difference == 0.25
    assert Line("merge", "x", {"A": None}, 0.75, None).difference is None
    assert Line("merge", "x", {"A": 0.5}, None, None).difference is None
