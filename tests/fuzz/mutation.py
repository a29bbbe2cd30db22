"""Damaged files: valid ones changed in their structure, in their text and in their bytes.

Drawn from a `Random`, which may be hypothesis' own (it shrinks what it found) or a plain one (it is fast).
"""

import json
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, 1e-320)
WORDS = (
    "", " ", "a", "weight", "ties", "linear", "..", "/etc/passwd", "\x1b[31m", "[bold]", "a\nb", "\u202e", "ключ",
    "😀",
)  # fmt: skip
VALUES = (
    *NUMBERS,
    *WORDS,
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": {}},
    float("nan"),
    float("inf"),
    [0, 1],
    ["a"],
)
JSON_TOKENS = (
    "{", "}", "[", "]", ",", ":", '"', "null", "NaN", "Infinity", "1e999", "-", "0" * 40, "9" * 400, '"a":1,"a":2,',
    "[" * 2000, '{"a":' * 300, "\\ud800", "\\u0000", '"\\ud800":{},', "\x00", "\ufeff", "\t", "//", "true",
)  # fmt: skip
YAML_TOKENS = (
    "\t", "&a ", "*a", "*b", "<<: *a\n", "<<: {a: 1}\n", "<<: [*a, *a]\n", "? ", "- ", "-\n", "|\n", ">\n", "{",
    "}", "[", "]", ": ", "#", "%YAML 9.9\n", "---\n", "...\n", "!!python/object:os.system ",
    "!!python/name:os.system ", "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!timestamp x", "!!float x",
    "!!int ''", "!x ", "!!null x", "2001-02-30", "2001-01-01 99:99:99", ".nan", ".inf", "1e400", "0x_", "0b", "0o8",
    "1:99:99", "190:20:30", "=", "~", "'", '"', '"\\ud800"', '"\\x1b"', '"\\U00110000"', "\ufeff", "\x85", "\u2028",
    "a: &x [*x]\n", "[" * 200, "{a: " * 100, "- " * 200, "9" * 5000, "_", "@", "`",
    "&l [x,x]\nb: &m [*l,*l]\nc: &n [*m,*m]\n", "{range: [0, 1]}", "{choice: [1, 2]}", "{filter: mlp, value: 1}",
)  # fmt: skip


def tree(random: Random, seeds: Sequence[Any], keys: Sequence[str] = ()) -> Any:
    """A valid document with up to four of its nodes replaced, removed, copied elsewhere, renamed, wrapped or nudged."""
    found = deepcopy(random.choice(seeds))
    for _ in range(random.randrange(5)):
        places = list(_places(found))
        if not places:
            break
        parent, key = random.choice(places)
        match random.choice(("replace", "remove", "copy", "rename", "wrap", "nudge")):
            case "replace":
                parent[key] = deepcopy(random.choice(VALUES))
            case "remove":
                del parent[key]
            case "copy":
                other, there = random.choice(places)
                parent[key] = deepcopy(other[there])
            case "rename" if isinstance(parent, dict):
                parent[random.choice((*keys, *WORDS))] = parent.pop(key)
            case "nudge" if type(parent[key]) is int:
                parent[key] += random.choice((-8, -1, 1, 8))
            case _:
                parent[key] = [parent[key]]
    return found


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside."""
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def damaged(random: Random, data: bytes, tokens: Sequence[str]) -> bytes:
    """Bytes with up to three cuts, flips, insertions, repetitions or exchanged numbers; often none."""
    for _ in range(random.choice((0, 0, 0, 1, 1, 2, 3))):
        place = random.randrange(len(data) + 1)
        match random.choice(("flip", "cut", "insert", "truncate", "repeat", "number")):
            case "flip" if place < len(data):
                data = data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]
            case "cut":
                data = data[:place] + data[place + 1 + random.randrange(30) :]
            case "insert":
                data = data[:place] + random.choice(tokens).encode("utf-8", "surrogatepass") + data[place:]
            case "truncate":
                data = data[:place]
            case "repeat":
                data = data[:place] + data[place : place + 1 + random.randrange(60)] + data[place:]
            case _:
                data = _another_number(random, data)
    return data


def _another_number(random: Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return data
    match = random.choice(found)
    return data[: match.start()] + str(random.choice(NUMBERS)).encode() + data[match.end() :]


def as_json(tree: Any) -> bytes:
    """JSON text; Python's own NaN and Infinity stay in it."""
    return json.dumps(tree).encode()
