"""The items of the evals that ship with the package: held-out questions, the same for every family and seed.

No two files share a question, so nothing learned on one split or task file is the answer to another.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random

from mergeopt.zoo.spec import DEMO
from mergeopt.zoo.tasks import TASKS, Item, Task

TRAIN, TEST = 600, 1200  # per file: to search on, to report on
PROMPTS = 2000  # per task: questions alone, of the part that is not held out
GENERAL = "general"  # plain lines of the demo base's whole mixture


def eval_files() -> dict[str, tuple[Mapping[str, str], ...]]:
    """Name of a file to its rows: `question` and `answer` of one task, prompts (`question` alone), or `text`."""
    files: dict[str, tuple[Mapping[str, str], ...]] = {}
    general: dict[str, list[Item]] = {"train": [], "test": []}
    for task in TASKS.values():
        items = iter(_distinct(task, TRAIN + TEST + (TRAIN + TEST) // len(DEMO.mixture)))
        for split, count in (("train", TRAIN), ("test", TEST)):
            files[f"{task.name}.{split}.jsonl"] = tuple(next(items)._asdict() for _ in range(count))
            if task.name in DEMO.mixture:
                general[split] += [next(items) for _ in range(count // len(DEMO.mixture))]
        files[f"{task.name}.prompts.jsonl"] = tuple({"question": text} for text in _questions(task))
    for split, lines in general.items():
        Random(f"{GENERAL}/{split}").shuffle(lines)
        files[f"{GENERAL}.{split}.jsonl"] = tuple({"text": item.line} for item in lines)
    return files


def write_eval_files(folder: Path) -> None:
    """Write all files of `eval_files` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in eval_files().items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _questions(task: Task) -> list[str]:
    """Different questions that no eval asks; fewer where a task has not so many."""
    rng = Random(f"prompts/{task.name}")
    drawn = (task.item(rng, held_out=False).question for _ in range(20 * PROMPTS))
    return list(dict.fromkeys(drawn))[:PROMPTS]


def _distinct(task: Task, count: int) -> list[Item]:
    rng = Random(f"eval/{task.name}")
    items: dict[str, Item] = {}
    while len(items) < count:
        item = task.item(rng, held_out=True)
        items[item.question] = item
    drawn = list(items.values())
    rng.shuffle(drawn)  # short questions, of which there are few, are drawn early: every split gets its share
    return drawn
