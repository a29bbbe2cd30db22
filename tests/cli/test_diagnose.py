"""`mergeopt diagnose`, as typed."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.test_commands import call, damaged, refused
from tests.study.family import recipe, search_data, write_yaml


def test_models_and_their_base(work: Path) -> None:
    result = call("diagnose", "--models", "zoo/upper", "zoo/sort", "--base", "zoo/base")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("base zoo/base   2 models   21 of 21 tensors")
    assert any(line.startswith(" upper–sort") for line in lines) and "what to do" in lines
    assert "Weights alone do not tell" in result.stdout
    assert call("diagnose", "zoo/upper", "zoo/sort", "--base", "zoo/base").stdout == result.stdout


def test_a_recipe_gives_the_same_as_its_models(work: Path, tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "r.yml", recipe(0.5))
    by_recipe = json.loads(call("diagnose", path, "--json").stdout)
    by_name = json.loads(call("diagnose", "zoo/upper", "zoo/sort", "--base", "zoo/base", "--json").stdout)
    assert by_recipe == by_name
    assert set(by_recipe["models"]) == {"zoo/upper", "zoo/sort"} and by_recipe["base"] == "zoo/base"
    assert len(by_recipe["places"]) == 8 and by_recipe["uniform"] is None
    for place in by_recipe["places"]:
        assert place["delta_ratio"]["zoo/sort"] > 0 and place["layer"] in (None, 0, 1)


def test_with_evals_it_measures(work: Path, tmp_path: Path) -> None:
    words = ["--eval", "evals/upper_whole.yaml", "--eval", "evals/sort_whole.yaml", "--limit", "60"]
    result = call("diagnose", write_yaml(tmp_path / "r.yml", recipe(0.5)), *words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert max(map(len, result.stdout.splitlines())) <= 80
    for word in ("KL‖base", "uniform", "barrier", "keep", "Start from task_arithmetic", "used here show"):
        assert word in result.stdout
    assert "Weights alone" not in result.stdout


def test_a_search_file_brings_its_evals(work: Path, tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "s.yml", search_data(evals=("upper_whole", "sort_lines")))
    found = json.loads(call("diagnose", path, "--json").stdout)
    assert set(found["uniform"]["score"]) == {"upper_whole", "sort_lines"}
    (pair,) = found["pairs"]
    assert pair["verdict"] in ("good", "tune", "risky") and len(pair["kept"]) == 2
    assert found["kept_by_scale"]["0.5"]["zoo/upper"] == pytest.approx(pair["kept"][0], abs=1e-4)


def test_a_bad_verdict_is_an_answer(work: Path, tmp_path: Path) -> None:
    model = str(damaged(tmp_path / "model", "missing tensor"))
    words = ["diagnose", "zoo/sort", model, "--base", "zoo/base", "--eval", "evals/sort_lines.yaml"]
    result = call(*words)
    assert result.exit_code == 0 and "not measured with data: " in result.stderr
    assert "sort–model: no: model does not fit base: lacks tensor" in " ".join(result.stdout.split())
    tokens = str(damaged(tmp_path / "words", "tokenizer"))
    assert call("diagnose", "zoo/sort", tokens, "--base", "zoo/base").exit_code == 0


MISTAKES: list[tuple[list[str], str]] = [
    ([], "0 model to compare with nothing; give a recipe, or models and their base"),
    (["zoo/uper", "--base", "zoo/base"], "zoo/uper is not on disk; did you mean 'upper'?"),
    (["r.yml", "zoo/upper"], "r.yml and 1 more; give one recipe, or models and their --base"),
    (["none.yml"], "no such file: none.yml"),
    (["zoo/upper", "--base", "zoo/base", "--eval", "evals/x.yaml"], "no such file: evals/x.yaml"),
    (["zoo/upper", "--base", "zoo/base", "--limit", "-1"], "--limit -1"),
    (["zoo/upper", "--base", "zoo/base", "--eval", "evals/upper_lines.yaml", "--device", "cudda"], "no device 'cudda'"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[said[:20] for _, said in MISTAKES])
def test_mistakes(words: Sequence[str], said: str, work: Path) -> None:
    assert said in refused("diagnose", *words)
