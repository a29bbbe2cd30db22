"""A merge that is planned and not written, as a checkpoint: its tensors are computed where they are read.

What is merged further need not lie on the disk first. A tensor is computed whole, by the same code and to the same bits
as in a folder, and kept until its thread reads another one.
"""

import shutil
import tempfile
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import local
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.header import StoredTensor, item_size
from mergeopt.checkpoint.reader import Reader, torch_dtype
from mergeopt.errors import MergeoptError
from mergeopt.merge.compute import compute
from mergeopt.merge.folder import Prepared
from mergeopt.merge.mergekit_mode import Match
from mergeopt.merge.sources import FileSource
from mergeopt.merge.vocabulary import carry_files
from mergeopt.methods import METHODS
from mergeopt.methods.kernels import one_thread_each


@dataclass(frozen=True, eq=False, kw_only=True)
class Unmade(Checkpoint):
    """A merge as the model that it would be. One that is to match mergekit's is only planned on, not read."""

    prepared: Prepared
    match: Match | None = None

    def reader(self) -> Reader:
        """Computes the tensors; to be entered and left."""
        if self.match is not None:
            raise MergeoptError(f"the stage {self.name!r} has not been made")
        return _Reader(self)

    def check_unchanged(self) -> None:
        """Raises MergeoptError where a file of a source is not the one whose header was read."""
        for checkpoint in self.prepared.checkpoints.values():
            checkpoint.check_unchanged()


def unmade(prepared: Prepared, name: str, match: Match | None = None) -> Unmade:
    """The model that a prepared merge would be; `match`: as mergekit would make it."""
    tensors = {
        job.tensor: StoredTensor(job.tensor, job.dtype, job.shape, Path(), 0, prod(job.shape) * item_size(job.dtype))
        for job in prepared.plan.jobs
    }
    vocabulary = prepared.vocabulary
    if not vocabulary.files:
        folder = vocabulary.checkpoints[vocabulary.donor].folder
        return Unmade(folder, name, prepared.config, tensors, (), prepared=prepared, match=match)
    folder = Path(tempfile.mkdtemp(prefix="mergeopt-"))  # its tokenizer, for the plans of those who need it
    view = Unmade(folder, name, prepared.config, tensors, (), prepared=prepared, match=match)
    weakref.finalize(view, shutil.rmtree, folder, ignore_errors=True)
    carry_files(vocabulary, folder)
    return view


class _Reader:
    """Thread-safe where the readers below it are: each thread has a tensor and buffers of its own."""

    def __init__(self, view: Unmade) -> None:
        self._view, self._plan = view, view.prepared.plan
        self._jobs = {job.tensor: job for job in self._plan.jobs}
        self._readers = {ref: checkpoint.reader() for ref, checkpoint in view.prepared.checkpoints.items()}
        self._stack = ExitStack()
        self._kept = local()

    def __enter__(self) -> Self:
        for reader in self._readers.values():
            self._stack.enter_context(reader)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept = local()
        self._stack.close()

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        """Fills `out`, 1-D of the tensor's dtype, with the elements from `start` on."""
        if getattr(self._kept, "name", None) != name:
            self._kept.name, self._kept.tensor = name, self._computed(name)
        out.copy_(self._kept.tensor[start : start + out.numel()])

    def tensor(self, name: str) -> Tensor:
        """A whole tensor in memory of its own."""
        return self._computed(name).view(self._jobs[name].shape)

    def _computed(self, name: str) -> Tensor:
        job = self._jobs[name]
        if not hasattr(self._kept, "source"):
            self._kept.source = FileSource(self._readers, self._view.prepared.checkpoints)
        out, start = torch.empty(prod(job.shape), dtype=torch_dtype(job.dtype)), 0
        with torch.no_grad(), one_thread_each():
            for part in compute(
                job,
                METHODS[self._plan.method],
                self._kept.source,
                self._plan.seed,
                None,
                self._view.prepared.refinement,
            ):
                out[start : start + part.numel()] = part
                start += part.numel()
        return out
