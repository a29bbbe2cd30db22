"""Where the elements of output tensors go: to files (`writer`), into a hash, or beside what is there already.

A merge only knows that it may write any block of any tensor, so that checking a model costs what making it costs,
without the writing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
import xxhash
from torch import Tensor

from mergeopt.checkpoint.header import item_size
from mergeopt.checkpoint.reader import Reader, byte_view, torch_dtype

_ORDERED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes: the bits as a whole number


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to be written; `dtype` is torch's name without the prefix."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * item_size(self.dtype)


class Sink(Protocol):
    """Takes the blocks of output tensors. Thread-safe for different tensors."""

    def write(self, name: str, start: int, data: Tensor) -> None:
        """`data`, 1-D of the output dtype on the CPU, is the elements from `start` of a tensor."""
        ...


def checked_bytes(tensor: OutputTensor, start: int, data: Tensor) -> memoryview:
    """The bytes of a block; ValueError where it does not fit the tensor."""
    name = tensor.name
    if data.dim() != 1 or data.dtype != torch_dtype(tensor.dtype) or not data.is_contiguous():
        raise ValueError(f"{name}: data must be 1-D contiguous {tensor.dtype}, not {data.dim()}-D {data.dtype}")
    if start < 0 or start + data.numel() > tensor.numel:
        raise ValueError(f"{name}: elements {start}..{start + data.numel()} of {tensor.numel}")
    return byte_view(data)


class Hasher:
    """Hashes the tensors and keeps nothing; blocks of a tensor come in order."""

    def __init__(self, tensors: Iterable[OutputTensor]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._hashes = {name: xxhash.xxh3_128() for name in self._tensors}
        self._done = dict.fromkeys(self._tensors, 0)  # elements

    def write(self, name: str, start: int, data: Tensor) -> None:
        """Raises ValueError where the block does not fit, or is not the next one."""
        block = checked_bytes(self._tensors[name], start, data)
        if start != self._done[name]:
            raise ValueError(f"{name}: elements from {start} on, but {self._done[name]} come next")
        self._hashes[name].update(block)
        self._done[name] += data.numel()

    def digests(self) -> dict[str, str]:
        """The xxh3-128 of each tensor's bytes (hexadecimal); ValueError where elements are missing."""
        for name, tensor in self._tensors.items():
            if self._done[name] != tensor.numel:
                raise ValueError(f"{name}: {self._done[name]:,} of {tensor.numel:,} elements written")
        return {name: found.hexdigest() for name, found in self._hashes.items()}


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two tensors are apart.

    `largest` and `ulp`: the largest difference of two elements, as a number and in representable numbers of the
    tensors' own dtype. None where there is no such thing: one is NaN, or the tensors are not floating point.
    """

    elements: int
    different: int = 0
    largest: float | None = 0.0
    ulp: int | None = 0

    def joined(self, other: "Distance") -> "Distance":
        """Of this part of a tensor and another one."""
        different = self.different + other.different
        if self.largest is None or self.ulp is None or other.largest is None or other.ulp is None:
            return Distance(self.elements, different, None, None)
        return Distance(self.elements, different, max(self.largest, other.largest), max(self.ulp, other.ulp))


class Comparer:
    """Compares the tensors with those of an existing model, of the same shapes and dtypes."""

    def __init__(self, tensors: Iterable[OutputTensor], reader: Reader) -> None:
        self._tensors, self._reader = {tensor.name: tensor for tensor in tensors}, reader
        self._found = {name: Distance(tensor.numel) for name, tensor in self._tensors.items()}

    def write(self, name: str, start: int, data: Tensor) -> None:
        """Reads the same elements of the existing model and compares."""
        checked_bytes(self._tensors[name], start, data)
        there = torch.empty_like(data)
        self._reader.read_into(name, start, there)
        self._found[name] = self._found[name].joined(distance(data, there))

    @property
    def found(self) -> Mapping[str, Distance]:
        """The distance of every tensor."""
        return self._found


def distance(a: Tensor, b: Tensor) -> Distance:
    """Of two tensors of one shape and dtype. Bits decide: −0 and 0 differ, by no ulp."""
    bits = _ORDERED[a.element_size()]
    x, y = (t.to(bits) if t.dtype == torch.bool else t.view(bits) for t in (a, b))
    unequal = x != y
    different = int(unequal.sum())
    if not different:
        return Distance(a.numel())
    x, y = x[unequal], y[unequal]
    p, q = (t.view(a.dtype).double() for t in (x, y))
    if not a.is_floating_point() or bool((p.isnan() | q.isnan()).any()):
        return Distance(a.numel(), different, None, None)
    x, y = _ordinal(x), _ordinal(y)
    ulp = max(abs(int(x[i]) - int(y[i])) for i in _extremes(x, y))
    return Distance(a.numel(), different, float((p - q).abs().max()), ulp)


def _ordinal(bits: Tensor) -> Tensor:
    """Floats in order as whole numbers in order: sign and magnitude become two's complement."""
    lowest = torch.iinfo(bits.dtype).min
    return torch.where(bits < 0, lowest - bits, bits)


def _extremes(x: Tensor, y: Tensor) -> set[int]:
    """Where |x − y| is largest; the difference of two int64 may not be one, so it is looked for in float64."""
    return set((x.double() - y.double()).abs().topk(min(8, x.numel())).indices.tolist())
