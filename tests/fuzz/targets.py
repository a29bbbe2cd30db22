"""What reads strangers' files, and what may come of it: acceptance or one clear line, nothing else.

A target writes drawn bytes where a file belongs and reads them. `check` holds it to the property: no exception but
`MergeoptError`, a message of one printable line, an answer within seconds, and no file opened outside the folder.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import torch
import yaml
from safetensors.torch import save

from mergeopt.checkpoint.checkpoint import INDEX_FILE, Checkpoint
from mergeopt.checkpoint.header import read_header
from mergeopt.checkpoint.sidefiles import output_config
from mergeopt.checkpoint.tokenizer import special_token_difference, vocabulary_difference
from mergeopt.errors import MergeoptError, visible
from mergeopt.files import shipped
from mergeopt.merge.lock import LOCK_FILE, Lock
from mergeopt.merge.sources import facts
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.write import recipe_data, to_yaml
from mergeopt.space.space import parse_space
from mergeopt.study.searchfile import read_search_file
from tests.conftest import SMALL, llama_weights
from tests.fuzz.mutation import JSON_TOKENS, YAML_TOKENS, as_json, damaged, tree
from tests.space.conftest import make_shape

SECONDS = 20  # for one input, on a machine that is busy with other things
MESSAGE = 3000  # characters: one line that a person can read, long names in it and all


@dataclass(frozen=True)
class Target:
    """`draw` makes a file; `read` takes it, and a folder of its own beside which there is one it must not look into."""

    draw: Callable[[Random], bytes]
    read: Callable[[bytes, Path], None]


def check(target: Target, data: bytes, folder: Path) -> bool:
    """Holds a target to the property; whether the input was accepted."""
    try:
        with _time_limit(), _watched(folder):
            target.read(data, folder)
    except MergeoptError as error:
        message = str(error)
        assert message and "\n" not in message and len(message) <= MESSAGE, message
        visible(message).encode("utf-8")
        return False
    return True


class _Hung(BaseException):
    pass


@contextmanager
def _time_limit() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise _Hung(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@cache
def _opened() -> list[str]:
    """Paths of all files opened by this process since it was cleared, by Python's audit events."""
    found: list[str] = []

    def note(event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(details[0], str | bytes):
            found.append(os.fsdecode(details[0]))

    sys.addaudithook(note)
    return found


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    opened = _opened()
    opened.clear()
    try:
        yield
    finally:
        with suppress(ValueError, OSError):  # a name with NUL, or too long, opens nothing
            for path in opened:
                real = os.path.realpath(path)
                assert "outside" not in Path(real).parts and real != "/etc/passwd", f"opened {path}"


# safetensors headers --------------------------------------------------------------------------------------------------

_TENSORS = {
    "a.weight": torch.zeros(2, 3),
    "b": torch.zeros(5).bfloat16(),
    "c": torch.tensor(True),
    "d": torch.zeros(0, 4),
}
_FILE = save(_TENSORS, {"format": "pt"})
_HEADER_BYTES = int.from_bytes(_FILE[:8], "little")
_HEADER, _BODY = json.loads(_FILE[8 : 8 + _HEADER_BYTES]), _FILE[8 + _HEADER_BYTES :]


def _draw_header(random: Random) -> bytes:
    header = as_json(tree(random, [_HEADER], ("a.weight", "shape", "__metadata__")))
    if random.random() < 0.3:
        header = damaged(random, header, JSON_TOKENS)
    length = len(header) + (random.choice((-1, 1, 8, -8, 10**6, 2**40, 2**63)) if random.random() < 0.1 else 0)
    data = (max(0, length) % 2**64).to_bytes(8, "little") + header + _BODY
    return damaged(random, data, JSON_TOKENS) if random.random() < 0.3 else data


def _read_header(data: bytes, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(data)
    for tensor in read_header(file).values():
        assert 0 <= tensor.offset <= tensor.offset + tensor.nbytes <= len(data)


# index files ----------------------------------------------------------------------------------------------------------

_SHARDS = [f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)]
_WEIGHTS = [{"a.weight": torch.zeros(2, 3)}, {"b": torch.zeros(5)}]
_INDEX = {"metadata": {"total_size": 44}, "weight_map": {"a.weight": _SHARDS[0], "b": _SHARDS[1]}}
_PLACES = (
    *_SHARDS, "../outside/secret.safetensors", "link.safetensors", "sub/secret.safetensors", "/etc/passwd", ".",
    "pipe.safetensors", "..safetensors", "a\0.safetensors", "x" * 5000 + ".safetensors", "\ud800.safetensors",
)  # fmt: skip


def _draw_index(random: Random) -> bytes:
    found = tree(random, [_INDEX], ("a.weight", "b", "weight_map"))
    if isinstance(found.get("weight_map"), dict) and random.randrange(2):
        found["weight_map"][random.choice(("a.weight", "b", "secret"))] = random.choice(_PLACES)
    return damaged(random, as_json(found), JSON_TOKENS)


def _read_index(data: bytes, folder: Path) -> None:
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text("{}")
        for name, weights in zip(_SHARDS, _WEIGHTS, strict=True):
            (folder / name).write_bytes(save(weights))
        (folder / "link.safetensors").symlink_to("../outside/secret.safetensors")
        (folder / "sub").symlink_to("../outside")
        os.mkfifo(folder / "pipe.safetensors")
    (folder / INDEX_FILE).write_bytes(data)
    found = Checkpoint.open(folder)
    assert found.tensors.keys() == {"a.weight", "b"}


# recipes and search files ---------------------------------------------------------------------------------------------

_RECIPES = [
    {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 0.5}}, {"model": "b@main"}]},
    {
        "merge_method": "dare_ties",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"weight": [0.2, 0.8], "density": 0.6}},
            {"model": "b", "parameters": {"weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]}},
        ],
        "parameters": {"lambda": 0.9, "normalize": True},
        "dtype": "bfloat16",
        "tokenizer_source": "union",
        "seed": 4,
    },
    {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {"sources": [{"model": {"model": {"path": "x/y", "revision": "1"}}, "layer_range": [1, 2]}]},
        ],
    },
    {"merge_method": "slerp", "base_model": "a", "modules": {"x": {"models": [{"model": "b"}]}}},
]  # fmt: skip
_KEYS = (
    "merge_method", "models", "slices", "modules", "base_model", "parameters", "weight", "density", "tokenizer",
    "filter", "value", "model", "range", "choice", "depth", "outer", "parts", "share", "init", "genome",
)  # fmt: skip


