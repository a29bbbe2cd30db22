"""A checkpoint seen through another vocabulary: some of its matrices have other rows, made while they are read.

Every row of such a matrix is one of the model's own, one of another model's, the mean of several, zero, or (where it
stands for no token) the mean of all rows that do. Nothing is stored: a read gathers the rows that it covers, in as few
calls as they lie together on disk.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod
from threading import Lock
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.layout import shape_of
from mergeopt.checkpoint.reader import Reader, torch_dtype
from mergeopt.recipe.shape import Shape

_BLOCK = 1 << 20  # elements read at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class RowView(Checkpoint):
    """`inner` with other rows in the tensors of `names`; `tensors` and `config` already say so.

    `tensors` has the dtypes that reading gives, float32 where rows of several are joined; `shape` has those that the
    models are stored in (`stored`), so that a merge without `dtype` is stored as they are.

    Args:
        own: int32 [rows], the row of `inner`, or −1 where it has none.
        lent: int32 [lenders, rows], for those: whose mean it is, −1 where a lender takes no part; of none it is zero.
        real: bool [rows], False for rows that stand for no token.
        lenders: The models that `lent` speaks of.
        names: Tensor → its name in `inner`, and in each lender.
        stored: The dtype of each of these tensors.
    """

    inner: Checkpoint
    own: NDArray[np.int32]
    lent: NDArray[np.int32]
    real: NDArray[np.bool_]
    lenders: tuple[Checkpoint, ...]
    names: Mapping[str, tuple[str, tuple[str, ...]]]
    stored: Mapping[str, str]

    @cached_property
    def shape(self) -> Shape:
        """The tensors with their stacks and layers."""
        dtypes = {info.name: info.dtype for info in self.inner.shape} | dict(self.stored)
        return shape_of({n: replace(t, dtype=dtypes[n]) for n, t in self.tensors.items()}, self.config)

    def reader(self) -> Reader:
        """Reads the tensors; to be entered and left."""
        return _RowReader(self)

    def check_unchanged(self) -> None:
        """Raises MergeoptError where a file is not the one whose header was read."""
        self.inner.check_unchanged()


class _RowReader:
    """Thread-safe where the readers below it are."""

    def __init__(self, view: RowView) -> None:
        self._view = view
        self._readers = [checkpoint.reader() for checkpoint in (view.inner, *view.lenders)]
        self._stack = ExitStack()
        self._means: dict[str, Tensor] = {}
        self._averaging = Lock()

    def __enter__(self) -> Self:
        for reader in self._readers:
            self._stack.enter_context(reader)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def tensor(self, name: str) -> Tensor:
        """A whole tensor in memory of its own."""
        stored = self._view.tensors[name]
        result = torch.empty(stored.shape, dtype=torch_dtype(stored.dtype))
        for start in range(0, stored.numel, _BLOCK):  # what it takes to make rows is as large as a read
            self.read_into(name, start, result.view(-1)[start : start + _BLOCK])
        return result

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        """As `TensorReader.read_into`."""
        if name not in self._view.names:
            self._readers[0].read_into(name, start, out)
            return
        stored = self._view.tensors[name]
        stop = start + out.numel()
        if out.dim() != 1 or out.dtype != torch_dtype(stored.dtype) or start < 0 or stop > stored.numel:
            raise ValueError(f"{name}: out must be 1-D {stored.dtype} within {stored.numel} elements")
        width = self._width(name)
        for first, last, givers in self._runs(start // width, -(-stop // width)):
            low, high = max(start, first * width), min(stop, last * width)
            into = out[low - start : high - start]
            if givers is None:
                self._repeat(self._mean_row(name), low - first * width, into)
            else:
                offset = low - first * width
                self._gather(name, [(giver, row * width + offset) for giver, row in givers], into)

    def _width(self, name: str) -> int:
        return self._view.tensors[name].numel // len(self._view.own)

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int, list[tuple[int, int]] | None]]:
        """Rows [a, b) that lie together in every model that gives them, as (model, its row for a); None: no token."""
        view = self._view
        own, lent, real = view.own[first:last], view.lent[:, first:last], view.real[first:last]
        rows = np.vstack([own[None], np.where(own >= 0, -1, lent)])
        goes_on = (rows[:, 1:] == np.where(rows[:, :-1] >= 0, rows[:, :-1] + 1, -1)).all(axis=0)
        goes_on = np.where(real[1:] & real[:-1], goes_on, real[1:] == real[:-1])
        cuts = [0, *(np.flatnonzero(~goes_on) + 1).tolist(), last - first]
        for begin, end in pairwise(cuts):
            column = rows[:, begin]
            givers = [(int(giver), int(column[giver])) for giver in np.flatnonzero(column >= 0)]
            yield first + begin, first + end, givers if real[begin] else None

    def _gather(self, name: str, givers: list[tuple[int, int]], out: Tensor) -> None:
        """The mean of elements that begin at an offset in each giver's tensor; zero where none gives."""
        if not givers:
            out.zero_()
        elif len(givers) == 1:
            self._read(name, *givers[0], out)
        else:
            wide = torch.float64 if out.dtype == torch.float64 else torch.float32
            total, part = torch.zeros(out.numel(), dtype=wide), torch.empty(out.numel(), dtype=wide)
            for giver, start in givers:
                self._read(name, giver, start, part)
                total += part
            out.copy_(total / len(givers))

    def _read(self, name: str, giver: int, start: int, out: Tensor) -> None:
        view = self._view
        model = view.lenders[giver - 1] if giver else view.inner
        theirs = view.names[name][1][giver - 1] if giver else view.names[name][0]
        dtype = torch_dtype(model.tensors[theirs].dtype)
        if dtype == out.dtype:
            self._readers[giver].read_into(theirs, start, out)
        else:
            part = torch.empty(out.numel(), dtype=dtype)
            self._readers[giver].read_into(theirs, start, part)
            out.copy_(part)

    def _mean_row(self, name: str) -> Tensor:
        """float64 [width]: the mean of all rows that stand for a token."""
        with self._averaging:
            if name not in self._means:
                self._means[name] = self._averaged(name)
            return self._means[name]

    def _averaged(self, name: str) -> Tensor:
        view, width = self._view, self._width(name)
        dtype = torch_dtype(view.tensors[name].dtype)
        total = torch.zeros(width, dtype=torch.float64)
        block = max(1, _BLOCK // width)
        for begin in range(0, len(view.own), block):
            for first, last, givers in self._runs(begin, min(begin + block, len(view.own))):
                if givers is not None:
                    part = torch.empty((last - first) * width, dtype=dtype)
                    self._gather(name, [(giver, row * width) for giver, row in givers], part)
                    total += part.view(-1, width).double().sum(dim=0)
        return total / int(view.real.sum())

    @staticmethod
    def _repeat(row: Tensor, offset: int, out: Tensor) -> None:
        """Fills `out` with the row over and over, from its element `offset` on."""
        width = row.numel()
        offset %= width
        times = -(-(offset + out.numel()) // width)
        out.copy_(row.repeat(times)[offset : offset + out.numel()])


def rows_shape(shape: tuple[int, ...], before: int, after: int) -> tuple[int, ...] | None:
    """The shape with `after` rows instead of `before`; None where its first axis of more than one is another."""
    axis = next((axis for axis, size in enumerate(shape) if size != 1), None)
    if axis is None or shape[axis] != before or prod(shape) == 0:
        return None
    return (*shape[:axis], after, *shape[axis + 1 :])
