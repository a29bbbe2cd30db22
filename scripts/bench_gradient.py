#!/usr/bin/env python
"""What does the gradient of every coefficient cost beside a plain backward?

On Llama-shaped models of random weights, sources resident: a step (forward, backward, contraction) beside the forward
and backward alone of the same model, with all its weight gradients made and dropped, and beside writing the merge into
the model; time in turn, medians, and peak memory beside the blocks that the contraction should add. Then one step of a
bfloat16 model in a process of its own, sources read from their files: peak memory without what is mapped from files.
And, on a family that `make_family` trained: which estimate of a density's gradient foretells what moving it does?

    scripts/bench_gradient.py --size 60M --sources 2,4,8
    scripts/bench_gradient.py --size 1B --tokens 4096 --device cuda
    scripts/bench_gradient.py --child-size 0.5B
    scripts/bench_gradient.py --shares runs/families/demo0
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from bench_merge import make_model, size_of, tensors_of
from torch import Tensor

from mergeopt.checkpoint.header import encode_header
from mergeopt.merge.compute import chunks_of, compute
from mergeopt.merge.folder import Prepared, prepare
from mergeopt.merge.gradient import CoefficientGradient, contracting
from mergeopt.merge.live import LiveModel, bind, skeleton
from mergeopt.merge.plan import Job
from mergeopt.merge.refinement import KINDS, Refinement, empty
from mergeopt.merge.refinement_gradient import RefinementGradient
from mergeopt.merge.sources import FileSource, ResidentSource, TensorSource, open_models, opened_readers
from mergeopt.methods import METHODS, SCHEMAS
from mergeopt.methods.chunks import Chunks, row_of
from mergeopt.methods.cutoff import Cutoff
from mergeopt.methods.draws import Draws
from mergeopt.methods.steps import deltas
from mergeopt.recipe.document import parse_document
from mergeopt.recipe.read import read_recipe
from mergeopt.zoo.tasks import TASKS
from mergeopt.zoo.tokenizer import make_tokenizer
from mergeopt.zoo.train import CONTEXT, collate, weighted_loss

CPU = torch.device("cpu")
WANTED = frozenset({"weight", "density", "lambda"})
SHARES = (("ties", 0.3), ("ties", 0.7), ("dare_linear", 0.5))
HALF_WIDTHS = (0.005, 0.02, 0.03, 0.05, 0.1)  # of a secant
MOVES = (0.02, 0.1)  # of the density, one way and the other
TEMPERATURES = (0.05, 0.2, 0.5)  # of a straight-through mask, in thresholds
ITEMS = 96  # per task
LEVELS = 512  # to which a random mask's draws are found


def main() -> None:
    options = arguments()
    if options.child:
        print(json.dumps(child([Path(name) for name in options.child], options)))
        return
    root = Path(options.folder or tempfile.mkdtemp(prefix="bench-gradient-"))
    try:
        if options.shares:
            report_shares(options.shares)
        elif options.child_size:
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
    parser.add_argument("--refine", choices=KINDS, help="follow numbers below the tensor instead, and write with them")
    parser.add_argument("--tokens", type=int, default=1024, help="per step, in rows of 256")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--folder", help="keep models here, and use those already there")
    parser.add_argument("--child-size", help="run only the step inside little memory, with models of this size")
    parser.add_argument("--shares", type=Path, metavar="FOLDER", help="a family: run only the estimates of densities")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def report(options: argparse.Namespace, root: Path) -> None:
    counts = [int(n) for n in options.sources.split(",")]
    cpu, size = options.device.type == "cpu", size_of(options.size)
    folders = [root / f"model{i}" for i in range(max(counts) + 1)]
    models = [make_model(folder, size, i) if cpu else hollow_model(folder, size) for i, folder in enumerate(folders)]
    place = f"{torch.get_num_threads()} threads"
    if not cpu:
        place = torch.cuda.get_device_name(options.device)
    followed = options.refine or options.wanted
    print(f"{options.size}, {options.tokens} tokens, {place}, following {followed}; peaks beside what is resident")
    print(f"{'':36}{'plain s':>9}{'step s':>9}{'ratio':>7}{'write s':>9}{'peak MB':>9}{'more MB':>9}{'formula':>9}")
    for method in options.methods.split(","):
        for dtype in options.dtypes.split(","):
            for n in counts:
                row = compare(of(method, models[: n + 1]), getattr(torch, dtype), options)
                print(f"{method + ' ' + dtype + f' {n} sources':36}" + row, flush=True)


def compare(prepared: Prepared, dtype: torch.dtype, options: argparse.Namespace) -> str:
    source = resident(prepared, options.device)
    live, meter = living(prepared, source, dtype, options.device), Meter(options.device)
    runs: dict[str, list[tuple[float, int]]] = {"plain": [], "step": [], "write": []}
    for _ in range(options.repeat + 1):  # in turn; the first is to warm up
        for name, run in (("plain", plain), ("step", step)):
            runs[name].append(meter.of(lambda run=run: run(live, prepared, options)))
        runs["write"].append(meter.of(lambda: write(live, prepared, options)))
    seconds = {name: [time for time, _ in measured[1:]] for name, measured in runs.items()}
    peaks = {name: median(peak for _, peak in measured[1:]) for name, measured in runs.items()}
    ratio = median(b / a for a, b in zip(seconds["plain"], seconds["step"], strict=True))
    within = (peaks["plain"] - meter.begun) / 1e6
    more = (peaks["step"] - peaks["plain"]) / 1e6
    blocks = (len(prepared.plan.jobs[0].inputs) + 2) * source.block * 4 / 1e6
    plainly, stepped, written = (median(seconds[name]) for name in ("plain", "step", "write"))
    return f"{plainly:9.3f}{stepped:9.3f}{ratio:7.2f}{written:9.3f}{within:9.0f}{more:9.0f}{blocks:9.1f}"


class Meter:
    """Seconds and peak bytes of a call, on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begun = self.of(lambda: None)[1]

    def of(self, run: Callable[[], None]) -> tuple[float, int]:
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
        begin = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - begin
        return seconds, torch.cuda.max_memory_allocated(self.device) if cuda else memory("VmHWM")


