"""A family that trains in two seconds and differs in what it can do, with evals and search files to go with it."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from mergeopt.zoo.family import make_family
from mergeopt.zoo.spec import FamilySpec, Specialist, Stage
from mergeopt.zoo.tasks import get_task

TASKS = ("upper", "sort")
SPEC = FamilySpec(
    architecture="llama",
    hidden=32,
    layers=2,
    heads=2,
    intermediate=64,
    mixture=TASKS,
    base=Stage(steps=40, learning_rate=4e-3, replay=1.0),
    specialists=tuple(Specialist(task, Stage(steps=90, learning_rate=4e-3, replay=0.1)) for task in TASKS),
    multitask=Stage(steps=1, learning_rate=1e-3, replay=0.3),
    batch=32,
)
PERPLEXITY = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
}
FIRST_LETTER = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer[0]}}",
    "target_delimiter": "",
    "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 1},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
WHOLE = FIRST_LETTER | {
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 12},
}


def family(factory: pytest.TempPathFactory) -> Path:
    """A working folder, made once per run: `zoo/base`, `zoo/upper`, `zoo/sort`, `evals/`. Tests only read it."""
    folder = factory.getbasetemp() / "searched-family"
    if folder.exists():
        return folder
    make_family(SPEC, folder / "zoo")
    for task in TASKS:
        write_eval(folder / "evals", f"{task}_lines", task, PERPLEXITY)
        write_eval(folder / "evals", f"{task}_first", task, FIRST_LETTER)
        write_eval(folder / "evals", f"{task}_whole", task, WHOLE)
    return folder


def write_eval(folder: Path, name: str, task: str, kind: dict[str, Any], *, train: int = 60, test: int = 30) -> Path:
    """An lm-eval task file over items of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, seen = Random(name), set()
    for split, count in (("train", train), ("test", test)):
        rows = []
        while len(rows) < count:
            item = get_task(task).item(rng, held_out=True)
            if item.question not in seen:
                seen.add(item.question)
                rows.append(item._asdict() | {"text": item.line})
        (folder / f"{name}.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {s: f"{name}.{s}.jsonl" for s in ("train", "test")}},
        "training_split": "train",
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    return write_yaml(folder / f"{name}.yaml", data | kind)


def write_yaml(path: Path, data: Any) -> Path:
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def hole(low: float = 0.0, high: float = 1.5, **more: Any) -> dict[str, Any]:
    return {"range": [low, high], **more}


def recipe(weight: Any = None, *, method: str = "task_arithmetic", **more: Any) -> dict[str, Any]:
    """A recipe over the two specialists, with a hole per weight unless a weight is given."""
    weight = hole() if weight is None else weight
    models = [{"model": f"zoo/{task}", "parameters": {"weight": weight}} for task in TASKS]
    base = {} if method in ("linear", "slerp") else {"base_model": "zoo/base"}
    return {"merge_method": method, **base, "models": models, "dtype": "float32", **more}


def search_data(recipe_: Any = None, *, evals: tuple[str, ...] = ("upper_lines", "sort_lines"), **optimize: Any) -> Any:
    """A search file's data: 10 random trials, unless told otherwise."""
    return {
        "recipe": recipe_ or recipe(),
        "objective": [{"eval": f"evals/{name}.yaml"} for name in evals],
        "optimize": {"method": "random", "trials": 10, "batch": 4, "finalists": 2, **optimize},
    }
