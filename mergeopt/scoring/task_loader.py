"""From an entry of the objective to its task: local files and lm-eval's own names, every failure in one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
from lm_eval import utils as lm_utils
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from mergeopt.errors import InputError, did_you_mean
from mergeopt.files import shipped
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.task_file import check_data, check_task_file, is_local, with_absolute_data
from mergeopt.scoring.tasks import EvalTask, rendered_by
from mergeopt.scoring.templates import Templates


class TaskLoader:
    """Loads tasks; reads lm-eval's index of 14,000 names (seconds) only when a name needs it."""

    def __init__(self, *, trust_code: bool = False) -> None:
        self._trust_code = trust_code
        self._templates = Templates(lm_utils.env)

    @cached_property
    def _files(self) -> TaskManager:
        return TaskManager(include_defaults=False)

    @cached_property
    def _index(self) -> TaskManager:
        return TaskManager()

    def load(self, entry: ObjectiveEntry, path: Path | None) -> EvalTask:
        """The task in the file `path`, or without one the task that lm-eval knows as `entry.eval`.

        Raises:
            InputError: Broken YAML, missing data, an unknown name, code that is not trusted, a group of tasks.
        """
        where = str(path) if path is not None else f"eval {entry.eval}"
        spec, loaded = self.whole(entry.eval, path)
        tasks = loaded["tasks"]
        if len(tasks) != 1:
            names = ", ".join(sorted(tasks)[:8])
            raise InputError(f"a group of {len(tasks)} evals: {names}", where=where, remedy="name its evals one by one")
        (task,) = tasks.values()
        if getattr(task, "UNSAFE_CODE", False) and not self._trust_code:
            raise InputError("this eval runs code that the model writes", where=where, remedy="--trust-eval-code")
        return EvalTask(task, entry, self._templates, local=isinstance(spec, dict) and is_local(spec), where=where)

    def whole(self, name: str, path: Path | None) -> tuple[str | dict[str, Any], dict[str, Any]]:
        """What lm-eval makes of a task or a group, and what it was asked for.

        Raises:
            InputError: As `load`, but for groups and code that a model writes.
        """
        where = str(path) if path is not None else f"eval {name}"
        with _quiet():
            spec = self._from_file(path) if path is not None else self._from_index(name)
            manager = self._files if path is not None else self._index
            try:
                with rendered_by(self._templates):
                    return spec, manager.load([spec])
            except InputError:
                raise
            except Exception as error:  # datasets, jinja and the hub each have their own exceptions
                if isinstance(spec, dict):
                    check_data(spec)
                raise InputError(_load_failure(error), where=where) from error

    def _from_file(self, path: Path) -> dict[str, Any]:
        origin = find_spec("lm_eval")
        root = Path(origin.submodule_search_locations[0] if origin and origin.submodule_search_locations else "/")
        check_task_file(path, trusted_root=root.resolve(), trust_code=self._trust_code)
        try:
            config = load_yaml(path)
        except Exception as error:  # functions are imported here
            raise InputError(f"cannot read the task: {error}", where=str(path)) from error
        if not isinstance(config.get("task"), str):
            raise InputError("not an lm-eval task: `task:` must be its name", where=str(path))
        config = with_absolute_data(config, path)
        if not (config.get("validation_split") or config.get("test_split")):
            config["validation_split"] = config.get("training_split")  # lm-eval insists on one of the two
        return config

    def _from_index(self, name: str) -> str:
        if name not in self._index.task_index:
            raise InputError(
                f"lm-eval knows no eval {name!r}, and there is no such file",
                remedy=did_you_mean(name, {*self._index.all_tasks, *(p.stem for p in shipped("evals").glob("*.yaml"))}),
            )
        return name


def _load_failure(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the task names {error}, which its data does not have"
    cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
    text = str(cause or error)[:300] or type(error).__name__
    if isinstance(error, ConnectionError) or "offline" in text.lower():
        return f"its dataset is not on disk and cannot be fetched: {text}"
    return f"cannot load the eval: {type(cause or error).__name__}: {text}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's remarks on defaults and without progress bars of datasets, put back afterwards."""
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
