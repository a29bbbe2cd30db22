from pathlib import Path

import pytest

from mergeopt.errors import InputError
from mergeopt.scoring.task_file import check_data, check_task_file, data_files, is_local, with_absolute_data

ROOT = Path("/nowhere/lm_eval")


def check(path, *, trust=False):
    check_task_file(path, trusted_root=ROOT, trust_code=trust)


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("function", ["os.system", "utils.process", "lm_eval_evil.run"])
def test_foreign_functions_need_trust(function, tmp_path):
    path = write(tmp_path / "t.yaml", f"task: t\nprocess_docs: !function {function}\n")
    with pytest.raises(InputError, match=r"t.yaml:2: !function .*--trust-eval-code"):
        check(path)
    check(path, trust=True)


def test_functions_of_lm_eval_are_allowed_unless_shadowed(tmp_path):
    path = write(tmp_path / "t.yaml", "task: t\nprocess_docs: !function lm_eval.tasks.gsm8k.utils.process\n")
    check(path)
    shadow = tmp_path / "lm_eval/tasks/gsm8k/utils.py"
    shadow.parent.mkdir(parents=True)
    shadow.write_text("")
    with pytest.raises(InputError, match="not part of lm-eval"):
        check(path)


def test_functions_hide_neither_in_lists_nor_in_includes(tmp_path):
    write(tmp_path / "inner.yaml", "metric_list:\n  - metric: !function evil.metric\n")
    with pytest.raises(InputError, match=r"inner.yaml:2"):
        check(write(tmp_path / "t.yaml", "include: inner.yaml\ntask: t\n"))
    with pytest.raises(InputError, match="no such eval file"):
        check(write(tmp_path / "u.yaml", "include: [absent.yaml]\ntask: t\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("task: [a\nb: c\n", r"t.yaml:\d: not valid YAML"), ("- a\n", "expected a mapping"), ("", "expected a mapping")],
)
def test_broken_yaml_names_the_line(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        check(write(tmp_path / "t.yaml", text))


def test_data_files_are_looked_up_beside_the_task_then_in_the_working_folder(tmp_path, monkeypatch):
    evals, work = tmp_path / "evals", tmp_path / "work"
    evals.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    for folder, name in [(evals, "a.jsonl"), (work, "a.jsonl"), (work, "b.jsonl")]:
        (folder / name).write_text("{}\n")
    files = {"train": "a.jsonl", "test": ["b.jsonl", "https://host/c.jsonl"]}
    config = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    found = with_absolute_data(config, evals / "t.yaml")
    expected = {str(evals / "a.jsonl"), str(work / "b.jsonl"), "https://host/c.jsonl"}
    assert set(data_files(found)) == expected
    assert not is_local(found)  # one file is fetched
    assert config["dataset_kwargs"]["data_files"] == files  # untouched


def test_a_missing_data_file_is_named_with_what_is_close(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n")
    config = {"dataset_path": "json", "dataset_kwargs": {"data_files": "trian.jsonl"}}
    with pytest.raises(InputError, match=r"'trian.jsonl' is neither in .*did you mean 'train.jsonl'"):
        with_absolute_data(config, tmp_path / "t.yaml")


def test_hub_datasets_are_left_alone():
    config = {"dataset_path": "allenai/ai2_arc", "dataset_kwargs": {"data_files": "x.jsonl"}}
    assert with_absolute_data(config, Path("/x/t.yaml")) == config
    assert not is_local(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ('{"a": 1}\n{"a": \n', r":2: not JSON"), ("[1]\n", r":1: not a JSON object")],
)
def test_unreadable_data_names_the_line(text, message, tmp_path):
    file = write(tmp_path / "d.jsonl", text)
    with pytest.raises(InputError, match=message):
        check_data({"dataset_kwargs": {"data_files": {"train": str(file)}}})
