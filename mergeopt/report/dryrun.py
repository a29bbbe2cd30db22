"""What a search would do and need, from headers alone."""

import shutil
import time
from math import prod
from pathlib import Path

import torch

from mergeopt.merge.plan import make_plan
from mergeopt.merge.sources import facts, resident_bytes
from mergeopt.methods import SCHEMAS
from mergeopt.study.job import SearchJob
from mergeopt.study.searchfile import Learn

EFFICIENCY = 0.4  # of the matrix rate, that forward passes of short padded batches reach


def dry_run_lines(job: SearchJob, out: Path, device: torch.device) -> list[str]:
    """Space, items, memory, disk, time, and what the items can tell apart."""
    options = job.file.optimize
    plan = make_plan(job.recipe, facts(job.checkpoints), SCHEMAS[job.recipe.method])
    sources = resident_bytes(job.checkpoints)
    tokens = tokens_per_trial(job)
    parameters = sum(prod(job_.shape) for job_ in plan.jobs)
    seconds = tokens * 2 * parameters / (EFFICIENCY * matrix_rate(device))
    trials = options.expected_trials(tokens)
    if options.time is not None:
        trials = min(trials, int(options.time / seconds) + 1)
    about = "" if trials == options.trials or (options.tokens is None and options.time is None) else "about "
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    lines = [
        f"models   {len(job.checkpoints)}, {sources / 1e9:.2f} GB; tensors {len(plan.jobs)}",
        f"trials   {about}{trials} by {options.method}, in generations of {options.batch}",
    ]
    for branch in job.space.branches:
        lines.append(f"space    {len(branch.dimensions)} numbers{f' for {branch.name}' if branch.name else ''}")
    learning = 0.0
    if options.learns:
        learn = job.file.learn or Learn()
        steps = learn.steps * len(job.space.branches) + (0 if options.portable else learn.refine_steps)
        items = sum(info.count("search") for info in job.suite.evals)
        share = learn.size * len(job.suite.evals) / max(1, items)
        learning = 3 * steps * share * seconds  # a backward pass costs two forward ones
        lines.append(f"learns   by up to {steps} gradient steps of {learn.size} lessons per eval")
    for info in job.suite.evals:
        counts = ", ".join(f"{split} {len(hashes)}" for split, hashes in info.hashes.items() if hashes)
        lines.append(f"items    {info.name} ({info.metric}): {counts}")
    lines += [
        f"memory   about {(sources + 2 * plan.nbytes) / 1e9:.2f} GB for sources, the live model and working space",
        f"disk     {plan.nbytes / 1e9:.2f} GB of {shutil.disk_usage(place).free / 1e9:.0f} GB free",
        f"time     about {_words(trials * seconds + learning)} to search ({tokens:,} tokens a trial), a rough guess",
        f"detects  a difference of {job.detectable():.3f} in the mean score (report items, power 0.8)",
    ]
    return lines


def tokens_per_trial(job: SearchJob) -> int:
    """Tokens of the search items' requests; generated ones not counted."""
    total = 0
    for info in job.suite.evals:
        if not info.entry.eval.startswith("python:"):
            requests = [r for item in job.suite.items(info.name, "search") for r in item.requests]
            texts = [request.context + request.continuation for request in requests]
            total += sum(map(len, job.suite.tokenizer(texts)["input_ids"]))
    return total


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations per second of a float32 multiplication of 1024 × 1024 matrices here and now."""
    a = torch.ones(1024, 1024, device=device)
    rates = []
    for _ in range(4):  # the first one warms up
        begun = time.perf_counter()
        float((a @ a)[0, 0])
        rates.append(2 * 1024**3 / (time.perf_counter() - begun))
    return max(rates)


def _words(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
