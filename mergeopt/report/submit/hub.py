"""Results in the form that the Hub collects since 2026: `.eval_results/*.yaml`, one file per benchmark dataset.

A dataset says in its eval.yaml which tasks it knows. Those below are the ones that lm-eval's tasks measure, in the
unit that the datasets' boards use; others can be named by the user.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergeopt.errors import InputError


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A score of lm-eval (`task`, `metric`) on a benchmark dataset of the Hub; `scale` 100: in percent."""

    task: str
    metric: str
    dataset: str
    task_id: str
    scale: float = 100.0

    @classmethod
    def parse(cls, text: str) -> "Benchmark":
        """From ``task,metric=dataset/id:task_id``, with ``*1`` at the end where the board counts from 0 to 1.

        Raises:
            InputError: not of that form.
        """
        found = re.fullmatch(r"([^,=]+),([^=]+)=([\w.-]+/[\w.-]+):([\w.-]+?)(\*1)?", text)
        if found is None:
            remedy = "write TASK,METRIC=DATASET:TASK_ID, e.g. gsm8k,exact_match,strict-match=openai/gsm8k:main"
            raise InputError(f"--benchmark {text!r} is not understood", remedy=remedy)
        task, metric, dataset, task_id, share = found.groups()
        return cls(task, metric if "," in metric else f"{metric},none", dataset, task_id, 1.0 if share else 100.0)


KNOWN = (
    Benchmark("gsm8k", "exact_match,strict-match", "openai/gsm8k", "main"),
    Benchmark("leaderboard_mmlu_pro", "acc,none", "TIGER-Lab/MMLU-Pro", "mmlu_pro"),
    Benchmark("mmlu_pro", "exact_match,custom-extract", "TIGER-Lab/MMLU-Pro", "mmlu_pro"),
    Benchmark("leaderboard_gpqa_diamond", "acc_norm,none", "Idavidrein/gpqa", "diamond"),
    Benchmark("gpqa_diamond_zeroshot", "acc_norm,none", "Idavidrein/gpqa", "diamond"),
)


def eval_results(
    scores: Mapping[str, Mapping[str, float]],
    asked: Sequence[Benchmark],
    *,
    date: str | None,
    notes: Mapping[str, str],
) -> dict[str, list[dict[str, Any]]]:
    """File name -> its content, for every benchmark that was measured.

    Args:
        scores: Of lm-eval.
        asked: Benchmarks that the user named; they come before `KNOWN`.
        date: When it was measured, ISO 8601.
        notes: By task, what one should know of the setup.

    Raises:
        InputError: a benchmark was asked for that was not measured.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    found: dict[tuple[str, str], EvalResultEntry] = {}
    for each in (*asked, *KNOWN):
        value = scores.get(each.task, {}).get(each.metric)
        if value is None and each in asked:
            known = ", ".join(f"{task},{key}" for task, keys in scores.items() for key in keys) or "nothing"
            raise InputError(f"--benchmark {each.task},{each.metric} was not measured", remedy=f"there is: {known}")
        if value is not None:
            entry = EvalResultEntry(
                dataset_id=each.dataset,
                task_id=each.task_id,
                value=round(value * each.scale, 4),
                date=date,
                notes=f"lm-eval {each.task}, {each.metric}{notes.get(each.task, '')}",
            )
            found.setdefault((each.dataset, each.task_id), entry)
    files: dict[str, list[Any]] = {}
    for (dataset, _), entry in found.items():
        files.setdefault(f"{dataset.rpartition('/')[2].lower()}.yaml", []).append(entry)
    return {name: eval_result_entries_to_yaml(entries) for name, entries in files.items()}
