"""What a search would do and need, from headers alone."""

import shutil
from pathlib import Path

from mergeopt.merge.plan import make_plan
from mergeopt.merge.sources import facts
from mergeopt.methods import SCHEMAS
from mergeopt.study.search import SearchJob


def dry_run_lines(job: SearchJob, out: Path) -> list[str]:
    """Space, items, memory, disk and what the items can tell apart."""
    options = job.file.optimize
    plan = make_plan(job.recipe, facts(job.checkpoints), SCHEMAS[job.recipe.method])
    sources = sum(checkpoint.nbytes for checkpoint in job.checkpoints.values())
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    lines = [
        f"models   {len(job.checkpoints)}, {sources / 1e9:.2f} GB; tensors {len(plan.jobs)}",
        f"trials   {options.most_trials} by {options.method}, in generations of {options.batch}",
    ]
    for branch in job.space.branches:
        lines.append(f"space    {len(branch.dimensions)} numbers{f' for {branch.name}' if branch.name else ''}")
    for info in job.suite.evals:
        counts = ", ".join(f"{split} {info.count(split)}" for split in ("search", "select", "report"))
        lines.append(f"items    {info.name} ({info.metric}): {counts}")
    lines += [
        f"memory   about {(sources + 2 * plan.nbytes) / 1e9:.2f} GB for sources, the live model and working space",
        f"disk     {plan.nbytes / 1e9:.2f} GB of {shutil.disk_usage(place).free / 1e9:.0f} GB free",
        f"detects  a difference of {job.detectable():.3f} in the mean score (report items, power 0.8)",
    ]
    return lines
