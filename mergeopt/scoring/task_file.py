"""What stands in a local task file, checked before lm-eval runs any of it.

An lm-eval task file can name Python functions (``!function``), include other files and point at data. This module finds
all three without executing anything, so that a stranger's eval cannot run code unless the user said so.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mergeopt.errors import InputError

LOCAL_FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow"})


def check_task_file(path: Path, *, trusted_root: Path, trust_code: bool) -> None:
    """Raises InputError for broken YAML (naming the line) and for functions that may not run.

    Args:
        path: The task file; files it includes are checked too.
        trusted_root: The installed lm-eval package: its files and functions are allowed.
        trust_code: Allow functions from local files as well.
    """
    pending, seen = [path], set[Path]()
    while pending:
        file = pending.pop().resolve()
        if file in seen or file.is_relative_to(trusted_root):
            continue
        seen.add(file)
        root = _compose(file)
        for node in _nodes(root):
            if node.tag == "!function" and not trust_code and not _from_lm_eval(str(node.value), file):
                raise InputError(
                    f"!function {node.value} runs Python code that is not part of lm-eval",
                    where=f"{file}:{node.start_mark.line + 1}",
                    remedy="read it, then allow it with --trust-eval-code",
                )
        pending += _includes(root, file)


def _compose(file: Path) -> yaml.Node:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"no such eval file: {file}", remedy=close_names(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the eval file: {error}", where=str(file)) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"not valid YAML: {problem}", where=f"{file}{line}") from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError("not an lm-eval task file: expected a mapping with `task:`", where=str(file))
    return root


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    pending, seen = [root], set[int]()
    while pending:
        node = pending.pop()
        if id(node) in seen:  # an alias: the same node again
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            pending += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value


def _includes(root: yaml.Node, file: Path) -> list[Path]:
    for key, value in root.value:
        if key.value == "include":
            names = value.value if isinstance(value, yaml.SequenceNode) else [value]
            return [file.parent / str(name.value) for name in names]
    return []


def _from_lm_eval(function: str, file: Path) -> bool:
    module = function.rpartition(".")[0]
    shadowed = (file.parent / f"{module.replace('.', '/')}.py").exists()  # lm-eval looks beside the file first
    return module.startswith("lm_eval.") and not shadowed


def with_absolute_data(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The config with local `data_files` made absolute: the task file's folder first, then the working folder.

    Raises:
        InputError: A data file is in neither.
    """
    source = str(config.get("dataset_path") or "")
    if source and (path.parent / source).is_dir():
        return {**config, "dataset_path": str((path.parent / source).absolute())}
    if source not in LOCAL_FORMATS:
        return dict(config)
    kwargs = dict(config.get("dataset_kwargs") or {})
    for key in ("data_files", "data_dir"):
        if key in kwargs:
            kwargs[key] = _absolute(kwargs[key], path)
    return {**config, "dataset_kwargs": kwargs}


def is_local(config: Mapping[str, Any]) -> bool:
    """Whether a prepared config reads nothing but files on this machine: the user's own data, no known benchmark."""
    source = str(config.get("dataset_path") or "")
    return Path(source).is_absolute() or (source in LOCAL_FORMATS and not any("://" in f for f in data_files(config)))


def data_files(config: Mapping[str, Any]) -> list[str]:
    """Every data file that a config names."""
    pending, found = [(config.get("dataset_kwargs") or {}).get("data_files")], []
    while pending:
        files = pending.pop()
        if isinstance(files, Mapping):
            pending += files.values()
        elif isinstance(files, list | tuple):
            pending += files
        elif files is not None:
            found.append(str(files))
    return found


def check_data(config: Mapping[str, Any]) -> None:
    """Looks for what commonly makes JSON-lines data unreadable.

    Raises:
        InputError: A file is empty, or a line is no JSON object: which one.
    """
    for file in map(Path, data_files(config)):
        if file.suffix != ".jsonl" or not file.is_file():
            continue
        lines = file.read_bytes().splitlines()
        if not any(line.strip() for line in lines):
            raise InputError("the data file is empty", where=str(file))
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError as error:
                raise InputError(f"not JSON: {error}", where=f"{file}:{number}") from None
            if not isinstance(row, dict):
                raise InputError(f"not a JSON object: {str(row)[:40]}", where=f"{file}:{number}")


def _absolute(files: Any, path: Path) -> Any:
    if isinstance(files, Mapping):
        return {split: _absolute(value, path) for split, value in files.items()}
    if isinstance(files, list | tuple):
        return [_absolute(value, path) for value in files]
    name = str(files)
    if "://" in name:
        return name
    for folder in (path.parent, Path.cwd()):
        candidate = folder / Path(name).expanduser()
        if candidate.exists() or (any(c in name for c in "*?[") and any(folder.glob(name))):
            return str(candidate.absolute())
    raise InputError(
        f"data file {name!r} is neither in {path.parent} nor in the working folder",
        where=str(path),
        remedy=close_names(path.parent / name),
    )


def close_names(path: Path) -> str | None:
    """``"did you mean 'sort.yaml'?"`` from the names in the folder of a missing file."""
    if not path.parent.is_dir():
        return None
    close = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return f"did you mean {close[0]!r}?" if close else None
