"""A search from file to winner: references, trials, finalists, report.

`prepare_search` reads and checks everything without touching weights; `run_search` does the work. Each phase leaves its
facts in the record, so a study can be stopped anywhere and resumed.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergeopt.errors import InputError, MergeoptError, placed
from mergeopt.files import find_file
from mergeopt.merge.folder import Prepared, prepare
from mergeopt.merge.plan import lay_out, unmatched_filters
from mergeopt.merge.sources import Checkpoints, facts, open_models
from mergeopt.methods import SCHEMAS
from mergeopt.optimizers import Start, create
from mergeopt.optimizers.base import Request
from mergeopt.recipe.document import Document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.recipe import ModelRef, Recipe
from mergeopt.recipe.shape import Shape
from mergeopt.recipe.write import recipe_data, to_yaml
from mergeopt.scoring.base import EvalInfo, EvalScore, Scores, Split
from mergeopt.scoring.objective import Reference
from mergeopt.scoring.statistics import detectable
from mergeopt.scoring.suite import Suite
from mergeopt.space.space import Space, parse_space
from mergeopt.study.evals import with_files
from mergeopt.study.events import Listener, Notice, Phase, Scored
from mergeopt.study.loop import Budget, Loop, Measured, Point
from mergeopt.study.record import StudyRecord, Trial
from mergeopt.study.references import Contender, contenders, named
from mergeopt.study.result import Result, choose, report_rows, rival_of
from mergeopt.study.searchfile import SearchFile
from mergeopt.study.starts import nearest_point
from mergeopt.study.tokenizer import load_tokenizer
from mergeopt.study.workbench import FAILURES, Compute, Workbench


@dataclass(frozen=True)
class SearchJob:
    """A search, read and checked; no weights read."""

    file: SearchFile
    space: Space
    recipe: Recipe  # the first branch at its init: names the models
    checkpoints: Checkpoints
    contenders: tuple[Contender, ...]
    suite: Suite
    near: Path | None
    notices: tuple[str, ...]

    def recipe_at(self, branch: int, point: Sequence[float]) -> Recipe:
        """The plain recipe of a point."""
        data = {"seed": self.file.optimize.seed} | self.space.branches[branch].recipe(point)
        return read_recipe(Document(data, self.file.recipe.source), SCHEMAS).recipe

    def detectable(self) -> float:
        """The smallest difference in the mean of the evals' 0/1 scores that the report items show with power 0.8."""
        terms = [info for info in self.suite.evals if not info.entry.is_constraint]
        per_eval = [detectable(info.count("report")) for info in terms]
        return float(np.sqrt(np.sum(np.square(per_eval))) / len(terms))


def prepare_search(
    file: SearchFile, near: Path | None, *, trust_eval_code: bool = False, allow_benchmark: bool = False
) -> SearchJob:
    """Opens models by their headers, parses the space, plans every branch, divides the items; no weights are read.

    Args:
        file: From `read_search_file`.
        near: The search file's folder: paths are looked up there after the working folder.
        trust_eval_code: Allow evals to run local code.
        allow_benchmark: Allow searching on a benchmark's test split.

    Raises:
        InputError: anything that would make the search fail later.
    """
    with placed(file.recipe.source):
        return _prepared(file, near, trust_eval_code, allow_benchmark)


def _prepared(file: SearchFile, near: Path | None, trust_eval_code: bool, allow_benchmark: bool) -> SearchJob:
    if file.optimize.method == "gradient" or not file.optimize.portable:
        raise InputError(
            "learning by gradient is not available yet", where="optimize", remedy="use method: auto and portable: true"
        )
    opened: dict[ModelRef, Any] = {}

    def shape_of(ref: ModelRef) -> Shape:
        if ref not in opened:
            opened.update(open_models([ref], near))
        shape: Shape = opened[ref].shape
        return shape

    space = parse_space(file.recipe, schemas=SCHEMAS, shape_of=shape_of)
    if len(space.branches) == 1:  # a hole that one choice has no use for may serve another
        for text in space.notices:
            if text.endswith("no tensor takes its value from it"):
                raise InputError(text, remedy="mend its filter, or leave it out")
    notices = [*file.notices, *space.notices]
    recipes = []
    for branch in space.branches:
        reading = read_recipe(Document(branch.recipe(branch.init), file.recipe.source, file.recipe.lines), SCHEMAS)
        if reading.notices:  # in a search file nothing may be said in vain
            raise InputError(reading.notices[0])
        recipes.append(reading.recipe)
        for ref in reading.recipe.models:
            shape_of(ref)
        layout = lay_out(reading.recipe, facts(opened), SCHEMAS[reading.recipe.method])
        for problem in unmatched_filters(layout, reading.recipe):
            raise InputError(problem, where=file.recipe.source)
    listed = named(file.optimize.start, file.optimize.compare, near, recipes[0])
    opened.update(open_models([r for c in listed for r in c.recipe.models if r not in opened], near))
    _check_learning(file, near)
    found, left = contenders(recipes[0], listed, opened)
    suite = Suite.build(
        with_files(file.objective, near),
        tokenizer=load_tokenizer(opened[recipes[0].donor].folder),
        near=near,
        shares=file.optimize.splits.shares,
        seed=file.optimize.seed,
        trust_eval_code=trust_eval_code,
        allow_benchmark=allow_benchmark,
    )
    notices += [*left, *suite.notices]
    if len(space.branches) == 1 and not space.branches[0].dimensions:
        notices.append("the recipe has no holes: nothing is searched, it is only compared")
    if file.learn is not None:
        notices.append(f"learn: has no effect on method {file.optimize.method}")
    return SearchJob(file, space, recipes[0], opened, found, suite, near, tuple(dict.fromkeys(notices)))


