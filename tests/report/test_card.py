"""What others see of a merge: no local path, nothing that a name could smuggle in."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from mergeopt.recipe.recipe import ModelRef
from mergeopt.report.card.naming import card_name, is_from_hub
from mergeopt.report.dryrun import dry_run_lines
from mergeopt.study.evaluation import evaluate_models
from mergeopt.study.workbench import Compute
from tests.study.family import search_data
from tests.study.test_search import prepare, search


def test_hub_ids_are_told_from_folders(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--org--model" / "snapshots" / "abc"
    assert is_from_hub(ModelRef("org/model", "main"), cached)
    assert card_name(ModelRef("org/model", "main"), cached) == "org/model@main"
    assert not is_from_hub(ModelRef("org/model"), tmp_path / "org" / "model")
    assert card_name(ModelRef("zoo/base"), tmp_path / "zoo" / "base") == "local:base"
    assert card_name(ModelRef("/home/me/x/"), Path("/home/me/x")) == "local:x"


def test_the_card(work: Path, tmp_path: Path) -> None:
    """Absolute paths, models in the cache, names that mean something in Markdown."""
    data = search_data(trials=6)
    secret, hub = tmp_path / "secret", tmp_path / "hub" / "models--org--up_per" / "snapshots" / "abc"
    for folder, task in ((hub, "upper"), (secret / "so|rt_*x*", "sort")):
        shutil.copytree(f"zoo/{task}", folder)
    data["recipe"]["models"][1]["model"] = str(secret / "so|rt_*x*")
    data["recipe"]["base_model"] = str(work / "zoo" / "base")
    outcome = search(data, tmp_path, write=True)
    text = (outcome.out / "README.md").read_text()
    assert str(tmp_path) not in text and "secret" not in text and str(work) not in text and "zoo/" not in text
    card = ModelCard(text)
    front = card.data.to_dict()
    assert [front.pop(key) for key in ("library_name", "pipeline_tag", "tags", "license")] == [
        "transformers", "text-generation", ["merge", "mergekit", "mergeopt"], "unknown",
    ]  # fmt: skip
    assert front.keys() == {"model-index"}
    winner = outcome.found.result.row(outcome.found.result.winner)
    found = {(each.dataset_type, each.metric_type): each.metric_value for each in card.data.eval_results}
    assert found == {(name, "bits_per_byte"): round(cell.value, 4) for name, cell in winner.evals.items()}
    for heading in ("## Merge Details", "### Merge Method", "### Models Merged", "### Configuration", "### License"):
        assert heading in text
    configuration = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert {m["model"] for m in configuration["models"]} <= {"local:upper", "local:so|rt_*x*", "local:base"}
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(outcome.found.result.rows)
    assert {line.replace("\\|", "").count("|") for line in rows} == {rows[1].count("|")}
    assert any("local:so\\|rt\\_\\*x\\*" in line for line in rows)
    assert "were read" not in text
    evaluate_models([str(outcome.out)], [], Compute(torch.device("cpu")))  # reads the report items
    again = search(data, tmp_path, resume=True, write=True)
    assert "the report items were read 2 times" in (again.out / "README.md").read_text()


def test_the_files_of_a_result(work: Path, tmp_path: Path) -> None:
    outcome = search(search_data(trials=2), tmp_path, write=True)
    result = json.loads((outcome.out / "result.json").read_text())
    assert result["format"] == 1
    assert [row["name"] for row in result["rows"]] == [row.name for row in outcome.found.result.rows]
    assert str(tmp_path) not in json.dumps(result)
    recipe = yaml.safe_load((outcome.out / "recipe.yaml").read_text())
    assert (outcome.out / "mergekit_config.yml").read_text() == (outcome.out / "recipe.yaml").read_text()
    assert recipe["models"][0]["model"].startswith("zoo/")  # as given: it can be made again
    lock = json.loads((outcome.out / "recipe.lock.json").read_text())
    assert lock["items"]["upper_lines"].keys() >= {"search", "select", "report"}


@pytest.mark.parametrize(
    ("budget", "trials"),
    [
        ({"trials": 7}, "7"),
        ({"trials": None}, "200"),
        ({"trials": None, "tokens": "100k"}, r"about \d\d"),
        ({"trials": 9, "tokens": "100M"}, "9"),
        ({"trials": None, "time": "1s"}, r"about \d+"),
    ],
)
def test_a_dry_run_says_what_is_needed(budget: dict[str, object], trials: str, work: Path, tmp_path: Path) -> None:
    lines = dry_run_lines(prepare(search_data(**budget), tmp_path), tmp_path / "new" / "out", torch.device("cpu"))
    said = dict(line.split(maxsplit=1) for line in lines)
    assert said["models"].startswith("3, ") and said["models"].endswith("tensors 21")
    assert said["space"] == "2 numbers"
    assert said["detects"].startswith("a difference of ")
    assert " of " in said["disk"] and said["disk"].endswith(" GB free")
    assert re.fullmatch(f"{trials} by random, in generations of 4", said["trials"])
