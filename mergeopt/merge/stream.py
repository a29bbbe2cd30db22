"""A plan becomes tensors: every tensor streamed through fixed-size chunks, tensors shared out over threads.

Reading, converting, merging and writing all release the interpreter lock, so plain threads use all cores; each works on
whole tensors (largest first) with buffers of its own, and torch's own threads are off meanwhile. Memory is a few chunks
per thread and source, whatever the size of the models.
"""

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from math import prod
from threading import Event

import torch

from mergeopt.checkpoint.sink import Sink
from mergeopt.merge.compute import compute
from mergeopt.merge.finite import is_finite
from mergeopt.merge.plan import Job, Plan
from mergeopt.merge.refinement import Refinement
from mergeopt.merge.sources import Checkpoints, FileSource, opened_readers
from mergeopt.methods import METHODS
from mergeopt.methods.kernels import one_thread_each

Progress = Callable[[int], None]  # told the bytes written since the last call
Execute = Callable[[Plan, Checkpoints, Sink, Progress | None, Refinement | None], tuple[Job, ...]]
"""Computes every job of a plan into a writer: `stream`, or another way; gives the jobs that came out not finite."""


def stream(
    plan: Plan,
    checkpoints: Checkpoints,
    sink: Sink,
    progress: Progress | None = None,
    refinement: Refinement | None = None,
) -> tuple[Job, ...]:
    """Computes every job of the plan into the sink, the blocks of a tensor in order.

    Refined singular components take a few whole tensors per thread instead.

    Returns:
        The jobs whose tensors came out with NaN or infinity, in the plan's order.

    Raises:
        InputError, MergeoptError: what reading, merging or writing met; the other threads stop at their next chunk.
    """
    method = METHODS[plan.method]
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in sorted(plan.jobs, key=lambda job: -prod(job.shape)):
        jobs.put(job)
    stopped = Event()
    broken: set[str] = set()

    with opened_readers(checkpoints) as readers, one_thread_each() as threads:

        def work() -> None:
            source = FileSource(readers, checkpoints)
            try:
                with torch.inference_mode():
                    while not stopped.is_set():
                        write(jobs.get_nowait(), source)
            except queue.Empty:
                return
            except BaseException:
                stopped.set()
                raise

        def write(job: Job, source: FileSource) -> None:
            start = 0
            for part in compute(job, method, source, plan.seed, None, refinement):
                if stopped.is_set():
                    return
                if not is_finite(part):
                    broken.add(job.tensor)
                sink.write(job.tensor, start, part)
                start += part.numel()
                if progress:
                    progress(part.nbytes)

        with ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool:
            futures = [pool.submit(work) for _ in range(threads)]
            try:
                wait(futures)
            except BaseException:
                stopped.set()
                raise
        for future in futures:
            future.result()
    return tuple(job for job in plan.jobs if job.tensor in broken)