def _check_learning(file: SearchFile, near: Path | None) -> None:
    """Teachers and prompts are read by the gradient only, but must exist: a misspelt one should not wait for that."""
    for entry in file.objective:
        if entry.teacher is not None:
            open_models([ModelRef.parse(entry.teacher, f"objective {entry.eval} teacher")], near)
    for prompts in file.learn.prompts if file.learn else ():
        find_file(prompts.file, near, "evals")
        if prompts.teacher is not None:
            open_models([ModelRef.parse(prompts.teacher, f"learn.prompts {prompts.file} teacher")], near)


def layers_near(near: Path | None) -> Callable[[ModelRef], int]:
    """Counts a model's layers, from its headers."""
    return lambda ref: open_models([ref], near)[ref].shape.layers


@dataclass(frozen=True)
class Found:
    """What `run_search` gives: the result, and the winner ready to be written."""

    result: Result
    winner: Contender
    prepared: Prepared


def run_search(job: SearchJob, record: StudyRecord, compute: Compute, listener: Listener) -> Found:
    """Runs or resumes the study.

    Args:
        job: From `prepare_search`.
        record: New or resumed.
        compute: Device, dtype and batch size.
        listener: Told what happens.

    Raises:
        MergeoptError: base or every parent fails to score (NaN), or the record is of another study.
    """
    for text in job.notices:
        listener(Notice(text))
    check_compute(record, compute)
    if job.near is not None and not record.notes("near"):
        record.note("near", {"folder": str(job.near.resolve())})
    study = Study(job, record, Workbench(job.checkpoints, job.suite, compute), listener)
    reference = study.reference()
    trials = study.search(reference)
    winner = study.select(trials, reference)
    result = study.report(winner, trials, reference)
    return Found(result, winner, prepare(winner.recipe, job.checkpoints))


def check_compute(record: StudyRecord, compute: Compute) -> None:
    """A study is run in one precision: scores of two would stand in one history.

    Raises:
        InputError: it was begun on another kind of device or in another dtype.
    """
    given = {"device": compute.device.type, "dtype": str(compute.dtype).removeprefix("torch.")}
    if not record.notes("compute"):
        record.note("compute", given)
    begun = record.notes("compute")[0]
    for key, value in given.items():
        if begun[key] != value:
            raise InputError(
                f"the study was begun with --{key} {begun[key]}, not {value}", remedy="resume it with that"
            )


