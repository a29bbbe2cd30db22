"""The models a merge reads: opened by their headers, and read by chunks or kept resident.

A streaming merge reads each chunk once, from the files; a search keeps what it needs in memory, in the stored dtype,
because every candidate needs all of it again.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mergeopt.checkpoint.adapter import Adapted, Factors, with_adapter
from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.layout import quantisation
from mergeopt.checkpoint.locate import Located, locate
from mergeopt.checkpoint.lora import CONFIG_FILE, LoraConfig
from mergeopt.checkpoint.reader import Reader, torch_dtype
from mergeopt.errors import InputError
from mergeopt.merge.layout import Facts, Input
from mergeopt.methods.chunks import CHUNK
from mergeopt.recipe.recipe import ModelRef

GPU_BLOCK = 1 << 24  # elements

Checkpoints = Mapping[ModelRef, Checkpoint]


class TensorSource(Protocol):
    """Where the elements of input tensors come from."""

    @property
    def block(self) -> int:
        """Elements to merge at a time: what stays in a CPU's cache, or enough to keep a GPU busy."""
        ...

    @property
    def device(self) -> torch.device:
        """Where chunks lie."""
        ...

    def chunk(self, item: Input, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a tensor, 1-D, stored dtype.

        The caller does not write into it, nor use it after the next call for the same model.
        """
        ...

    def fill(self, item: Input, start: int, out: Tensor) -> None:
        """Puts the elements from `start` on into memory of the caller's: 1-D, contiguous, stored dtype, on a CPU."""
        ...

    def dtype(self, item: Input) -> torch.dtype:
        """In which the tensor is stored."""
        ...


def open_models(
    refs: Iterable[ModelRef], near: Path | None, base: ModelRef | None = None
) -> dict[ModelRef, Checkpoint]:
    """Finds and opens every model, headers only; adapters as views of their models.

    Args:
        refs: Models as the recipe names them.
        near: The recipe's folder, tried after the working folder.
        base: The recipe's base: what an adapter named without its model stands on.

    Raises:
        InputError: a model that cannot be found or read, an adapter that does not fit its model.
    """
    found = _Opened(near, base)
    return {ref: found.open(ref) for ref in refs}


class _Opened:
    """Opens each folder once, under however many adapters it stands."""

    def __init__(self, near: Path | None, base: ModelRef | None) -> None:
        self.near, self.base = near, base
        self.models: dict[tuple[Path, str | None], Checkpoint] = {}

    def open(self, ref: ModelRef) -> Checkpoint:
        place = locate(ref, self.near)
        alone = (place.folder / CONFIG_FILE).is_file() and not (place.folder / "config.json").is_file()
        return self._alone(ref, place.folder) if alone else self._at(place, ref)

    def _at(self, place: Located, ref: ModelRef) -> Checkpoint:
        if place.adapter is None:
            return self._model(place.folder, ref)
        return with_adapter(self._model(place.folder, ref.bare), place.adapter, str(ref))

    def _model(self, folder: Path, ref: ModelRef) -> Checkpoint:
        key = (folder, ref.architecture)
        if key not in self.models:
            opened = Checkpoint.open(folder, name=str(ref))
            if ref.architecture is not None:
                opened = replace(opened, config={**opened.config, "architectures": [ref.architecture]})
            self.models[key] = opened
        return replace(self.models[key], name=str(ref))

    def _alone(self, ref: ModelRef, folder: Path) -> Checkpoint:
        """An adapter named as if it were a model: on the recipe's base, else on the model it names itself."""
        stated = LoraConfig.read(folder).base
        on = self.base if self.base not in (None, ref) else ModelRef(stated) if stated else None
        remedy = f"write model: <its model>+{ref}"
        if on is None:
            raise InputError(f"{str(ref)!r} is an adapter that names no model", where=str(folder), remedy=remedy)
        try:
            model = self._at(locate(on, self.near), on)
        except InputError as error:
            raise InputError(f"{str(ref)!r} is an adapter, and its model: {error}", remedy=remedy) from None
        view = with_adapter(model, folder, str(ref))
        notice = f"{str(ref)!r} is an adapter: read on {str(on)!r}, as {f'{on}+{ref}'!r} would be"
        return replace(view, notices=(*view.notices, notice))


def facts(checkpoints: Checkpoints) -> dict[ModelRef, Facts]:
    """What planning needs to know of each model."""
    return {ref: Facts(c.shape, bool(_tied(c.config)), quantisation(c.config)) for ref, c in checkpoints.items()}


def _tied(config: Mapping[str, object]) -> object:
    """Llama and most others say it in the config; where they do not, transformers' default is a tied head."""
    text = config.get("text_config")
    nested = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    return config.get("tie_word_embeddings", nested if nested is not None else True)


class FileSource:
    """Reads chunks from the checkpoints into buffers that are used again: at most one chunk per input is alive.

    Not for sharing between threads: one per worker over the same readers.
    """

    block = CHUNK
    device = torch.device("cpu")

    def __init__(self, readers: Mapping[ModelRef, Reader], checkpoints: Checkpoints) -> None:
        self._readers, self._checkpoints = readers, checkpoints
        self._buffers: dict[tuple[ModelRef, torch.dtype], Tensor] = {}

    def chunk(self, item: Input, start: int, stop: int) -> Tensor:
        key = (item.model, self.dtype(item))
        if key not in self._buffers or self._buffers[key].numel() < stop - start:
            self._buffers[key] = torch.empty(stop - start, dtype=key[1])
        out = self._buffers[key][: stop - start]
        self.fill(item, start, out)
        return out

    def fill(self, item: Input, start: int, out: Tensor) -> None:
        self._readers[item.model].read_into(item.tensor, start, out)

    def dtype(self, item: Input) -> torch.dtype:
        return torch_dtype(self._checkpoints[item.model].tensors[item.tensor].dtype)


@contextmanager
def opened_readers(checkpoints: Checkpoints) -> Iterator[dict[ModelRef, Reader]]:
    """A reader for every checkpoint, closed at the end."""
    with ExitStack() as stack:
        yield {ref: stack.enter_context(checkpoint.reader()) for ref, checkpoint in checkpoints.items()}


@dataclass(frozen=True)
class ResidentSource:
    """Every input tensor in memory, on the compute device, in its stored dtype; bytes that several models share, once.

    Of an adapter's change only the factors are kept: any number of adapters take the memory of their one model.
    """

    tensors: Mapping[Input, Tensor]  # flat
    changes: Mapping[Input, Factors] = field(default_factory=dict)  # to be added to them

    @property
    def block(self) -> int:
        return CHUNK if self.device.type == "cpu" else GPU_BLOCK

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device  # all are on one

    def chunk(self, item: Input, start: int, stop: int) -> Tensor:
        part = self.tensors[item][start:stop]
        change = self.changes.get(item)
        if change is None:
            return part
        wide = part.to(torch.promote_types(part.dtype, change.left.dtype), copy=True)
        change.add_to(wide, start)
        return wide

    def fill(self, item: Input, start: int, out: Tensor) -> None:
        out.copy_(self.chunk(item, start, start + out.numel()))

    def dtype(self, item: Input) -> torch.dtype:
        stored, change = self.tensors[item].dtype, self.changes.get(item)
        return stored if change is None else torch.promote_types(stored, change.left.dtype)

    @classmethod
    def load(cls, items: Iterable[Input], checkpoints: Checkpoints, device: torch.device) -> "ResidentSource":
        """Reads the given tensors, each once."""
        held: dict[Hashable, Tensor] = {}
        tensors: dict[Input, Tensor] = {}
        changes: dict[Input, Factors] = {}
        with ExitStack() as stack:
            readers: dict[int, Reader] = {}
            for item in dict.fromkeys(items):
                checkpoint, change = _parts(checkpoints[item.model], item.tensor)
                place = _place(checkpoint, item)
                if place not in held:
                    if id(checkpoint) not in readers:
                        readers[id(checkpoint)] = stack.enter_context(checkpoint.reader())
                    held[place] = readers[id(checkpoint)].tensor(item.tensor).view(-1).to(device)
                tensors[item] = held[place]
                if change is not None:
                    changes[item] = change.to(device)
        return cls(tensors, changes)


def resident_bytes(checkpoints: Checkpoints) -> int:
    """What all tensors of all models take as a `ResidentSource`."""
    held: dict[Hashable, int] = {}
    for ref, checkpoint in checkpoints.items():
        for name in checkpoint.tensors:
            keeper, _ = _parts(checkpoint, name, load=False)
            held[_place(keeper, Input(ref, name))] = keeper.tensors[name].nbytes
        if isinstance(checkpoint, Adapted):
            held[ref] = sum(4 * (change.a.numel + change.b.numel) for change in checkpoint.deltas.values())
    return sum(held.values())


def _parts(checkpoint: Checkpoint, name: str, *, load: bool = True) -> tuple[Checkpoint, Factors | None]:
    return checkpoint.parts(name, load=load) if isinstance(checkpoint, Adapted) else (checkpoint, None)


def _place(checkpoint: Checkpoint, item: Input) -> Hashable:
    """Equal for the same bytes on the disk; views that compute their tensors have none."""
    stored = checkpoint.tensors[item.tensor]
    return (stored.file, stored.offset, stored.nbytes) if type(checkpoint) is Checkpoint else item
