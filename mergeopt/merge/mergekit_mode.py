"""`--match mergekit`: the same bits as mergekit 0.1.5 on a CPU, whatever they are worth.

Another way to execute a plan: whole tensors instead of chunks, one after another in the order of their names, in the
recipe's dtype, and random numbers from one generator that stands for torch's global one after `torch.manual_seed`.
Threads are as torch has them: sums over whole tensors depend on their number, in mergekit too.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from mergeopt.checkpoint.reader import Reader
from mergeopt.checkpoint.sink import Sink
from mergeopt.errors import InputError
from mergeopt.merge.compute import compute
from mergeopt.merge.finite import is_finite
from mergeopt.merge.folder import Prepared
from mergeopt.merge.plan import Job, Plan
from mergeopt.merge.refinement import Refinement
from mergeopt.merge.sources import Checkpoints, FileSource, opened_readers
from mergeopt.merge.stream import Progress
from mergeopt.methods import METHODS
from mergeopt.methods.as_mergekit import ARITHMETIC, PROMOTED
from mergeopt.methods.as_mergekit.inputs import Inputs
from mergeopt.recipe.recipe import ModelRef

DIALECT = "0.1.5"
_SAMPLED = 1_000_000  # arcee_fusion draws for tensors of more elements


def as_mergekit(prepared: Prepared, seed: int | None) -> Prepared:
    """The merge as mergekit would write it: where a method turns its result to float32, that is what is planned.

    Args:
        prepared: From `prepare`.
        seed: mergekit's `--random-seed`.

    Raises:
        InputError: a refinement, a method that mergekit does not have, random numbers without a seed.
    """
    plan, recipe = prepared.plan, prepared.recipe
    if recipe.refinement is not None:
        raise InputError("mergekit has no refinement below the tensor", remedy="leave --match away")
    if plan.method not in ARITHMETIC:
        raise InputError(f"mergekit {DIALECT} has no method {plan.method!r}", remedy="leave --match away")
    if seed is None and any(_draws(plan, job) for job in plan.jobs):
        problem = f"{plan.method} draws random numbers, which mergekit takes from --random-seed"
        raise InputError(problem, remedy="give --random-seed N, that of the merge to match")
    notices = list(prepared.notices)
    if any(".experts." in job.tensor for job in plan.jobs):
        notices.append(
            f"mergekit {DIALECT} fuses the experts of a layer into one tensor before it merges; here each is merged "
            "alone, as mergekit up to 0.1.4 did: the same numbers only for methods that act element by element"
        )
    read = Counter(job.inputs[0] for job in plan.jobs)
    if max(read.values()) > 1 and any(_draws(plan, job) for job in plan.jobs):
        notices.append("slices read a layer more than once: mergekit draws for them in an order that is not matched")
    if plan.method in PROMOTED and recipe.out_dtype is None:
        jobs = (job if job.verbatim or job.dtype == "float64" else replace(job, dtype="float32") for job in plan.jobs)
        plan = replace(plan, jobs=tuple(jobs))
    return replace(prepared, plan=plan, notices=tuple(notices))


def lock_entries(seed: int | None) -> dict[str, Any]:
    """What the lock file says of such a merge."""
    match = {"mergekit": DIALECT, "random_seed": seed, "threads": torch.get_num_threads()}
    return {"match": match, "portability": "exact"}


@dataclass(frozen=True, slots=True)
class Match:
    """How to merge as mergekit does: `seed` is its `--random-seed`."""

    seed: int | None

    def prepared(self, prepared: Prepared) -> Prepared:
        """The plan that mergekit's model has."""
        return as_mergekit(prepared, self.seed)

    def execution(self, prepared: Prepared) -> "MergekitExecution":
        """What computes it."""
        return MergekitExecution(prepared.recipe.dtype, self.seed)

    @property
    def lock_entries(self) -> dict[str, Any]:
        """What the lock file says of it."""
        return lock_entries(self.seed)


class MergekitExecution:
    """Computes a plan into a writer, as `stream` does, but as mergekit would.

    Args:
        dtype: The recipe's, to which every input is cast; None promotes those of one tensor to a common one.
        seed: mergekit's `--random-seed`.
    """

    def __init__(self, dtype: str | None, seed: int | None) -> None:
        self._dtype, self._seed = dtype, seed

    def __call__(
        self,
        plan: Plan,
        checkpoints: Checkpoints,
        writer: Sink,
        progress: Progress | None = None,
        refinement: Refinement | None = None,
    ) -> tuple[Job, ...]:
        """Holds the inputs of one tensor at a time, and several times as much while it is merged."""
        assert refinement is None
        broken = set()
        random = torch.Generator().manual_seed(self._seed or 0)
        with opened_readers(checkpoints) as readers, torch.inference_mode():
            files = FileSource(readers, checkpoints)
            for job in sorted(plan.jobs, key=_order):
                if job.verbatim:
                    merged = torch.cat(list(compute(job, METHODS[plan.method], files, plan.seed)))
                else:
                    merged = self._merged(job, plan, readers, random).to(getattr(torch, job.dtype))
                if not is_finite(merged):
                    broken.add(job.tensor)
                writer.write(job.tensor, 0, merged.reshape(-1))
                if progress:
                    progress(merged.nbytes)
        return tuple(job for job in plan.jobs if job.tensor in broken)

    def _merged(self, job: Job, plan: Plan, readers: Mapping[ModelRef, Reader], random: torch.Generator) -> Tensor:
        tensors = {item: readers[item.model].tensor(item.tensor) for item in job.reads}
        dtype = getattr(torch, self._dtype) if self._dtype else _common(list(tensors.values()))
        sources = [tensors[item].to(dtype) for item in job.inputs]
        base = None if job.base is None else tensors[job.base].to(dtype)
        own = {name + "_" if name == "lambda" else name: value for name, value in job.coefficients.items()}
        return ARITHMETIC[plan.method](Inputs(sources, base, random), **own)


def _order(job: Job) -> str:
    """What mergekit sorts by: the name under which the inputs are stored; a tied head has its own."""
    names = {item.tensor for item in job.reads}
    return names.pop() if len(names) == 1 else job.tensor


def _draws(plan: Plan, job: Job) -> bool:
    if job.verbatim:
        return False
    if plan.method == "arcee_fusion":
        return prod(job.shape) > _SAMPLED
    random = plan.method.startswith(("dare_", "della"))
    return random and any(0 < density < 1 for density in job.coefficients["density"])


def _common(tensors: list[Tensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
