"""A model with a LoRA adapter on it, as a view: W + s·B A is computed where it is read, and no copy is written.

Products are taken in float32 over rows that are always cut in the same places, so that an element has the same bits
whatever chunk it is read in. peft's `merge_and_unload` gives the same numbers, rounded to the model's dtype.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from threading import local
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from mergeopt.checkpoint.checkpoint import ADAPTERS, Checkpoint, Weights, read_weights
from mergeopt.checkpoint.header import StoredTensor, item_size
from mergeopt.checkpoint.layout import shape_of, text_config
from mergeopt.checkpoint.lora import CONFIG_FILE, MERGE_FIRST, LoraConfig
from mergeopt.checkpoint.reader import Reader, TensorReader, torch_dtype
from mergeopt.checkpoint.stamp import stamp_of
from mergeopt.errors import InputError
from mergeopt.recipe.shape import Shape

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(\.default)?(\.weight)?")
_WRAPPER = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")
_BEFORE = ".original_module."  # what a saved module was before training: peft writes it, nobody reads it
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_ROWS, _ELEMENTS = 32, 1 << 16  # of a product: at least so many rows, else about so many elements


@dataclass(frozen=True, slots=True)
class LowRank:
    """A stored tensor's change s·left @ right, as the adapter's two stored factors.

    `turned`: left is Aᵀ and right is Bᵀ (GPT-2's Conv1D and embeddings, which store W the other way round).
    """

    a: StoredTensor  # [r, in, ...]; of an embedding [r, vocabulary]
    b: StoredTensor  # [out, r, ...]
    scale: float
    turned: bool

    def load(self, reader: TensorReader) -> "Factors":
        """Both factors in memory, in float32 (float64 where they are stored so), the scale in the left one."""
        a, b = (reader.tensor(each.name).flatten(1) for each in (self.a, self.b))
        wide = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
        left, right = (a.mT, b.mT) if self.turned else (b, a)
        return Factors(left.to(wide).contiguous() * self.scale, right.to(wide).contiguous())


@dataclass(frozen=True, slots=True)
class Factors:
    """left [rows, r] and right [r, columns] of a change, scaled."""

    left: Tensor
    right: Tensor

    def to(self, device: torch.device) -> "Factors":
        """The same on another device."""
        return Factors(self.left.to(device), self.right.to(device))

    def add_to(self, out: Tensor, start: int) -> None:
        """Adds the elements [start, start + out.numel()) of the product, row-major, to `out`, 1-D."""
        columns, stop = self.right.shape[1], start + out.numel()
        if start == stop:
            return
        step = max(_ROWS, _ELEMENTS // columns) if out.device.type == "cpu" else -(-stop // columns)
        for row in range(start // columns // step * step, -(-stop // columns), step):
            product = (self.left[row : row + step] @ self.right).view(-1)
            begin = row * columns
            low, high = max(begin, start), min(begin + product.numel(), stop)
            out[low - start : high - start] += product[low - begin : high - begin]


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapted(Checkpoint):
    """`base` with an adapter: a tensor is the adapter's `own` (by its name there) or the base's, and then changed where
    `deltas` says so.

    `tensors` has the dtypes that reading gives, float32 where something is added; `shape` has the model's own, so that
    a merge without `dtype` is stored as the model was.
    """

    base: Checkpoint
    weights: Weights
    deltas: Mapping[str, LowRank]
    own: Mapping[str, str]

    @cached_property
    def shape(self) -> Shape:
        """The tensors with their stacks and layers."""
        kept = self.base.tensors
        stored = {n: replace(t, dtype=kept[n].dtype) if n in kept else t for n, t in self.tensors.items()}
        return shape_of(stored, self.config)

    def reader(self) -> Reader:
        """Reads the tensors; to be entered and left."""
        return AdaptedReader(self)

    def parts(self, name: str, *, load: bool = True) -> tuple[Checkpoint, "Factors | None"]:
        """The checkpoint that gives a tensor, and (loaded) what is to be added to it: for keeping them in memory."""
        if name in self.own:
            return self, None
        if name not in self.deltas or not load:
            return self.base, None
        with TensorReader(self.weights) as reader:
            return self.base, self.deltas[name].load(reader)


class AdaptedReader:
    """Reads a model with its adapter on it, as `TensorReader` reads a model. Thread-safe."""

    def __init__(self, view: Adapted) -> None:
        self._view = view
        self._base, self._adapter = view.base.reader(), TensorReader(view.weights)
        self._kept = local()  # each thread works through one tensor at a time: its factors are kept for it

    def __enter__(self) -> Self:
        self._base.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.__exit__(kind, fault, trace)
        self._adapter.close()

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        """Fills `out`, 1-D of the view's dtype, with the elements from `start` on."""
        own = self._view.own.get(name)
        reader, key = (self._base, name) if own is None else (self._adapter, own)
        if name not in self._view.deltas:
            reader.read_into(key, start, out)
            return
        stored = self._view.base.tensors[name] if own is None else self._view.weights.tensors[own]
        part = torch.empty(out.numel(), dtype=torch_dtype(stored.dtype))
        reader.read_into(key, start, part)
        out.copy_(part)
        self._factors(name).add_to(out, start)

    def tensor(self, name: str) -> Tensor:
        """A whole tensor in memory of its own."""
        stored = self._view.tensors[name]
        result = torch.empty(stored.shape, dtype=torch_dtype(stored.dtype))
        self.read_into(name, 0, result.view(-1))
        return result

    def _factors(self, name: str) -> Factors:
        kept: tuple[str, Factors] | None = getattr(self._kept, "last", None)
        if kept is None or kept[0] != name:
            kept = self._kept.last = (name, self._view.deltas[name].load(self._adapter))
        return kept[1]


def with_adapter(base: Checkpoint, folder: Path, name: str) -> Adapted:
    """The view of a model with the adapter in `folder` on it.

    Args:
        base: The model.
        folder: ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``), as peft saves them.
        name: Of model and adapter, as the user wrote it.

    Raises:
        InputError: a kind of adapter that is no low-rank sum, or one that does not fit this model.
    """
    config_file = folder / CONFIG_FILE
    config = LoraConfig.read(folder)
    config_stamp = stamp_of(config_file)
    weights = read_weights(folder, ADAPTERS)
    if weights is None:
        raise InputError(f"neither {' nor '.join(form.single for form in ADAPTERS)}", where=str(folder))
    deltas, own, left_out = _Matching(base, weights, config, folder).run()
    tensors = {**base.tensors, **{tensor: replace(weights.tensors[key], name=tensor) for tensor, key in own.items()}}
    for tensor in deltas:
        wide = "float64" if tensors[tensor].dtype == "float64" else "float32"
        tensors[tensor] = replace(tensors[tensor], dtype=wide, nbytes=tensors[tensor].numel * item_size(wide))
    notices = [*base.notices, *_other_base(base, config, name)]
    if left_out:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        notices.append(f"{name}: {left_out[0]!r}{more} of the adapter left out (not among its target_modules)")
    home, changed, said = _with_vocabulary(base, tensors, own, folder, name)
    return Adapted(
        folder=home,
        name=name,
        config=changed,
        tensors=tensors,
        files=(*base.files, config_file, *weights.files),
        stamps={**base.stamps, config_file: config_stamp, **weights.stamps},
        notices=(*notices, *said),
        base=base,
        weights=weights,
        deltas=deltas,
        own=own,
    )


class _Matching:
    """Which of the model's tensors each of the adapter's belongs to."""

    def __init__(self, base: Checkpoint, weights: Weights, config: LoraConfig, folder: Path) -> None:
        self.base, self.weights, self.config, self.where = base, weights, config, str(folder)
        self.longer: dict[str, list[str]] = {}  # name without its first word -> names
        for name in base.tensors:
            self.longer.setdefault(name.partition(".")[2], []).append(name)

    def run(self) -> tuple[dict[str, LowRank], dict[str, str], list[str]]:
        """Changes and the adapter's own tensors by the model's names, and what the config does not select."""
        halves: dict[str, dict[str, StoredTensor]] = {}
        own: dict[str, str] = {}
        embeddings: set[str] = set()
        for key, stored in self.weights.tensors.items():
            name = key.removeprefix(_PREFIX)
            found = _FACTOR.fullmatch(name)
            if found:
                halves.setdefault(found["module"], {})[found["half"]] = stored
                if found["embedding"]:
                    embeddings.add(found["module"])
            elif ".lora_" in name or "trainable_tokens" in name:
                raise InputError(f"{key!r} is more than a low-rank sum", where=self.where, remedy=MERGE_FIRST)
            elif _BEFORE not in name:
                plain = _WRAPPER.sub("", name)
                target = self._own(plain, key)
                if target not in own or plain == name:  # a resized vocabulary is saved wrapped and plain, the same
                    own[target] = key
        deltas, left_out = {}, []
        for module, pair in halves.items():
            if not self.config.selects(module):
                left_out.append(module)
                continue
            name = self._named(module)
            if name in deltas:
                raise InputError(f"changes {name!r} of the model twice", where=self.where)
            stored = self.weights.tensors[own[name]] if name in own else self.base.tensors[name]
            deltas[name] = self._low_rank(module, stored, pair, module in embeddings)
        if not deltas and not own:
            raise InputError("changes nothing: it holds no weights for its target_modules", where=self.where)
        return deltas, own, left_out

    def _find(self, name: str) -> str | None:
        """The model's name for what the adapter calls `name`.

        In memory a model may stand under one word more or less than in its files (``transformer.h`` and ``h``), and a
        language model's two first words may be swapped (``model.language_model``).
        """
        first, _, rest = name.partition(".")
        second, _, inner = rest.partition(".")
        for spelling in (name, rest, f"{second}.{first}.{inner}", f"{first}.{inner}"):
            if spelling in self.base.tensors:
                return spelling
        longer = self.longer.get(name, [])
        return longer[0] if len(longer) == 1 else None

    def _named(self, module: str) -> str:
        name = self._find(f"{module}.weight")
        if name is None:
            raise self._strange(module)
        return name

    def _own(self, name: str, key: str) -> str:
        """The model's name for a tensor that the adapter holds whole; a new one is a new head, so of no layer."""
        found = self._find(name)
        if found is None:
            if _in_layer(name):
                raise self._strange(name)
            return name
        mine, theirs = self.weights.tensors[key], self.base.tensors[found]
        grown = len(mine.shape) == 2 and mine.shape[1:] == theirs.shape[1:] and not _in_layer(found)
        if mine.shape != theirs.shape and not grown:
            raise InputError(
                f"{key!r} is {list(mine.shape)}, in {self.base.name!r} {list(theirs.shape)}",
                where=self.where,
                remedy=f"is it an adapter of {self.config.base!r}?",
            )
        return found

    def _strange(self, name: str) -> InputError:
        return InputError(
            f"changes {name!r}, which {self.base.name!r} does not store",
            where=self.where,
            remedy=f"is it an adapter of {self.config.base!r}? What a model ties, fuses or renames in memory cannot be "
            f"changed so: {MERGE_FIRST}",
        )

    def _low_rank(
        self, module: str, stored: StoredTensor, pair: Mapping[str, StoredTensor], embedding: bool
    ) -> LowRank:
        where = f"{self.where} module {module!r}"
        if pair.keys() != {"A", "B"}:
            raise InputError(f"has lora_{'A' if 'A' in pair else 'B'} without its other half", where=where)
        a, b = pair["A"], pair["B"]
        if not {a.dtype, b.dtype, stored.dtype} <= set(_FLOATS):
            problem = f"{stored.dtype} weights with {a.dtype} factors cannot be added"
            raise InputError(problem, where=where, remedy="name the unquantised model before the +")
        straight = (*b.shape[:1], *a.shape[1:])
        turned = embedding or (self.config.fan_in_fan_out and straight[::-1] == stored.shape)
        rank = a.shape[0] if a.shape else 0
        fits = len(a.shape) > 1 and prod(b.shape[1:]) == rank > 0
        if not fits or stored.shape != (straight[::-1] if turned else straight):
            raise InputError(
                f"its factors {list(a.shape)} and {list(b.shape)} do not fit {stored.name!r} {list(stored.shape)} of "
                f"{self.base.name!r}",
                where=where,
                remedy=f"is it an adapter of {self.config.base!r}?",
            )
        return LowRank(a, b, self.config.scale(module, rank), turned)


def _in_layer(name: str) -> bool:
    return any(word.isdigit() for word in name.split("."))


def _other_base(base: Checkpoint, config: LoraConfig, name: str) -> list[str]:
    """A notice where the adapter names another model than the one before the + (a copy under its name is the same)."""
    stated = config.base.rstrip("/")
    last = stated.rpartition("/")[2].lower()
    snapshot = f"models--{stated.replace('/', '--')}"
    known = {base.name.partition("@")[0].rstrip("/").rpartition("/")[2].lower(), base.folder.name.lower()}
    if not stated or last in known or snapshot in base.folder.parts:
        return []
    return [f"{name}: the adapter was trained on {config.base!r}, not on {base.name!r}"]


def _with_vocabulary(
    base: Checkpoint, tensors: Mapping[str, StoredTensor], own: Mapping[str, str], folder: Path, name: str
) -> tuple[Path, Mapping[str, object], list[str]]:
    """Folder of the tokenizer, config and notices: an adapter may bring a vocabulary, or a head where it was tied."""
    config = dict(base.config)
    if "lm_head.weight" in own and "lm_head.weight" not in base.tensors:
        config["tie_word_embeddings"] = False
    sizes = {
        tensors[n].shape[0] for n in own if n in base.tensors and tensors[n].shape[:1] != base.tensors[n].shape[:1]
    }
    if not sizes:
        return base.folder, config, []
    if len(sizes) > 1:
        raise InputError(f"tensors of {' and '.join(map(str, sorted(sizes)))} rows", where=str(folder))
    language = text_config(config)
    if language is config:
        config["vocab_size"] = sizes.pop()
    else:
        config["text_config"] = {**language, "vocab_size": sizes.pop()}
    if (folder / "tokenizer.json").is_file():
        return folder, config, []
    return base.folder, config, [f"{name}: the adapter brings another vocabulary, but no tokenizer.json"]
