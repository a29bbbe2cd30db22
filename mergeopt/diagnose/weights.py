"""One reading of every weight of every model, in blocks, shared out over threads.

Memory is a few blocks per thread and model. A block is summed by one thread and blocks are added in their order, so
the numbers do not depend on the number of threads.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from math import prod
from threading import local

import torch

from mergeopt.diagnose.subjects import Common, Place, Subjects
from mergeopt.diagnose.sums import BLOCK, Sums, added
from mergeopt.merge.layout import Input
from mergeopt.merge.sources import FileSource, opened_readers
from mergeopt.methods.kernels import one_thread_each
from mergeopt.recipe.recipe import ModelRef

Progress = Callable[[int], None]  # told the bytes read since the last call


@dataclass(frozen=True)
class WeightSums:
    """Sums per place; `columns` says which model is which column."""

    columns: tuple[ModelRef, ...]
    places: Mapping[Place, Sums]

    @cached_property
    def whole(self) -> Sums:
        return added(self.places.values(), len(self.columns))

    @cached_property
    def parts(self) -> Mapping[str, Sums]:
        """Per part, all layers."""
        grouped: dict[str, list[Sums]] = defaultdict(list)
        for place, sums in self.places.items():
            grouped[place.part].append(sums)
        return {part: added(found, len(self.columns)) for part, found in grouped.items()}

    @cached_property
    def layers(self) -> Mapping[int, Sums]:
        """Per layer, all parts."""
        grouped: dict[int, list[Sums]] = defaultdict(list)
        for place, sums in self.places.items():
            if place.layer is not None:
                grouped[place.layer].append(sums)
        return {layer: added(grouped[layer], len(self.columns)) for layer in sorted(grouped)}


def read_sums(subjects: Subjects, progress: Progress | None = None) -> WeightSums:
    """Reads every common tensor of every model once.

    Raises:
        MergeoptError: a file that cannot be read, or changed since its header was.
    """
    blocks = [(tensor, start) for tensor in subjects.common for start in range(0, tensor.numel, BLOCK)]
    own = local()
    with opened_readers(subjects.checkpoints) as readers, one_thread_each() as threads:

        def work(block: tuple[Common, int]) -> Sums:
            if not hasattr(own, "source"):
                own.source = FileSource(readers, subjects.checkpoints)
            with torch.inference_mode():
                sums = _summed(subjects, own.source, *block)
            if progress:
                progress(_bytes(subjects, *block))
            return sums

        places: dict[Place, Sums] = {}
        with ThreadPoolExecutor(threads, thread_name_prefix="diagnose") as pool:
            for (tensor, _), sums in zip(blocks, pool.map(work, blocks), strict=True):
                places[tensor.place] = places[tensor.place] + sums if tensor.place in places else sums
    return WeightSums(subjects.others, places)


def bytes_to_read(subjects: Subjects) -> int:
    """What `read_sums` will report in all."""
    return sum(_bytes(subjects, t, start) for t in subjects.common for start in range(0, t.numel, BLOCK))


def _summed(subjects: Subjects, source: FileSource, tensor: Common, start: int) -> Sums:
    stop = min(start + BLOCK, prod(tensor.shape))

    def read(ref: ModelRef) -> torch.Tensor:
        return source.chunk(Input(ref, tensor.name), start, stop)

    models = torch.empty(len(subjects.others), stop - start)
    for row, ref in zip(models, subjects.others, strict=True):
        row.copy_(read(ref))
    return Sums.of(models, read(subjects.reference).float())


def _bytes(subjects: Subjects, tensor: Common, start: int) -> int:
    elements = min(BLOCK, tensor.numel - start)
    stored = (subjects.checkpoints[ref].tensors[tensor.name] for ref in (*subjects.others, subjects.reference))
    return sum(elements * one.nbytes // max(1, one.numel) for one in stored)
