"""What a trial costs beside the model's forward passes.

Four tasks of 64 items each by default, on the demo zoo: per trial the time in the model, the time to write the
candidate into the live model (beside the time to copy as many weights), and everything else, against the budget of
15 ms + 0.1 ms per item + twice the copy. Usage: scripts/bench_search.py [--zoo runs/zoo] [--trials 40] [--items 64]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from mergeopt.recipe.document import parse_document
from mergeopt.scoring.base import Scores, Split
from mergeopt.study.events import nobody
from mergeopt.study.job import layers_near, open_record, prepare_search
from mergeopt.study.search import Study
from mergeopt.study.searchfile import read_search_file
from mergeopt.study.workbench import Compute, Workbench
from mergeopt.zoo.spec import DEMO

SPACE = """
recipe:
  merge_method: {method}
  base_model: {zoo}/base
  models:
{models}
  dtype: float32
objective: [{evals}]
optimize:
  method: {optimizer}
  trials: {trials}
  seed: 1
  finalists: 1
  splits: {{calibrate: 0, search: {items}, select: 60, report: 1}}
"""


class Clock:
    """Adds up seconds between `start` and `stop`."""

    def __init__(self) -> None:
        self.total, self._begun = 0.0, 0.0

    def start(self, *_: object) -> None:
        self._begun = time.perf_counter()

    def stop(self, *_: object) -> None:
        self.total += time.perf_counter() - self._begun


class TimedBench(Workbench):
    """A workbench that notes, per measurement, forward, writing and whole time."""

    rows: list[tuple[float, float, float, float]]

    def measure(self, recipe, split: Split, *, forced: frozenset[str] = frozenset(), refinement=None) -> Scores:  # type: ignore[no-untyped-def]
        begun = time.perf_counter()
        plan = self.plan(recipe)
        planned = time.perf_counter()
        bench = self._bench(recipe, plan)
        live, scorer = bench.live, bench.scorer
        clock = Clock()
        hooks = [
            live.model.register_forward_pre_hook(clock.start),
            live.model.register_forward_hook(clock.stop),
        ]
        written = time.perf_counter()
        live.write(plan, refinement)
        done = time.perf_counter()
        scores = scorer.score(split, forced=forced)
        for hook in hooks:
            hook.remove()
        if split == "search":
            end = time.perf_counter()
            self.rows.append((clock.total, done - written, end - begun, planned - begun))
            self.copies.append(_copy_seconds(live.model))
        return scores


def _copy_seconds(model: torch.nn.Module) -> float:
    """The floor of materialising: every parameter copied once."""
    parameters = list(model.parameters())
    twins = [p.detach().clone() for p in parameters]
    begun = time.perf_counter()
    with torch.no_grad():
        torch._foreach_copy_(parameters, twins)
    return time.perf_counter() - begun


def bench(zoo: Path, method: str, optimizer: str, trials: int, items: int) -> str:
    """One study; a line of medians in ms."""
    tasks = [specialist.task for specialist in DEMO.specialists]
    setting = "{weight: {range: [0, 1.2], init: 0.4, depth: 3}" + (
        ", density: {range: [0.2, 1], init: 0.5}}" if "ties" in method else "}"
    )
    models = "\n".join(f"    - {{model: {zoo}/{task}, parameters: {setting}}}" for task in tasks)
    evals = ", ".join(f"{{eval: evals/{task}.yaml, limit: {items + 62}}}" for task in tasks)
    text = SPACE.format(
        zoo=zoo, method=method, models=models, evals=evals, trials=trials, items=items, optimizer=optimizer
    )
    file = read_search_file(parse_document(text, "bench"), layers_of=layers_near(None))
    job = prepare_search(file, None)
    compute = Compute(torch.device("cpu"))
    timed = TimedBench(job.checkpoints, job.suite, compute)
    timed.rows, timed.copies = [], []
    with tempfile.TemporaryDirectory() as folder, open_record(job, Path(folder), resume=False) as record:
        begun = time.perf_counter()
        study = Study(job, record, timed, nobody)
        study.search(study.reference())
        wall = time.perf_counter() - begun
        own = [trial.seconds for trial in record.trials]
    rows = timed.rows[-len(own) :]
    forward, write, whole, plan = (1e3 * statistics.median(row[i] for row in rows) for i in range(4))
    copy = 1e3 * statistics.median(timed.copies)
    count = sum(info.count("search") for info in job.suite.evals)
    rest = whole - forward - write
    budget = 15 + 0.1 * count + 2 * copy
    numbers = max(len(branch.dimensions) for branch in job.space.branches)
    columns = (
        f"{method:16s} {optimizer:7s} {numbers:3d} numbers  {count} items",
        f"forward {forward:6.1f}  write {write:5.1f} (copy {copy:4.2f})  plan {plan:4.2f}  rest {rest:5.1f}",
        f"all but forward {whole - forward:6.1f}  budget {budget:5.1f}",
        f"wall per trial {1e3 * wall / max(len(own), 1):6.1f}",
    )
    return "  |  ".join(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("runs/zoo"))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--items", type=int, default=64)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians in ms per trial")
    for method, optimizer in (("task_arithmetic", "random"), ("task_arithmetic", "cmaes"), ("ties", "random")):
        print(bench(options.zoo, method, optimizer, options.trials, options.items), flush=True)


if __name__ == "__main__":
    main()