def plain(live: LiveModel, prepared: Prepared, options: argparse.Namespace) -> None:
    """Forward and backward with every weight's gradient made and dropped at once."""
    with contracting(live, prepared.plan.jobs, lambda *_: None):
        loss(live.model, options.tokens).backward()


def step(live: LiveModel, prepared: Prepared, options: argparse.Namespace) -> None:
    plan = prepared.plan
    wanted = WANTED & set(options.wanted.split(",")) & SCHEMAS[plan.method].parameters.keys()
    gradient: CoefficientGradient | RefinementGradient
    if options.refine:
        gradient = RefinementGradient(live, plan, options.refine)
    else:
        gradient = CoefficientGradient(live, plan, {job.tensor: wanted for job in plan.jobs})
    with contracting(live, plan.jobs, gradient):
        loss(live.model, options.tokens).backward()
    gradient.values()


def write(live: LiveModel, prepared: Prepared, options: argparse.Namespace) -> None:
    """What precedes a step: the merge, written into the model; nothing is remembered from before."""
    numbers = {} if options.refine is None else empty(prepared.plan, options.refine)
    LiveModel(live.model, live._views, live.source).write(prepared.plan, Refinement(numbers))


def report_child(options: argparse.Namespace, root: Path) -> None:
    models = [make_model(root / f"model{i}", size_of(options.child_size), i) for i in range(3)]
    command = [sys.executable, "-W", "ignore", __file__, "--tokens", str(options.tokens), "--child", *map(str, models)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    weights, peak = found["weights"] / 1e9, found["peak"] / 1e9
    print(f"{options.child_size} bfloat16, 2 sources read from files, {options.tokens} tokens: ", end="")
    print(f"{found['writing']:.0f} s to write the model, {found['step']:.0f} s the step,")
    print(f"peak {peak:.2f} GB without mapped files, of which the live model {weights:.2f} GB")


def child(models: list[Path], options: argparse.Namespace) -> dict[str, float]:
    prepared = of("task_arithmetic", models)
    with opened_readers(prepared.checkpoints) as readers:
        begin = time.perf_counter()
        live = living(prepared, FileSource(readers, prepared.checkpoints), torch.bfloat16)
        written = time.perf_counter()
        step(live, prepared, options)
    peak = memory("VmHWM") - memory("RssFile")
    times = {"writing": written - begin, "step": time.perf_counter() - written}
    return {**times, "peak": peak, "weights": prepared.plan.nbytes}


def report_shares(zoo: Path) -> None:
    """Correlation of estimates of dL/dρ with the loss's own symmetric difference, over matrices and sources."""
    estimates = [f"h={h}" for h in HALF_WIDTHS] + [f"T={t}" for t in TEMPERATURES]
    print(
        f"{zoo.name}: secant of half width h, straight-through at T thresholds; correlation with the loss's difference"
    )
    print(f"{'':26}" + "".join(f"{name:>9}" for name in estimates))
    for method, share in SHARES:
        shares = Shares.of(zoo, method, share)
        gradients = shares.gradients()
        rows = [shares.secants(gradients, h) for h in HALF_WIDTHS]
        rows += [shares.straight_through(gradients, t) for t in TEMPERATURES]
        for move in MOVES:
            truth = shares.differences(move)
            found = [float(torch.corrcoef(torch.stack([row, truth]))[0, 1]) for row in rows]
            print(f"{f'{method} {share} over ±{move}':26}" + "".join(f"{r:9.2f}" for r in found), flush=True)


@dataclass(frozen=True)
class Shares:
    """A merge of a family's specialists, all of one density, and the loss of its tasks' items."""

    prepared: Prepared
    live: LiveModel
    loss: Callable[[], Any]

    @classmethod
    def of(cls, zoo: Path, method: str, share: float) -> "Shares":
        tasks = sorted(folder.name for folder in zoo.iterdir() if folder.name in TASKS)
        listed = "".join(
            f"\n  - {{model: {zoo / task}, parameters: {{weight: 0.5, density: {share}}}}}" for task in tasks
        )
        merge = f"merge_method: {method}\nbase_model: {zoo / 'base'}\nmodels:{listed}\n"
        prepared = prepared_of(merge + "parameters: {normalize: false}\ndtype: float32\n")
        live = living(prepared, resident(prepared), torch.float32)
        rng, tokenize = Random(0), make_tokenizer(CONTEXT)
        items = [TASKS[task].item(rng, held_out=False) for task in tasks for _ in range(ITEMS)]
        parts = [(item.question, item.line[len(item.question) :]) for item in items]
        prompts, answers = ([tokenize(text)["input_ids"] for text in texts] for texts in zip(*parts, strict=True))
        tokens, weights = collate(prompts, answers)
        return cls(prepared, live, lambda: weighted_loss(live.model(tokens, use_cache=False).logits, tokens, weights))

    @property
    def jobs(self) -> list[Job]:
        """Every second matrix."""
        return [job for job in self.prepared.plan.jobs if len(job.shape) == 2][::2]

    def gradients(self) -> dict[str, Tensor]:
        """dL/dW of every job's tensor, flat."""
        found: dict[str, Tensor] = {}
        with contracting(self.live, self.jobs, lambda job, g: found.update({job.tensor: g.flatten().double()})):
            self.loss().backward()
        return found

    def moved(self, job: Job, by: float) -> list[tuple[Job, Job, float]]:
        """Per source: the job with its density moved down and up, and how far apart these are."""
        return [
            (down, up, up.coefficients["density"][i] - down.coefficients["density"][i])
            for i in range(len(job.inputs))
            for down, up in [(at(job, i, -by), at(job, i, by))]
        ]

    def secants(self, gradients: Mapping[str, Tensor], half: float) -> Tensor:
        """⟨G, W(ρ+h) − W(ρ−h)⟩ / 2h, as `CoefficientGradient` takes it."""
        method, source, seed = METHODS[self.prepared.plan.method], self.live.source, self.prepared.plan.seed

        def merged(job: Job) -> Tensor:
            return torch.cat([*compute(job, method, source, seed, memo=self.live.memo(job))])

        slopes = [
            gradients[job.tensor] @ (merged(up) - merged(down)).double() / width
            for job in self.jobs
            for down, up, width in self.moved(job, half)
        ]
        return torch.stack(slopes)

    def differences(self, half: float) -> Tensor:
        """(L(ρ+h) − L(ρ−h)) / 2h, one density of one tensor moved at a time."""
        plan = self.prepared.plan

        def loss_with(moved: Job) -> float:
            self.live.write(replace(plan, jobs=tuple(moved if j.tensor == moved.tensor else j for j in plan.jobs)))
            with torch.no_grad():
                return float(self.loss())

        slopes = [
            (loss_with(up) - loss_with(down)) / width for job in self.jobs for down, up, width in self.moved(job, half)
        ]
        self.live.write(plan)
        return torch.tensor(slopes, dtype=torch.float64)

    def straight_through(self, gradients: Mapping[str, Tensor], temperature: float) -> Tensor:
        """Forward the hard mask, backward sigmoid((size − threshold) / T), T in thresholds."""
        return torch.cat([self._straight_through(job, gradients[job.tensor], temperature) for job in self.jobs])

    def _straight_through(self, job: Job, gradient: Tensor, temperature: float) -> Tensor:
        plan, method = self.prepared.plan, METHODS[self.prepared.plan.method]
        parts = list(chunks_of(job, self.live.source))
        base = torch.cat([part.base for part in parts if part.base is not None])
        sources = [torch.cat([part.sources[i] for part in parts]) for i in range(len(job.inputs))]
        arguments, draws = method.arguments(job.coefficients), Draws(plan.seed, job.tensor)
        found = self.live.whole(job, plan)
        share = arguments["density"].clone().requires_grad_()
        if hasattr(found, "cutoffs"):
            sizes = [delta.abs() for delta in deltas(sources, base)]
            limits = [cut.magnitude for cut in found.cutoffs]
            masks = masks_of(share, sizes, limits, temperature)
            found = replace(found, cutoffs=[SoftCutoff(c, m) for c, m in zip(found.cutoffs, masks, strict=True)])
        else:
            sizes = [drawn(draws, i, base) for i in range(len(sources))]
            limits = [1 - d for d in arguments["density"].tolist()]
            draws = SoftDraws(plan.seed, job.tensor, masks_of(share, sizes, limits, temperature))
            assert method.measure is not None
            found = method.measure(Chunks.of(sources, base), arguments["density"], arguments["rescale"], draws)
        merged = method.combine(sources, base, arguments, whole=found, start=0, row=row_of(job.shape), draws=draws)
        slope: Tensor = torch.autograd.grad(merged, share, gradient.to(merged.dtype))[0]
        return slope


def at(job: Job, source: int, by: float) -> Job:
    density = list(job.coefficients["density"])
    density[source] = min(density[source] + by, 1.0)
    return replace(job, coefficients={**job.coefficients, "density": tuple(density)})


def masks_of(share: Tensor, sizes: list[Tensor], limits: list[float], temperature: float) -> list[Tensor]:
    """Per source [numel]: zeros whose derivative by the share is the soft mask's, scaled to keep numel per unit."""
    masks = []
    for i, (size, limit) in enumerate(zip(sizes, limits, strict=True)):
        soft = torch.sigmoid((size - limit) / (temperature * max(limit, 1e-12)))
        slope = soft * (1 - soft)
        masks.append(slope * (size.numel() / slope.sum()) * (share[i] - share[i].detach()))
    return masks


def drawn(draws: Draws, ordinal: int, like: Tensor) -> Tensor:
    """Per element [numel]: 1 − the density from which on it is kept, found between levels."""
    kept = sum(draws.keep(ordinal, 0, like, (level + 0.5) / LEVELS).float() for level in range(LEVELS))
    assert isinstance(kept, Tensor)
    return kept / LEVELS


@dataclass(frozen=True)
class SoftCutoff:
    hard: Cutoff
    soft: Tensor

    def keep(self, delta: Tensor, start: int) -> Tensor:
        return self.hard.keep(delta, start) + self.soft[start : start + delta.numel()]

    def trimmed(self, delta: Tensor, start: int) -> Tensor:
        return delta * self.keep(delta, start)


@dataclass(frozen=True, slots=True)
class SoftDraws(Draws):
    soft: list[Tensor]

    def keep(self, ordinal: int, start: int, like: Tensor, density: float) -> Tensor:
        hard = Draws.keep(self, ordinal, start, like, density)
        return hard + self.soft[ordinal][start : start + like.numel()]


def of(method: str, models: list[Path]) -> Prepared:
    density = ", density: 0.5" if "density" in SCHEMAS[method].parameters else ""
    listed = "".join(f"\n  - {{model: {model}, parameters: {{weight: 0.5{density}}}}}" for model in models[1:])
    return prepared_of(f"merge_method: {method}\nbase_model: {models[0]}\nmodels:{listed}\ndtype: bfloat16\n")


def prepared_of(text: str) -> Prepared:
    recipe = read_recipe(parse_document(text, "bench.yaml"), SCHEMAS).recipe
    return prepare(recipe, open_models(recipe.models, None))


def hollow_model(folder: Path, size: int) -> Path:
    """A model whose file has a header and a hole: for sources that are drawn on the device."""
    if (folder / "config.json").is_file():
        return folder
    config, tensors = tensors_of(size)
    head, _ = encode_header([(name, "bfloat16", shape) for name, shape in tensors], None)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(2 * prod(shape) for _, shape in tensors))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def resident(prepared: Prepared, device: torch.device = CPU) -> ResidentSource:
    items = [item for job in prepared.plan.jobs for item in job.reads]
    if device.type == "cpu":
        return ResidentSource.load(items, prepared.checkpoints, device)
    sizes = {item: prod(job.shape) for job in prepared.plan.jobs for item in job.reads}
    drawn = {item: torch.empty(size, dtype=torch.bfloat16, device=device) for item, size in sizes.items()}
    generator = torch.Generator(device).manual_seed(0)
    return ResidentSource({item: tensor.normal_(0, 0.02, generator=generator) for item, tensor in drawn.items()})


def living(prepared: Prepared, source: TensorSource, dtype: torch.dtype, device: torch.device = CPU) -> LiveModel:
    folder = prepared.checkpoints[prepared.recipe.donor].folder
    model = skeleton(folder, prepared.config, device, dtype)
    live = LiveModel(model, bind(model, [job.tensor for job in prepared.plan.jobs]), source)
    live.write(prepared.plan)
    return live


def loss(model: Any, tokens: int) -> Any:
    batch = torch.randint(0, 32_000, (tokens // 256, 256), generator=torch.Generator().manual_seed(0))
    batch = batch.to(model.device)
    return model(batch, labels=batch, use_cache=False).loss


def memory(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