class Study:
    """The phases of a search, over one workbench; `run_search` runs them in order."""

    def __init__(self, job: SearchJob, record: StudyRecord, bench: Workbench, listener: Listener) -> None:
        self.job, self.record, self.bench, self.listener = job, record, bench, listener
        self.forced: frozenset[str] = frozenset()
        self.consensus: tuple[int, Point] | None = None  # where the search believes the optimum to be

    def reference(self) -> Reference:
        """Scores every contender on the search items, and finds which evals may be judged by teacher forcing."""
        self.listener(Phase("references", len(self.job.contenders)))
        self.forced = self._forced()
        scored = {c.name: self._score(c, "search", self.forced) for c in self.job.contenders}
        by_kind = {
            kind: {c.name: s for c in self.job.contenders if c.kind == kind and (s := scored[c.name]) is not None}
            for kind in ("base", "parent")
        }
        uniform = next((scored[c.name] for c in self.job.contenders if c.kind == "fixed"), None)  # the first of them
        base = next(iter(by_kind["base"].values()), uniform) or next(iter(by_kind["parent"].values()), None)
        if base is None or not by_kind["parent"]:
            raise InputError(
                "neither base nor parents give finite scores", remedy="check the models with `mergeopt eval`"
            )
        return Reference(self.job.suite.evals, base, by_kind["parent"], uniform)

    def _forced(self) -> frozenset[str]:
        """Evals that one teacher-forced pass judges, for base and every parent, item by item, as generating does."""
        kept = self.record.notes("forced")
        if kept:
            return frozenset(kept[-1]["evals"])
        agreed: dict[str, bool] = {}
        for contender in self.job.contenders:
            if contender.kind in ("base", "parent"):
                try:
                    found = self.bench.forcing_agrees(contender.recipe, "search")
                except FAILURES:
                    continue
                agreed = {name: ok and agreed.get(name, True) for name, ok in found.items()}
        forced = frozenset(name for name, ok in agreed.items() if ok)
        self.record.note("forced", {"evals": sorted(forced)})
        return forced

    def search(self, reference: Reference) -> list[Trial]:
        """The trials."""
        options = self.job.file.optimize
        bounded = options.trials is not None or (options.tokens is None and options.time is None)
        self.listener(Phase("search", options.most_trials if bounded else None))
        branches = self.job.space.branches
        optimizer = create(
            options.method,
            [branch.dimensions for branch in branches],
            seed=options.seed,
            trials=self._planned_trials(reference),
            starts=self._starts(),
            batch=options.batch,
        )
        loop = Loop(optimizer, branches, self, reference, self.record, batch=options.batch, listener=self.listener)
        trials = loop.run(Budget(options.most_trials, options.tokens, options.time))
        self.consensus = optimizer.consensus() if trials else None
        return trials

    def _planned_trials(self, reference: Reference) -> int:
        """The budget the study was begun with: proposals depend on it; a larger one on resuming only goes on longer."""
        if not self.record.notes("planned"):
            expected = self.job.file.optimize.expected_trials(reference.base.tokens)
            self.record.note("planned", {"trials": expected})
        return int(self.record.notes("planned")[0]["trials"])

    def _starts(self) -> list[Start]:
        """The recipes of `optimize.start` as points; one that the space cannot say exactly is named."""
        branches = [(b, self.job.recipe_at(i, b.init)) for i, b in enumerate(self.job.space.branches)]
        found = []
        for contender in self.job.contenders:
            if contender.kind != "start":
                continue
            recipe = contender.recipe
            fitted = nearest_point(recipe, self.bench.plan(recipe), branches, SCHEMAS[recipe.method])
            if fitted is None:
                self.listener(Notice(f"start {contender.name!r} is compared, but no point of the space is near it"))
                continue
            if not fitted.exact:
                text = f"start {contender.name!r} is no point of the space; the search begins at the nearest one"
                self.listener(Notice(f"{text} (coefficients differ by {fitted.error:.2g})"))
            found.append(fitted.start)
        return found

    def measure(self, requests: Sequence[Request]) -> Iterator[Measured]:
        """The executor in this process: one candidate after the other in the live model."""
        for request in requests:
            recipe = self.job.recipe_at(request.branch, request.point)
            try:
                yield Measured(self.bench.measure(recipe, request.split, forced=self.forced))
            except FAILURES:
                yield Measured(None)

    def select(self, trials: Sequence[Trial], reference: Reference) -> Contender:
        """Scores the finalists and everything known on the select items, and chooses."""
        finalists = self._finalists(trials)
        known = [c for c in self.job.contenders if c.eligible]
        self.listener(Phase("select", len(finalists) + len(known)))
        first = [(c, s) for c in finalists if (s := self._score(c, "select")) is not None]
        second = [(c, s) for c in known if (s := self._score(c, "select")) is not None]
        winner = choose(first, second, reference)
        if winner.kind != "learned":
            self.listener(Notice(f"no finalist beats {winner.name!r} on the select items: it is what is returned"))
        return winner

    def _finalists(self, trials: Sequence[Trial]) -> list[Contender]:
        """The best distinct trials on the search items, and where the optimizer believes the optimum to be."""
        names = [branch.name for branch in self.job.space.branches]
        complete = [t for t in trials if t.value is not None]
        ranked = sorted(complete, key=lambda t: (-t.violation, t.value or 0.0), reverse=True)
        points: dict[tuple[int, Point], str] = {}
        for trial in ranked:
            branch = names.index(trial.branch)
            point = tuple(trial.params[d.name] for d in self.job.space.branches[branch].dimensions)
            points.setdefault((branch, point), f"trial {trial.number}")
            if len(points) == self.job.file.optimize.finalists:
                break
        if self.consensus is not None:
            branch, centre = self.consensus
            points.setdefault((branch, self.job.space.branches[branch].rounded(centre)), "consensus")
        return [Contender(n, "learned", self.job.recipe_at(b, p)) for (b, p), n in points.items()]

    def report(self, winner: Contender, trials: Sequence[Trial], reference: Reference) -> Result:
        """The final table, on items that nothing so far has seen."""
        others = [c for c in self.job.contenders if c.name != winner.name]
        self.listener(Phase("report", len(others) + 1))
        readings = self._readings(winner)
        scored = [(c, s) for c in [winner, *others] if (s := self._score(c, "report")) is not None]
        if not scored or scored[0][0] is not winner:
            raise MergeoptError(f"the winner, {winner.name!r}, gives NaN or infinity on the report items")
        rows = report_rows(scored, winner, reference)
        rival = rival_of(rows, winner)
        notices = list(self.job.notices)
        if readings > 1:
            notices.append(f"the report items were read {readings} times: they are no longer fresh")
            self.listener(Notice(notices[-1]))
        claimed = next((t.value for t in trials if winner.name == f"trial {t.number}"), None)
        return Result(
            winner=winner.name,
            learned=winner.kind == "learned",
            rows=rows,
            rival=rival.name if rival else None,
            gain=rival.against if rival else None,
            trials=len(trials),
            failed=sum(trial.state == "failed" for trial in trials),
            seconds=sum(trial.seconds for trial in trials),
            tokens=sum(trial.tokens for trial in trials),
            items={
                info.name: {split: info.count(split) for split in ("search", "select", "report")}
                for info in self.job.suite.evals
            },
            search_value=claimed,
            notices=tuple(notices),
        )

    def _readings(self, winner: Contender) -> int:
        """How often the report items were read for a decision, this one included; going on with one is no other."""
        key = _digest(to_yaml(recipe_data(winner.recipe)))
        if all(note.get("winner") != key for note in self.record.notes("report")):
            reading = len(self.record.notes("report")) + 1
            self.record.note("report", {"reading": reading, "by": "search", "winner": key})
        return len(self.record.notes("report"))

    def _score(self, contender: Contender, split: Split, forced: frozenset[str] = frozenset()) -> Scores | None:
        """Scores a contender once; a resumed study finds it in the record. None: NaN or infinity."""
        key = _digest(to_yaml(recipe_data(contender.recipe)))
        kept = next((n for n in self.record.notes("score") if (n["recipe"], n["split"]) == (key, split)), None)
        if kept is not None:
            scores = _thawed(kept, self.job.suite.evals)
        else:
            try:
                scores = self.bench.measure(contender.recipe, split, forced=forced)
            except FAILURES as error:
                self.listener(Notice(f"{contender.name!r} cannot be scored: {error}"))
                return None
            self.record.note("score", {"name": contender.name, "recipe": key} | _frozen(scores))
        self.listener(Scored(contender.name, split, scores))
        return scores


