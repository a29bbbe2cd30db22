"""lm-eval run as itself, on a model folder: for results that others compare with theirs, group scores and all.

Everywhere else our own scorer is used, which is faster and gives the same numbers; here the form counts as well.
"""

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mergeopt.errors import InputError, MergeoptError
from mergeopt.scoring.task_loader import TaskLoader
from mergeopt.scoring.tasks import FEWSHOT_SEED

BOOTSTRAP = 100_000  # lm-eval's default


def run_harness(
    folder: Path,
    tasks: Sequence[tuple[str, Path | None]],
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
        tasks: Names of tasks or groups, with the task file of those that have one.
        device: Where the model runs.
        dtype: It runs in this; None: as it is stored.
        batch_size: None: 8.
        limit: Items per task.
        chat_template: Ask in the model's chat template, examples as turns of their own.
        trust_eval_code: Let tasks run local code.

    Raises:
        InputError: a task that cannot be loaded (its data is not on disk, a package is missing), a model that
            transformers cannot load.
    """
    from lm_eval import evaluate

    loader = TaskLoader(trust_code=trust_eval_code)
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    for name, path in tasks:
        found = loader.whole(name, path)[1]
        for part, things in loaded.items():
            things |= found.get(part) or {}
    for task in loaded["tasks"].values():
        if task.config.num_fewshot is None:
            task.config.num_fewshot = 0
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    model = _model(folder, device, dtype, batch_size or 8)
    found = evaluate(
        model,
        loaded,
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