def _yaml(data: Any) -> bytes:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def _read_recipe(data: bytes, folder: Path) -> None:
    file = folder / "recipe.yaml"
    file.write_bytes(data)
    recipe = read_recipe(read_document(file), SCHEMAS).recipe
    file.write_text(to_yaml(recipe_data(recipe)), encoding="utf-8")
    assert read_recipe(read_document(file), SCHEMAS).recipe == recipe


@cache
def _searches() -> list[Any]:
    files = [yaml.safe_load(file.read_text()) for file in sorted(shipped("search_spaces").glob("*.yml"))]
    genome = {"models": ["a", "b"], "merge_method": "dare_ties", "base_model": "base", "layer_granularity": 2}
    return [*files, {"genome": genome, "tasks": [{"name": "arc", "weight": 1.0}]}]


def _read_search(data: bytes, folder: Path) -> None:
    file = folder / "search.yaml"
    file.write_bytes(data)
    found = read_search_file(read_document(file), layers_of=lambda ref: 4)
    shape = make_shape(4)
    space = parse_space(found.recipe, schemas=SCHEMAS, shape_of=lambda ref: shape)
    for branch in space.branches[:2]:
        point = [dimension.init for dimension in branch.dimensions]
        read_document_of(branch.recipe(point), folder)


def read_document_of(recipe: Any, folder: Path) -> None:
    """A recipe that was made of a space is one that can be read."""
    file = folder / "made.yaml"
    file.write_text(to_yaml(recipe), encoding="utf-8")
    read_recipe(read_document(file), SCHEMAS)


# tokenizers, configs, lock files --------------------------------------------------------------------------------------

_TOKENIZERS = [
    {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
        "added_tokens": [{"id": 2, "content": "</s>", "special": True}],
    },
    {"model": {"type": "Unigram", "vocab": [["a", -1.5], ["b", -2]]}, "added_tokens": None},
]
_SPECIAL = {"eos_token": {"content": "</s>"}, "pad_token": "x", "chat_template": "{{ messages }}"}


def _bare(folder: Path) -> Checkpoint:
    return Checkpoint(folder, folder.name, {}, {}, ())


def _read_tokenizer(data: bytes, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(data)
    (folder / "tokenizer_config.json").write_bytes(data)
    other = folder / "other"
    if not other.exists():
        other.mkdir()
        (other / "tokenizer.json").write_bytes(as_json(_TOKENIZERS[0]))
        (other / "special_tokens_map.json").write_bytes(as_json(_SPECIAL))
    for a, b in ((folder, other), (other, folder)):
        vocabulary_difference(_bare(a), _bare(b))
        special_token_difference(_bare(a), _bare(b))


_CONFIG: Mapping[str, Any] = SMALL | {
    "num_hidden_layers": 2, "layer_types": ["full", "full"], "text_config": {"num_hidden_layers": 2, "dtype": "half"},
    "torch_dtype": "float32", "quantization_config": {"bits": 4},
}  # fmt: skip


def _read_config(data: bytes, folder: Path) -> None:
    if not (folder / "model.safetensors").exists():
        (folder / "model.safetensors").write_bytes(save(llama_weights()))
    (folder / "config.json").write_bytes(data)
    model = Checkpoint.open(folder)
    facts({ModelRef("x"): model})
    for layers, picked in ((None, None), (3, [0, 1, 1])):
        json.dumps(output_config(model.config, dtype="bfloat16", layers=layers, tie=False, picked=picked)).encode()


_HASH = "xxh3-128:" + "0" * 32
_LOCK = Lock(3, {"a": {"model.safetensors": _HASH}}, {"x": _HASH}, {"config.json": _HASH}, _HASH, None, "exact").data()


def _read_lock(data: bytes, folder: Path) -> None:
    (folder / LOCK_FILE).write_bytes(data)
    Lock.read(folder).data()


def _drawn_json(*seeds: Any) -> Callable[[Random], bytes]:
    return lambda random: damaged(random, as_json(tree(random, seeds)), JSON_TOKENS)


def _drawn_yaml(seeds: Callable[[], Sequence[Any]]) -> Callable[[Random], bytes]:
    return lambda random: damaged(random, _yaml(tree(random, seeds(), _KEYS)), YAML_TOKENS)


TARGETS: Mapping[str, Target] = {
    "header": Target(_draw_header, _read_header),
    "index": Target(_draw_index, _read_index),
    "recipe": Target(_drawn_yaml(lambda: _RECIPES), _read_recipe),
    "search": Target(_drawn_yaml(_searches), _read_search),
    "tokenizer": Target(_drawn_json(*_TOKENIZERS, _SPECIAL), _read_tokenizer),
    "config": Target(_drawn_json(_CONFIG), _read_config),
    "lock": Target(_drawn_json(_LOCK), _read_lock),
}
