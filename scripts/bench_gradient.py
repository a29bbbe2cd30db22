#!/usr/bin/env python
"""What does the gradient of every coefficient cost beside a plain backward?

On Llama-shaped models of random weights, sources resident: a step (forward, backward, contraction) beside the forward
and backward alone of the same model, with all its weight gradients made and dropped; time in turn, medians, and peak
memory beside the largest gradients and the blocks that the contraction should add. Then one step of a bfloat16 model
in a process of its own, sources read from their files: peak memory without what is mapped from files.

    scripts/bench_gradient.py --size 60M --sources 2,4,8
    scripts/bench_gradient.py --child-size 0.5B
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_merge import make_model, size_of

from mergeopt.merge.folder import Prepared, prepare
from mergeopt.merge.gradient import CoefficientGradient, contracting
from mergeopt.merge.live import LiveModel, bind, skeleton
from mergeopt.merge.sources import FileSource, ResidentSource, TensorSource, open_models, opened_readers
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_document
from mergeopt.recipe.read import read_recipe

WANTED = frozenset({"weight", "density", "lambda"})


def main() -> None:
    options = arguments()
    if options.child:
        print(json.dumps(child([Path(name) for name in options.child], options)))
        return
    root = Path(options.folder or tempfile.mkdtemp(prefix="bench-gradient-"))
    try:
        if options.child_size:
            report_child(options, root)
        else:
            report(options, root)
    finally:
        if not options.folder:
            shutil.rmtree(root)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="60M", help="parameters per model (default 60M)")
    parser.add_argument("--sources", default="2,4,8", help="numbers of sources, not counting the base")
    parser.add_argument("--methods", default="task_arithmetic,ties")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="of the live model")
    parser.add_argument("--wanted", default="weight", help="parameters to follow, of weight,density,lambda")
    parser.add_argument("--tokens", type=int, default=1024, help="per step, in rows of 256")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", help="keep models here, and use those already there")
    parser.add_argument("--child-size", help="run only the step inside little memory, with models of this size")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def report(options: argparse.Namespace, root: Path) -> None:
    counts = [int(n) for n in options.sources.split(",")]
    models = [make_model(root / f"model{i}", size_of(options.size), i) for i in range(max(counts) + 1)]
    print(f"{options.size}, {options.tokens} tokens, {torch.get_num_threads()} threads, following {options.wanted}")
    print(f"{'':36}{'plain s':>9}{'step s':>9}{'ratio':>7}{'more MB':>9}{'formula':>9}")
    for method in options.methods.split(","):
        for dtype in options.dtypes.split(","):
            for n in counts:
                row = compare(of(method, models[: n + 1]), getattr(torch, dtype), options)
                print(f"{method + ' ' + dtype + f' {n} sources':36}" + row, flush=True)


def compare(prepared: Prepared, dtype: torch.dtype, options: argparse.Namespace) -> str:
    items = [item for job in prepared.plan.jobs for item in job.reads]
    source = ResidentSource.load(items, prepared.checkpoints, torch.device("cpu"))
    live = living(prepared, source, dtype)
    times: dict[str, list[float]] = {"plain": [], "step": []}
    peaks: dict[str, list[int]] = {"plain": [], "step": []}
    for _ in range(options.repeat + 1):  # in turn; the first is to warm up
        for name, run in (("plain", plain), ("step", step)):
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
            begin = time.perf_counter()
            run(live, prepared, options)
            times[name].append(time.perf_counter() - begin)
            peaks[name].append(memory("VmHWM"))
    without, within = median(times["plain"][1:]), median(times["step"][1:])
    ratio = median(b / a for a, b in zip(times["plain"][1:], times["step"][1:], strict=True))
    more = (median(peaks["step"][1:]) - median(peaks["plain"][1:])) / 1e6
    blocks = (len(prepared.plan.jobs[0].inputs) + 2) * source.block * 4 / 1e6
    return f"{without:9.2f}{within:9.2f}{ratio:7.2f}{more:9.0f}{blocks:9.1f}"


def plain(live: LiveModel, prepared: Prepared, options: argparse.Namespace) -> None:
    """Forward and backward with every weight's gradient made and dropped at once."""
    with contracting(live, prepared.plan.jobs, lambda *_: None):
        loss(live.model, options.tokens).backward()


def step(live: LiveModel, prepared: Prepared, options: argparse.Namespace) -> None:
    wanted = WANTED & set(options.wanted.split(",")) & SCHEMAS[prepared.plan.method].parameters.keys()
    gradient = CoefficientGradient(live, prepared.plan, {job.tensor: wanted for job in prepared.plan.jobs})
    with contracting(live, prepared.plan.jobs, gradient):
        loss(live.model, options.tokens).backward()


def report_child(options: argparse.Namespace, root: Path) -> None:
    models = [make_model(root / f"model{i}", size_of(options.child_size), i) for i in range(3)]
    command = [sys.executable, "-W", "ignore", __file__, "--tokens", str(options.tokens), "--child", *map(str, models)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    weights, peak = found["weights"] / 1e9, found["peak"] / 1e9
    print(
        f"{options.child_size} bfloat16, 2 sources read from files, {options.tokens} tokens: {found['seconds']:.0f} s,"
    )
    print(f"peak {peak:.2f} GB without mapped files, of which the live model {weights:.2f} GB")


def child(models: list[Path], options: argparse.Namespace) -> dict[str, float]:
    prepared = of("task_arithmetic", models)
    with opened_readers(prepared.checkpoints) as readers:
        live = living(prepared, FileSource(readers, prepared.checkpoints), torch.bfloat16)
        begin = time.perf_counter()
        step(live, prepared, options)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak": memory("VmHWM") - memory("RssFile"), "weights": prepared.plan.nbytes}


def of(method: str, models: list[Path]) -> Prepared:
    density = ", density: 0.5" if "density" in SCHEMAS[method].parameters else ""
    listed = "".join(f"\n  - {{model: {model}, parameters: {{weight: 0.5{density}}}}}" for model in models[1:])
    text = f"merge_method: {method}\nbase_model: {models[0]}\nmodels:{listed}\ndtype: bfloat16\n"
    recipe = read_recipe(parse_document(text, "bench.yaml"), SCHEMAS).recipe
    return prepare(recipe, open_models(recipe.models, None))


def living(prepared: Prepared, source: TensorSource, dtype: torch.dtype) -> LiveModel:
    folder = prepared.checkpoints[prepared.recipe.donor].folder
    model = skeleton(folder, prepared.config, torch.device("cpu"), dtype)
    live = LiveModel(model, bind(model, [job.tensor for job in prepared.plan.jobs]), source)
    live.write(prepared.plan)
    return live


def loss(model: Any, tokens: int) -> Any:
    batch = torch.randint(0, 32_000, (tokens // 256, 256), generator=torch.Generator().manual_seed(0))
    return model(batch, labels=batch, use_cache=False).loss


def memory(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
