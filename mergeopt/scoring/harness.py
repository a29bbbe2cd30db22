"""lm-eval run as itself, on a model folder: for results that others compare with theirs, group scores and all.

Everywhere else our own scorer is used, which is faster and gives the same numbers; here the form counts as well.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mergeopt.errors import InputError, MergeoptError
from mergeopt.scoring.task_loader import TaskLoader
from mergeopt.scoring.tasks import FEWSHOT_SEED

BOOTSTRAP = 100_000  # lm-eval's default


@dataclass(frozen=True)
class Loaded:
    """Tasks and groups as lm-eval holds them, ready to be asked of one model after another.

    `called`: per name that was asked for, what the results call it; `problems`: why it could not be loaded.
    """

    parts: Mapping[str, Any]
    called: Mapping[str, str]
    problems: Mapping[str, InputError]


def load_tasks(tasks: Sequence[tuple[str, Path | None]], *, trust_eval_code: bool = False) -> Loaded:
    """Loads what can be loaded: names of tasks or groups, with the task file of those that have one."""
    loader = TaskLoader(trust_code=trust_eval_code)
    parts: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    problems, called = {}, {}
    for name, path in tasks:
        try:
            found = loader.whole(name, path)[1]
        except InputError as error:
            problems[name] = error
            continue
        called[name] = next(iter(found.get("groups") or found["tasks"]))
        for part in parts:
            parts[part] |= found.get(part) or {}
    for task in parts["tasks"].values():
        if task.config.num_fewshot is None:
            task.config.num_fewshot = 0
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return Loaded(parts, called, problems)


def run_harness(
    folder: Path,
    loaded: Loaded,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    batch_size: int | None,
    limit: int | None = None,
    chat_template: bool = False,
    trust_eval_code: bool = False,
) -> dict[str, Any]:
    """lm-eval's results with its samples, in its form.

    Args:
        folder: The model's.
        loaded: What to ask.
        device: Where the model runs.
        dtype: It runs in this; None: as it is stored.
        batch_size: None: 8.
        limit: Items per task.
        chat_template: Ask in the model's chat template, examples as turns of their own.
        trust_eval_code: Let tasks run code that the model writes.

    Raises:
        InputError: a model that transformers cannot load, code that is not trusted.
    """
    from lm_eval import evaluate

    unsafe = [name for name, task in loaded.parts["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe and not trust_eval_code:
        raise InputError(f"{unsafe[0]} runs code that the model writes", remedy="allow it with --trust-eval-code")
    model = _model(folder, device, dtype, batch_size or 8)
    found = evaluate(
        model,
        dict(loaded.parts),
        limit=limit,
        bootstrap_iters=BOOTSTRAP,
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
        confirm_run_unsafe_code=trust_eval_code,
    )
    if found is None:
        raise MergeoptError("lm-eval gave no results")
    results: dict[str, Any] = dict(found)
    results["date"] = time.time()
    results |= {f"{name}_version": version(name) for name in ("lm_eval", "transformers")}
    results["config"] = {
        "model_dtype": str(model.model.dtype).removeprefix("torch."),
        "batch_size": batch_size or 8,
        "limit": limit,
        "bootstrap_iters": BOOTSTRAP,
        "fewshot_seed": FEWSHOT_SEED,
        "apply_chat_template": chat_template,
        "device": device.type,
    }
    return results


def _model(folder: Path, device: torch.device, dtype: torch.dtype | None, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto", local_files_only=True).to(device)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its readers met
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"the model cannot be loaded: {problem}", where=str(folder)) from error
    return HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=batch_size)
