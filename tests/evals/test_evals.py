"""The shipped evals: lm-eval loads them from their folder, their items are right, and no model was trained on them."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import mean, variance

import pytest
import yaml
from lm_eval.tasks import TaskManager

from mergeopt.zoo.evaldata import GENERAL, TEST, TRAIN, eval_files, write_eval_files
from mergeopt.zoo.spec import DEMO
from mergeopt.zoo.tasks import TASKS, check, is_held_out

EVALS = Path(__file__).parents[2] / "evals"
NAMES = sorted([*TASKS, GENERAL])


def rows(name: str, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (EVALS / "data" / f"{name}.{split}.jsonl").read_text().splitlines()]


def questions(name: str, split: str) -> list[str]:
    key = "text" if name == GENERAL else "question"
    return [row[key].partition("=")[0] + "=" for row in rows(name, split)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """All shipped tasks as lm-eval loads them in `evals/`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(EVALS)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        manager = TaskManager(include_path=str(EVALS), include_defaults=False)
        assert sorted(manager.all_tasks) == NAMES
        yield manager.load(NAMES)["tasks"]


def test_there_is_one_file_per_task_and_each_says_what_it_is() -> None:
    files = {path.stem: yaml.safe_load(path.read_text()) for path in EVALS.glob("*.yaml")}
    assert sorted(files) == NAMES
    for name, config in files.items():
        assert config["task"] == name
        assert config["metadata"]["description"].endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_lm_eval_loads_it(loaded, name: str) -> None:
    task = loaded[name]
    assert len(task.training_docs()) == TRAIN
    assert len(task.test_docs()) == TEST
    doc = next(iter(task.test_docs()))
    if name == GENERAL:
        assert task.doc_to_target(doc) == rows(name, "test")[0]["text"]
        return
    assert task.doc_to_text(doc) == rows(name, "test")[0]["question"]
    answer = rows(name, "test")[0]["answer"]
    assert task.doc_to_target(doc) == answer
    assert task.process_results(doc, [answer]) == {"exact_match": 1.0}
    assert task.process_results(doc, [" " + answer]) == {"exact_match": 0.0}


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_right(name: str) -> None:
    for split, count in (("train", TRAIN), ("test", TEST)):
        items = rows(name, split)
        assert len(items) == count
        assert all(
            item["question"].startswith(f"{name}(") and check(item["question"], item["answer"]) for item in items
        )


@pytest.mark.parametrize("name", NAMES)
def test_train_and_test_are_equally_hard(name: str) -> None:
    train, test = ([len(question) for question in questions(name, split)] for split in ("train", "test"))
    error = (variance(train) / len(train) + variance(test) / len(test)) ** 0.5
    assert abs(mean(train) - mean(test)) < 4 * error


def test_general_reads_right_lines_of_the_whole_mixture() -> None:
    for split, count in (("train", TRAIN), ("test", TEST)):
        lines = [row["text"] for row in rows(GENERAL, split)]
        assert len(lines) == count
        assert all(
            line.endswith("\n") and check(line[: line.index("=") + 1], line[line.index("=") + 1 : -1]) for line in lines
        )
        shares = {name: sum(line.startswith(f"{name}(") for line in lines) for name in DEMO.mixture}
        assert set(shares.values()) == {count // len(DEMO.mixture)}


def test_no_question_is_asked_twice_or_can_be_trained_on() -> None:
    asked = [question for name in NAMES for split in ("train", "test") for question in questions(name, split)]
    assert len(asked) == len(set(asked)) == len(NAMES) * (TRAIN + TEST)
    assert all(is_held_out(question) for question in asked)
    rng = Random(0)
    for task in TASKS.values():
        trained = {task.item(rng, held_out=False).question for _ in range(3000)}
        assert trained.isdisjoint(asked)


def test_the_files_are_what_the_code_makes(tmp_path: Path) -> None:
    write_eval_files(tmp_path)
    assert set(eval_files()) == {path.name for path in tmp_path.iterdir()}
    for path in (EVALS / "data").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
