"""The JSON files of a model folder, read with suspicion: a repeated key, a deep nest or an absurd size is named."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergeopt.errors import InputError

MAX_BYTES = 100_000_000


def parse_json_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data` (UTF-8).

    Raises:
        InputError: not UTF-8, not JSON, not an object, or a key twice in one object.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as fault:  # ValueError: also bad UTF-8 and integers of thousands of digits
        raise InputError(f"not valid JSON: {fault}", where=where) from None
    if not isinstance(document, dict):
        raise InputError(f"holds a JSON {type(document).__name__}, not an object", where=where)
    return document


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; `InputError` also where it cannot be read or is larger than 100 MB."""
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{size:,} bytes of JSON; at most {MAX_BYTES:,} are read", where=str(file))
        data = file.read_bytes()
    except OSError as fault:
        raise InputError(f"cannot be read: {fault.strerror}", where=str(file)) from None
    return parse_json_object(data, str(file))


def encode_json(document: Mapping[str, Any]) -> bytes:
    """`document` as indented UTF-8 JSON, the way model folders hold it."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return result


def with_special_floats(value: Any) -> Any:
    """The value with ``{"__float__": "Infinity"}``, transformers' way to write what JSON has no word for, as floats."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(value["__float__"])
        return {key: with_special_floats(item) for key, item in value.items()}
    return [with_special_floats(item) for item in value] if isinstance(value, list) else value
