"""lm-eval results as evidence: read from its output or from our own run, freed of what is nobody's business.

lm-eval writes the machine, the local path of the model and the text of every item into its files. What is kept is the
scores, what they depend on, and per item the outcome and the hashes of question, prompt and answer.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergeopt.errors import InputError
from mergeopt.files import write_text
from mergeopt.report.card.naming import last_part

KEPT = (
    "results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
    "task_hashes", "git_hash", "date", "transformers_version", "lm_eval_version", "max_length", "fewshot_as_multiturn",
    "system_instruction_sha", "chat_template_sha",
)  # fmt: skip
RUN = (
    "model_dtype", "batch_size", "limit", "bootstrap_iters", "gen_kwargs", "random_seed", "numpy_seed", "torch_seed",
    "fewshot_seed", "num_fewshot", "apply_chat_template", "device",
)  # fmt: skip
TEXTS = ("doc", "target", "arguments", "resps", "filtered_resps")
_LARGEST = 1 << 30
_ABSOLUTE = re.compile(r"(~|/|[A-Za-z]:\\|\.\.?[/\\])\S*")


@dataclass(frozen=True)
class Evidence:
    """What lm-eval found: its aggregated results, and samples per task."""

    results: Mapping[str, Any]
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Task or group -> ``metric,filter`` -> number."""
        return {
            task: {key: value for key, value in found.items() if type(value) in (int, float) and "_stderr" not in key}
            for task, found in self.results["results"].items()
            if isinstance(found, dict)
        }

    @property
    def stamp(self) -> str:
        """When it was measured, as lm-eval writes it into names."""
        date = self.results.get("date")
        moment = float(date) if isinstance(date, int | float) else time.time()
        return time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(moment))

    def public(self, model: str) -> dict[str, Any]:
        """The results as others may see them; `model`: what it is called."""
        kept = {key: _pathless(self.results[key]) for key in KEPT if key in self.results}
        config = self.results.get("config")
        run = {key: _pathless(config[key]) for key in RUN if key in config} if isinstance(config, dict) else {}
        return kept | {"config": {"model": model, **run}, "model_name": model}

    def public_samples(self, *, texts: bool) -> dict[str, list[dict[str, Any]]]:
        """Samples per task: the texts of items only if asked for."""
        hidden = () if texts else TEXTS
        return {
            task: [{key: value for key, value in sample.items() if key not in hidden} for sample in found]
            for task, found in self.samples.items()
        }


def read_evidence(path: Path) -> Evidence:
    """What `lm_eval --output_path` wrote: a results file, or the newest below a folder, with its samples beside it.

    Raises:
        InputError: nothing there, or no results of lm-eval.
    """
    if path.is_dir():
        found = sorted(path.rglob("results*.json"), key=lambda file: (file.name, str(file)))
        if not found:
            raise InputError("holds no results*.json", where=str(path), remedy="give what lm_eval --output_path wrote")
        path = found[-1]
    results = _json(path)
    tables = results.get("results")
    if not isinstance(tables, dict) or not any(isinstance(each, dict) for each in tables.values()):
        raise InputError("has no results of lm-eval", where=str(path), remedy="give what lm_eval --output_path wrote")
    stamp = path.stem.removeprefix("results")
    samples = {
        file.name.removeprefix("samples_").removesuffix(f"{stamp}.jsonl"): _lines(file)
        for file in sorted(path.parent.glob(f"samples_*{stamp}.jsonl"))
    }
    return Evidence(results, samples)


def keep_evidence(evidence: Evidence, folder: Path) -> Path:
    """Writes results and samples whole, as lm-eval does, for this disk alone: an evaluation may have taken hours.

    Raises:
        MergeoptError: disk full, no permission.
    """
    file = folder / f"results_{evidence.stamp}.json"
    for task, samples in evidence.samples.items():
        text = "".join(json_text(sample, indent=None) for sample in samples)
        write_text(folder / f"samples_{task}_{evidence.stamp}.jsonl", text)
    write_text(file, json_text(evidence.results))
    return file


def json_text(data: Any, indent: int | None = 1) -> str:
    """JSON of what lm-eval gives: numbers of numpy as numbers; functions and dtypes, in its configs, by name."""
    return json.dumps(data, indent=indent, ensure_ascii=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else getattr(value, "__name__", None) or type(value).__name__


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError("is too large for results", where=str(path))
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON: {str(error)[:100]}", where=str(path)) from None
    if not isinstance(data, dict):
        raise InputError("is not a JSON object", where=str(path))
    return data


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"is not a file of samples: {str(error)[:100]}", where=str(path)) from None
    return [line for line in lines if isinstance(line, dict)]


def _pathless(data: Any) -> Any:
    """Of local paths only the last part."""
    if isinstance(data, dict):
        return {str(key): _pathless(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_pathless(value) for value in data]
    return last_part(data) if isinstance(data, str) and _ABSOLUTE.fullmatch(data) else data
