#!/usr/bin/env python
"""How good is the learned merge, on families that nobody tuned it for?

Trains the families of `mergeopt.zoo.families` (or takes what is there) and merges each in every way: without search,
by black-box search, by gradient, by `auto`, below the tensor, with and without unlabelled prompts; and scores all on
the same fresh items. Everything that learns has the same holes (one weight per source, layer and module) and about the
same budget in forward tokens (a backward pass counts two). Results are kept per family and seed, so the script can be
stopped and run again.

    scripts/bench_learning.py --families demo,eight,qwen,neox --seeds 0,1,2 --folder runs/learning
    scripts/bench_learning.py --table
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

from mergeopt.cli.common import quiet_libraries
from mergeopt.methods import SCHEMAS
from mergeopt.optimizers import create
from mergeopt.optimizers.base import Outcome, Request
from mergeopt.optimizers.gradient import Gradient
from mergeopt.recipe.document import Document, parse_document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import Recipe
from mergeopt.recipe.write import to_yaml
from mergeopt.scoring.base import Scores
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.learning.curriculum import Curriculum, Domain
from mergeopt.scoring.learning.lessons import Lesson, lessons_of
from mergeopt.scoring.learning.loss import Kind, evaluate
from mergeopt.study.events import Event, Notice
from mergeopt.study.job import SearchJob, layers_near, open_record, prepare_search
from mergeopt.study.learner import Learner
from mergeopt.study.lessons import CPU_PASS, HELD_OUT, School
from mergeopt.study.record import StudyRecord
from mergeopt.study.search import Study
from mergeopt.study.searchfile import read_search_file
from mergeopt.study.workbench import Compute, Workbench
from mergeopt.zoo.families import FAMILIES
from mergeopt.zoo.family import make_family
from mergeopt.zoo.spec import FamilySpec
from mergeopt.zoo.tasks import get_task

LIMIT = 400  # items per eval: 100 to calibrate, 200 to search, 100 to select; and 400 others to report
CEILING_STEPS = 1500
EVALUATIONS = 100  # of a black-box search on the metric
FINEST = {"range": [-0.5, 1.5], "depth": "layers", "parts": "modules", "outer": "each"}


@dataclass(frozen=True)
class Setting:
    """One family of one seed, ready to be merged and scored."""

    name: str
    spec: FamilySpec
    zoo: Path
    folder: Path

    @property
    def tasks(self) -> list[str]:
        return [specialist.task for specialist in self.spec.specialists]

    def file(
        self,
        *,
        weight: Mapping[str, object],
        optimize: Mapping[str, object],
        learn: Mapping[str, object],
        method: str = "task_arithmetic",
    ) -> str:
        """A search file over this family; by `tsv` from the uniform average too."""
        even = {**weight, "init": round(1 / len(self.tasks), 3)}
        holes = {"apart": {**weight, "init": 0.0}, "plain": even} if method == "tsv" else {"weight": even}
        recipe = {
            "merge_method": method,
            "base_model": str(self.zoo / "base"),
            "models": [{"model": str(self.zoo / task), "parameters": holes} for task in self.tasks],
            "dtype": "float32",
        }
        objective = [{"eval": f"evals/{t}.yaml", "teacher": str(self.zoo / t), "limit": LIMIT} for t in self.tasks]
        compare = [str(self.zoo / "multitask")]
        data = {"recipe": recipe, "objective": objective, "optimize": {**optimize, "compare": compare}, "learn": learn}
        return to_yaml(data)

    def job(self, text: str) -> SearchJob:
        near = Path.cwd()
        file = read_search_file(parse_document(text, "bench"), layers_of=layers_near(near))
        return prepare_search(file, near)

    def prompts(self, count: int) -> list[dict[str, object]]:
        """Questions without answers, none of them held out, one file per specialist."""
        found = []
        for task in self.tasks:
            path = self.folder / "prompts" / f"{task}.jsonl"
            if not path.exists():
                rng, questions = Random(f"prompts/{task}"), dict[str, None]()
                for _ in range(50 * count):
                    questions[get_task(task).item(rng, held_out=False).question] = None
                    if len(questions) == count:
                        break
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(json.dumps({"question": q}) + "\n" for q in questions))
            found.append({"file": str(path), "column": "question", "teacher": str(self.zoo / task)})
        return found


class Columns:
    """Every way to merge one family, each giving per-item outcomes on the report items."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, self.seed = setting, seed
        self.compute = Compute.parse("cpu", "auto", "auto")
        self.path = setting.folder / "results.json"
        self.results: dict[str, dict[str, object]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def keep(self, name: str, scores: Scores, seconds: float, tokens: int) -> None:
        items = {score.name: score.items.astype(int).tolist() for score in scores}
        self.results[name] = {"items": items, "seconds": round(seconds, 1), "tokens": tokens}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results))
        rates = " ".join(f"{score.name} {score.value:.3f}" for score in scores)
        print(f"{self.setting.name}: {name:24s} {rates}  ({seconds:.0f} s)", flush=True)

    # ----------------------------------------------------------------------------------------- without learning

    def known(self) -> None:
        """Parents, fixed recipes, the multi-task model, and the best of a grid of fixed recipes by search items."""
        if "grid" in self.results:
            return
        job = self.setting.job(self.setting.file(weight={"range": [-0.5, 1.5]}, optimize={"seed": self.seed}, learn={}))
        bench = Workbench(job.checkpoints, job.suite, self.compute)
        for contender in job.contenders:
            name = contender.name.removeprefix(f"{self.setting.zoo}/")
            self.keep(name, bench.measure(contender.recipe, "report"), 0, 0)
        base = next(c.recipe for c in job.contenders if c.name == "task_arithmetic 0.4")
        grid = [("task_arithmetic", w, None) for w in (0.15, 0.2, 0.25, 0.3, 0.5, 0.7)]
        grid += [("ties", w, d) for w in (0.5, 1.0) for d in (0.2, 0.5, 0.8)]
        grid += [("dare_ties", w, d) for w in (0.5, 1.0) for d in (0.2, 0.5, 0.8)]
        begun = time.monotonic()
        recipes = [_fixed(base, *entry) for entry in grid] + [c.recipe for c in job.contenders if c.kind == "fixed"]
        means = [float(np.mean([s.value for s in bench.measure(r, "search")])) for r in recipes]
        best = recipes[int(np.argmax(means))]
        self.keep("grid", bench.measure(best, "report"), time.monotonic() - begun, 0)

    # ---------------------------------------------------------------------------------------- black-box searches

    def evolve(self) -> None:
        """CMA-ES as mergekit-evolve sets it up: layer groups, start 1/n, step 1/6 of the range [0, 1], 0/1 metric."""
        if "cma-es, metric" in self.results:
            return
        begun = time.monotonic()
        layers = self.setting.spec.layers
        weight = {"range": [0, 1], "depth": layers // 2 if layers > 3 else layers}
        text = self.setting.file(
            weight=weight, optimize={"method": "cmaes", "trials": EVALUATIONS, "seed": self.seed}, learn={}
        )
        job = self.setting.job(text)
        study, record = self._study(job, "evolve")
        with record:
            reference = study.reference()
            trials = study.search(reference)
            best = max((t for t in trials if t.value is not None), key=lambda t: t.value or 0.0)
            recipe = job.recipe_at(0, [best.params[d.name] for d in job.space.branches[0].dimensions])
            scores = study.bench.measure(recipe, "report")
        self.keep("cma-es, metric", scores, time.monotonic() - begun, sum(t.tokens for t in trials))

    def smooth(self) -> None:
        """CMA-ES and TPE on the likelihood of the right answers, and gradients on entropy, with the finest holes."""
        columns = {"cma-es, likelihood": "cmaes", "tpe, likelihood": "tpe", "gradient, entropy": "gradient"}
        missing = {column: name for column, name in columns.items() if column not in self.results}
        if not missing:
            return
        text = self.setting.file(
            weight=FINEST, optimize={"method": "gradient", "seed": self.seed}, learn={"loss": "nll"}
        )
        job = self.setting.job(text)
        bench = Workbench(job.checkpoints, job.suite, self.compute)
        for column, name in missing.items():
            begun = time.monotonic()
            curriculum = self._curriculum(job, bench, "entropy" if "entropy" in column else "nll")
            recipe, tokens = self._descend(job, bench, name, curriculum)
            self.keep(column, bench.measure(recipe, "report"), time.monotonic() - begun, tokens)

    def _curriculum(self, job: SearchJob, bench: Workbench, kind: Kind) -> Curriculum:
        """The calibrate items under one loss."""
        encoder = bench.encoder(job.recipe)
        names = [info.name for info in job.suite.evals]
        domains = [Domain(name, lessons_of(job.suite, name, "calibrate", encoder), kind) for name in names]
        return Curriculum(
            domains, seed=self.seed, held_out=HELD_OUT, batching=Batching(tokens=CPU_PASS), device=bench.device
        )

    def _descend(self, job: SearchJob, bench: Workbench, name: str, curriculum: Curriculum) -> tuple[Recipe, int]:
        """The best point that an optimizer finds on a smooth loss, for as many tokens as 300 gradients cost."""
        branch = job.space.branches[0]
        learner = Learner(job, bench, curriculum, size=16, pull=0.0)
        optimizer = create(
            name,
            [branch.dimensions],
            seed=self.seed,
            trials=400,
            levels=[branch.levels] if name == "gradient" else None,
        )
        everything = curriculum.part("train")
        best: tuple[float, tuple[float, ...]] = (-np.inf, branch.init)
        spent, budget = 0, None
        while budget is None or spent < budget:
            request = optimizer.ask()
            if request is None:
                break
            request = replace(request, point=branch.rounded(request.point))
            outcome, tokens = self._on_loss(job, bench, learner, everything, request)
            spent += tokens
            budget = budget or 300 * 16 * len(self.setting.tasks) * 3 * max(1, tokens // max(1, _lessons(everything)))
            optimizer.tell(outcome)
            if outcome.value is not None and "gradient" not in request.wants and outcome.value > best[0]:
                best = (outcome.value, request.point)
        return job.recipe_at(0, best[1]), spent

    def _on_loss(
        self, job: SearchJob, bench: Workbench, learner: Learner, everything: Sequence[object], request: Request
    ) -> tuple[Outcome, int]:
        if request.split == "calibrate":
            found = learner.measure(request)
            outcome = Outcome(request, request.point, found.value, items=found.items, gradient=found.gradient)
            return outcome, found.tokens
        losses = evaluate(bench.become(job.recipe_at(0, request.point)).model, everything)  # type: ignore[arg-type]
        return Outcome(request, request.point, -losses.mean), losses.tokens

    def ceiling(self, *, count: int, answers: bool) -> None:
        """What one number per tensor can reach: right answers, or the specialists' distributions, without limit."""
        column = f"ceiling, {'answers' if answers else 'KL'}"
        if column in self.results:
            return
        learn: dict[str, object] = {} if answers else {"prompts": self.setting.prompts(count)}
        text = self.setting.file(weight=FINEST, optimize={"method": "gradient", "seed": self.seed}, learn=learn)
        job = self.setting.job(text)
        study, record = self._study(job, "ceiling")
        with record:
            begun = time.monotonic()
            if answers:
                curriculum = self._answers(job, study.bench, count)
            else:
                taught = School(job, study.bench, study.reference(), _notices).curriculum(("calibrate",))
                assert taught is not None
                curriculum = taught
            recipe, tokens = self._far_down(job, study.bench, curriculum)
            self.keep(column, study.bench.measure(recipe, "report"), time.monotonic() - begun, tokens)

    def _answers(self, job: SearchJob, bench: Workbench, count: int) -> Curriculum:
        """Fresh right answers of every task, none of them to a held-out question."""
        encoder = bench.encoder(job.recipe)
        domains = []
        for name in self.setting.tasks:
            rng = Random(f"ceiling/{name}")
            items = [get_task(name).item(rng, held_out=False) for _ in range(count)]
            pairs = [encoder.pair(item.question, item.answer + "\n") for item in items]
            lessons = [Lesson.of(pair, str(i), max_length=encoder.max_length) for i, pair in enumerate(pairs)]
            domains.append(Domain(name, lessons, "nll"))
        return Curriculum(
            domains, seed=self.seed, held_out=0.05, batching=Batching(tokens=CPU_PASS), device=bench.device
        )

    def _far_down(self, job: SearchJob, bench: Workbench, curriculum: Curriculum) -> tuple[Recipe, int]:
        """The point of the least held-out loss after five times the product's steps."""
        branch = job.space.branches[0]
        learner = Learner(job, bench, curriculum, size=16, pull=0.0)
        optimizer = Gradient(
            branch.dimensions,
            seed=self.seed,
            trials=8,
            starts=[branch.init],
            batch=1,
            levels=branch.levels,
            steps=CEILING_STEPS,
        )
        spent = 0
        while (request := optimizer.ask()) is not None:
            request = replace(request, point=branch.rounded(request.point))
            if request.split != "calibrate":  # the real objective decides nothing here
                optimizer.tell(Outcome(request, request.point, 0.0))
                continue
            found = learner.measure(request)
            spent += found.tokens
            optimizer.tell(Outcome(request, request.point, found.value, items=found.items, gradient=found.gradient))
        assert optimizer.best is not None
        return job.recipe_at(0, branch.rounded(optimizer.best.point)), spent

    def singular(self) -> None:
        """The gradient over task singular vectors beside the deltas as they are: two numbers per tensor and source."""
        if "gradient, tsv" in self.results:
            return
        options = {"method": "gradient", "trials": 32, "seed": self.seed}
        job = self.setting.job(self.setting.file(weight=FINEST, optimize=options, learn={}, method="tsv"))
        begun = time.monotonic()
        study, record = self._study(job, "singular")
        with record:
            study.search(study.reference())
            tokens = sum(one.tokens for one in [*record.trials, *record.steps])
            scores = study.bench.measure(_lowest(job, record), "report")
            self.keep("gradient, tsv", scores, time.monotonic() - begun, tokens)

    # --------------------------------------------------------------------------------------------- the product

    def learned(self, *, prompts: int) -> None:
        """`auto` as users run it, below the tensor; its gradient's best point and its portable choice are kept too."""
        suffix = " + prompts" if prompts else ""
        if f"below{suffix}" in self.results:
            return
        learn = {"prompts": self.setting.prompts(prompts)} if prompts else {}
        text = self.setting.file(
            weight=FINEST, optimize={"trials": 32, "seed": self.seed, "portable": False}, learn=learn
        )
        job = self.setting.job(text)
        begun = time.monotonic()
        study, record = self._study(job, f"auto{suffix}")
        with record:
            reference = study.reference()
            trials = study.search(reference)
            tokens = sum(one.tokens for one in [*record.trials, *record.steps])
            searched = time.monotonic() - begun
            gradient = study.bench.measure(_lowest(job, record), "report")
            portable = study.select(trials, reference)
            at = time.monotonic()
            refined = study.refine(trials, reference)
            below = study.select(trials, reference, refined)
            seconds = searched + time.monotonic() - at
            self.keep(f"gradient{suffix}", gradient, searched, tokens)
            self.keep(f"auto{suffix}", study.book.score(portable, "report"), searched, tokens)
            self.keep(f"below{suffix}", study.book.score(below, "report"), seconds, tokens)

    def _study(self, job: SearchJob, name: str) -> tuple[Study, StudyRecord]:
        import shutil

        folder = self.setting.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        record = open_record(job, folder, resume=False)
        return Study(job, record, Workbench(job.checkpoints, job.suite, self.compute), _notices), record


def _lowest(job: SearchJob, record: StudyRecord) -> Recipe:
    """Where the held-out loss was least."""
    best = max((step for step in record.steps if "items" in step.wants), key=lambda step: step.value or -np.inf)
    return job.recipe_at(0, best.point)


def _notices(event: Event) -> None:
    if isinstance(event, Notice):
        print(f"    {event.text}", flush=True)


def _lessons(batches: Sequence[object]) -> int:
    return sum(len(batch.padded.lessons) for batch in batches)  # type: ignore[attr-defined]


def _fixed(like: Recipe, method: str, weight: float, density: float | None) -> Recipe:
    data = {
        "merge_method": method,
        "base_model": str(like.base),
        "models": [
            {"model": str(s.model), "parameters": {"weight": weight} | ({"density": density} if density else {})}
            for s in like.slices[0].sources
            if s.model != like.base
        ],
        "dtype": "float32",
    }
    return read_recipe(Document(data, "grid"), SCHEMAS).recipe


# ----------------------------------------------------------------------------------------------------------- table


def relative(
    results: Mapping[str, dict[str, dict[str, list[int]]]], tasks: Sequence[str], column: str
) -> dict[str, np.ndarray]:
    """Per task, each report item's outcome over the specialist's score: 1 is as good as the specialist."""
    return {t: np.array(results[column]["items"][t]) / max(1e-9, np.mean(results[t]["items"][t])) for t in tasks}


def score(
    results: Mapping[str, dict[str, dict[str, list[int]]]], tasks: Sequence[str], column: str
) -> tuple[float, float]:
    """The mean over tasks, and its standard error."""
    items = relative(results, tasks, column)
    return _mean(items), _error(items)


def against(
    results: Mapping[str, dict[str, dict[str, list[int]]]], tasks: Sequence[str], a: str, b: str
) -> tuple[float, float]:
    """a − b, paired by item, and its standard error."""
    first, second = relative(results, tasks, a), relative(results, tasks, b)
    difference = {t: first[t] - second[t] for t in tasks}
    return _mean(difference), _error(difference)


def _mean(items: Mapping[str, np.ndarray]) -> float:
    return float(np.mean([x.mean() for x in items.values()]))


def _error(items: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(np.sum([x.var(ddof=1) / len(x) for x in items.values()])) / len(items))


def table(folder: Path) -> None:
    """All results in `folder`, per family (mean over seeds) and pooled, with paired differences."""
    found = {}
    for path in sorted(folder.glob("*/results.json")):
        family = path.parent.name.rstrip("0123456789")
        found[path.parent.name] = (family, json.loads(path.read_text()))
    families = list(dict.fromkeys(family for family, _ in found.values()))
    tasks = {name: [s.task for s in FAMILIES[family].specialists] for name, (family, _) in found.items()}
    columns = list(
        dict.fromkeys(c for name, (_, r) in found.items() for c in r if c not in tasks[name] and c != "base")
    )
    print(f"| | {' | '.join(families)} | all | way to the specialists |\n|---|{'---|' * (len(families) + 2)}")
    for column in ["base", *columns]:
        rows = {n: score(r, tasks[n], column) for n, (_, r) in found.items() if column in r}
        cells = []
        for family in families:
            of = [value for n, (value, _) in rows.items() if found[n][0] == family]
            cells.append(f"{np.mean(of):.3f}" if of else "")
        mean = np.mean([value for value, _ in rows.values()])
        way = [
            (value - score(found[n][1], tasks[n], "uniform")[0]) / (1 - score(found[n][1], tasks[n], "uniform")[0])
            for n, (value, _) in rows.items()
        ]
        half = 1.96 * np.std(way, ddof=1) / np.sqrt(len(way)) if len(way) > 1 else np.nan
        print(f"| {column} | {' | '.join(cells)} | {mean:.3f} | {np.mean(way):+.0%} ± {half:.0%} |")
    print()
    for a in ("auto", "auto + prompts", "below", "below + prompts"):
        for b in [c for c in columns if c != a]:
            pairs = [against(r, tasks[n], a, b) for n, (_, r) in found.items() if a in r and b in r]
            if pairs:
                mean = float(np.mean([p[0] for p in pairs]))
                error = float(np.sqrt(np.sum([p[1] ** 2 for p in pairs])) / len(pairs))
                harm = sum(m + 1.96 * e < 0 for m, e in pairs)
                low, high = mean - 1.96 * error, mean + 1.96 * error
                print(f"{a} − {b}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]; surely worse in {harm} of {len(pairs)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"))
    parser.add_argument("--zoos", type=Path, default=Path("runs/families"))
    parser.add_argument("--prompts", type=int, default=4000, help="unlabelled prompts per specialist")
    parser.add_argument("--columns", default="known,learned,prompts,evolve,smooth")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    options = parser.parse_args()
    if options.table:
        table(options.folder)
        return
    quiet_libraries()
    for seed in map(int, options.seeds.split(",")):
        for family in options.families.split(","):
            spec = replace(FAMILIES[family], seed=seed)
            zoo = options.zoos / f"{family}{seed}"
            make_family(spec, zoo)
            columns = Columns(Setting(f"{family}{seed}", spec, zoo, options.folder / f"{family}{seed}"), seed)
            do: dict[str, Callable[[], None]] = {
                "known": columns.known,
                "learned": lambda columns=columns: columns.learned(prompts=0),  # type: ignore[misc]
                "prompts": lambda columns=columns: columns.learned(prompts=options.prompts),  # type: ignore[misc]
                "evolve": columns.evolve,
                "smooth": columns.smooth,
                "singular": columns.singular,
                "ceiling": lambda columns=columns: columns.ceiling(count=options.prompts, answers=True),  # type: ignore[misc]
                "ceiling-kl": lambda columns=columns: columns.ceiling(count=options.prompts, answers=False),  # type: ignore[misc]
            }
            for name in options.columns.split(","):
                do[name]()


if __name__ == "__main__":
    main()