def _frozen(scores: Scores) -> dict[str, Any]:
    evals = {score.name: {"value": score.value, "items": score.items.tolist()} for score in scores}
    return {"split": scores.split, "tokens": scores.tokens, "evals": evals}


def _thawed(note: Mapping[str, Any], infos: Sequence[EvalInfo]) -> Scores:
    evals = {}
    for info in infos:
        kept = note["evals"][info.name]
        items = np.array(kept["items"], dtype=np.float64)
        evals[info.name] = EvalScore(info.name, info.metric, kept["value"], items, info.higher_is_better)
    return Scores(note["split"], evals, note["tokens"])


def open_record(job: SearchJob, folder: Path, *, resume: bool) -> StudyRecord:
    """A new record in `folder`, or the one to go on with.

    Raises:
        InputError: nothing to resume, or a study of something else.
    """
    space = {branch.name: branch.dimensions for branch in job.space.branches}
    opener = StudyRecord.resume if resume else StudyRecord.create
    return opener(folder, space=space, identity=identity(job), storage=job.file.optimize.storage)


def identity(job: SearchJob) -> dict[str, Any]:
    """What makes a study this one: recipe, objective, options, models and items. Budgets may grow on resuming."""
    options = job.file.optimize.model_dump(mode="json", exclude={"trials", "tokens", "time", "storage", "finalists"})
    return {
        "recipe": job.file.recipe.data,
        "objective": [entry.model_dump(mode="json") for entry in job.file.objective],
        "optimize": options,
        "models": {str(ref): [_stamp(file) for file in c.files] for ref, c in job.checkpoints.items()},
        "items": {
            info.name: {s: len(h) and _digest("".join(h)) for s, h in info.hashes.items()} for info in job.suite.evals
        },
    }


def _stamp(file: Path) -> str:
    """Name, size and time of change: another model under an old name is another study."""
    facts = file.stat()
    return f"{file.name} {facts.st_size} {facts.st_mtime_ns}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
