"""NaN and infinity in a merge: found in passing, told by name."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from mergeopt.merge.layout import FLOATS, Input
from mergeopt.merge.plan import Job
from mergeopt.merge.sources import Checkpoints, FileSource, opened_readers


def is_finite(part: Tensor) -> bool:
    """Is every element a finite number? By the sum, a tenth of a nanosecond per element, where that is finite."""
    if not part.is_floating_point() or part.element_size() == 1:  # 8-bit floats are only ever copied
        return True
    return bool(torch.isfinite(part.sum())) or bool(torch.isfinite(part).all())


def told(jobs: Sequence[Job], checkpoints: Checkpoints) -> str:
    """One line on tensors that came out not finite, and whose fault the first of them is."""
    first = jobs[0]
    with opened_readers(checkpoints) as readers:
        source = FileSource(readers, checkpoints)
        guilty = [str(item.model) for item in dict.fromkeys(first.reads) if not _input_is_finite(item, source, first)]
    also = f" and in {len(jobs) - 1} more" if len(jobs) > 1 else ""
    whose = f"as it is in {', '.join(map(repr, guilty))}" if guilty else "from finite sources"
    return f"NaN or infinity in tensor {first.tensor!r}, {whose}{also}"


def _input_is_finite(item: Input, source: FileSource, job: Job) -> bool:
    count = prod(job.shape)
    return job.dtype not in FLOATS or all(
        is_finite(source.chunk(item, start, min(start + source.block, count)))
        for start in range(0, count, source.block)
    )
