"""A search from file to winner: references, trials, finalists, report.

Each phase leaves its facts in the record, so a study can be stopped anywhere and resumed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mergeopt.errors import InputError, MergeoptError
from mergeopt.merge.folder import Prepared, prepare
from mergeopt.methods import SCHEMAS
from mergeopt.optimizers import LEARNING, Start, create
from mergeopt.optimizers.base import Request
from mergeopt.recipe.write import recipe_data, to_yaml
from mergeopt.scoring.base import Scores
from mergeopt.scoring.objective import Reference
from mergeopt.space.branch import Branch
from mergeopt.space.levels import Level
from mergeopt.study.events import Listener, Notice, Phase
from mergeopt.study.job import SearchJob, digest
from mergeopt.study.known import with_closed_forms
from mergeopt.study.learner import Learner
from mergeopt.study.lessons import School
from mergeopt.study.loop import Budget, Loop, Measured, Point
from mergeopt.study.record import StudyRecord, Trial
from mergeopt.study.references import Contender
from mergeopt.study.refine import Refiner, Spent
from mergeopt.study.result import Importance, Result, choose, importance_of, report_rows, rival_of
from mergeopt.study.scorebook import Scorebook, key_of
from mergeopt.study.searchfile import Learn
from mergeopt.study.starts import nearest_point
from mergeopt.study.workbench import FAILURES, Compute, Workbench


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
    study = Study(job, record, Workbench(job.checkpoints, job.suite, compute, speaker=job.speaker), listener)
    reference = study.reference()
    trials = study.search(reference)
    refined = None if job.file.optimize.portable else study.refine(trials, reference)
    winner = study.select(trials, reference, refined)
    result = study.report(winner, trials, reference)
    opened = {ref: job.opened[ref] for ref in winner.recipe.named}
    prepared = replace(prepare(winner.recipe, opened), refinement=winner.refinement)
    return Found(result, winner, prepared)


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
        self.job, self.record, self.bench, self.listener = with_closed_forms(job, record), record, bench, listener
        self.book = Scorebook(record, bench, job.suite.evals, listener)
        self.forced: frozenset[str] = frozenset()
        self.learner: Learner | None = None
        self.importance: tuple[Importance, ...] = ()
        self.refined = Spent()
        self.consensus: tuple[int, Point] | None = None  # where the search believes the optimum to be

    def reference(self) -> Reference:
        """Scores every contender on the search items, and finds which evals may be judged by teacher forcing."""
        self.listener(Phase("references", len(self.job.contenders)))
        self.forced = self._forced()
        scored = {c.name: self.book.score(c, "search", self.forced) for c in self.job.contenders}
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
        branches = self.job.space.branches
        levels = self._learn(reference) if options.method in LEARNING else None
        bounded = options.trials is not None or (options.tokens is None and options.time is None)
        self.listener(Phase("search", options.most_trials if bounded else None))
        planned = self._planned_trials(reference)
        optimizer = create(
            options.method,
            [branch.dimensions for branch in branches],
            seed=options.seed,
            trials=planned,
            starts=self._starts(planned),
            batch=options.batch,
            levels=levels,
            steps=(self.job.file.learn or Learn()).steps,
        )
        loop = Loop(optimizer, branches, self, reference, self.record, batch=options.batch, listener=self.listener)
        trials = loop.run(Budget(options.most_trials, options.tokens, options.time))
        self.consensus = optimizer.consensus() if trials else None
        self.importance = importance_of(optimizer, [branch.dimensions for branch in branches])
        for text in optimizer.remarks:
            self.listener(Notice(text))
        return trials

    def _learn(self, reference: Reference) -> list[Sequence[Level]] | None:
        """Makes the lessons, and says how fine each branch may be learned from them; None where there are none."""
        if not any(branch.dimensions for branch in self.job.space.branches):
            return [() for _ in self.job.space.branches]  # choices alone have no gradient
        learn = self.job.file.learn or Learn()
        self.listener(Phase("lessons"))
        curriculum = School(self.job, self.bench, reference, self.listener).curriculum(("calibrate",))
        if curriculum is None:
            return None
        self.learner = Learner(self.job, self.bench, curriculum, size=learn.size, pull=learn.pull)
        return [self._affordable(branch, curriculum.answer_tokens) for branch in self.job.space.branches]

    def _affordable(self, branch: Branch, tokens: int) -> tuple[Level, ...]:
        """The levels with no more numbers than there are answer tokens to learn them from; always the coarsest."""
        levels = branch.levels
        kept = tuple(level for i, level in enumerate(levels) if i == 0 or len(level.columns) <= tokens)
        if len(kept) < len(levels):
            finest = levels[len(kept)]
            self.listener(
                Notice(
                    f"{tokens} answer tokens are too few for {len(finest.columns)} numbers ({finest.name}): "
                    f"learned by {kept[-1].name}, {len(kept[-1].columns)} numbers; give more items or prompts"
                )
            )
        return kept

    def _planned_trials(self, reference: Reference) -> int:
        """The budget the study was begun with: proposals depend on it; a larger one on resuming only goes on longer."""
        if not self.record.notes("planned"):
            expected = self.job.file.optimize.expected_trials(reference.base.tokens)
            self.record.note("planned", {"trials": expected})
        return int(self.record.notes("planned")[0]["trials"])

    def _starts(self, planned: int) -> list[Start]:
        """Known recipes as points: those of `optimize.start`, and for the gradient the fixed ones that come near.

        A start that the space cannot say exactly is named.
        """
        branches = [(b, self.job.recipe_at(i, b.init)) for i, b in enumerate(self.job.space.branches)]
        found: list[Start] = []
        fixed: list[Start] = []
        for contender in self.job.contenders:
            if contender.kind != "start" and (contender.kind != "fixed" or self.learner is None):
                continue
            recipe = contender.recipe
            fitted = nearest_point(recipe, self.bench.plan(recipe), branches, SCHEMAS[recipe.method])
            if contender.kind == "fixed":
                fixed += [] if fitted is None else [fitted.start]
                continue
            if fitted is None:
                self.listener(Notice(f"start {contender.name!r} is compared, but no point of the space is near it"))
                continue
            if not fitted.exact:
                text = f"start {contender.name!r} is no point of the space; the search begins at the nearest one"
                self.listener(Notice(f"{text} (coefficients differ by {fitted.error:.2g})"))
            found.append(fitted.start)
        spare = planned - len(found) - len(branches) - 1  # one at least for what is learned
        return [*found, *fixed[: max(0, spare)]]

    def measure(self, requests: Sequence[Request]) -> Iterator[Measured]:
        """The executor in this process: one candidate after the other in the live model."""
        for request in requests:
            if request.split == "calibrate":
                assert self.learner is not None
                yield self.learner.measure(request)
                continue
            recipe = self.job.recipe_at(request.branch, request.point)
            try:
                yield Measured(self.bench.measure(recipe, request.split, forced=self.forced))
            except FAILURES:
                yield Measured()

    def refine(self, trials: Sequence[Trial], reference: Reference) -> Contender | None:
        """Numbers below the tensor, on top of the finalist with the least held-out loss; None where none help."""
        learn = self.job.file.learn or Learn()
        school = School(self.job, self.bench, reference, self.listener)
        curriculum = school.curriculum(("calibrate", "search"), below=True)
        candidates = self._finalists(trials)
        if curriculum is None or not candidates:
            self.listener(Notice("there is nothing to learn from below the tensor"))
            return None
        self.listener(Phase("refine", learn.refine_steps))
        refiner = Refiner(
            self.bench,
            curriculum,
            kind=learn.refine,
            steps=learn.refine_steps,
            size=learn.size,
            path=self.record.folder / "refinement.safetensors",
            listener=self.listener,
            note=lambda step, loss: self.record.note("refinement", {"step": step, "loss": loss}),
        )
        start = min(candidates, key=lambda c: refiner.held_out(c.recipe))
        identity = digest(to_yaml(recipe_data(start.recipe)) + learn.model_dump_json())
        found = refiner.run(start.recipe, identity)
        self.refined = refiner.spent
        if found is None:
            self.listener(Notice(f"below the tensor nothing is better than {start.name!r} on held-out lessons"))
            return None
        return Contender("refined", "learned", start.recipe, found)

    def select(self, trials: Sequence[Trial], reference: Reference, refined: Contender | None = None) -> Contender:
        """Scores the finalists and everything known on the select items, and chooses."""
        finalists = [*self._finalists(trials), *([refined] if refined else [])]
        known = [c for c in self.job.contenders if c.eligible]
        self.listener(Phase("select", len(finalists) + len(known)))
        first = [(c, s) for c in finalists if (s := self.book.score(c, "select")) is not None]
        second = [(c, s) for c in known if (s := self.book.score(c, "select")) is not None]
        winner = choose(first, second, reference)
        for contender, scores in first:
            if contender is refined and winner is not refined:
                self._say_broken(scores, reference)
        if winner.kind != "learned":
            text = f"no finalist beats {winner.name!r} on the select items: it is what is returned"
            if self.learner is not None and self.job.file.optimize.portable:
                text += "; --set optimize.portable=false learns more than a mergekit recipe can say"
            self.listener(Notice(text))
        return winner

    def _say_broken(self, scores: Scores, reference: Reference) -> None:
        """Why what was learned below the tensor is not returned, where a constraint is why."""
        broken = [b for b in reference.bounds if b.violation(scores[b.name].value) > 0]
        if broken:
            names = ", ".join(f"{b.name} ({scores[b.name].value:.3f}, limit {b.limit:.3f})" for b in broken)
            text = f"what was learned below the tensor breaks a constraint on the select items: {names}"
            self.listener(Notice(f"{text}; a higher learn.retain keeps it closer to the base"))

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
        scored = [(c, s) for c in [winner, *others] if (s := self.book.score(c, "report")) is not None]
        if not scored or scored[0][0] is not winner:
            raise MergeoptError(f"the winner, {winner.name!r}, gives NaN or infinity on the report items")
        rows = report_rows(scored, winner, reference)
        rival = rival_of(rows, winner)
        notices = list(self.job.notices)
        if readings > 1:
            notices.append(f"the report items were read {readings} times: they are no longer fresh")
            self.listener(Notice(notices[-1]))
        steps = self.record.steps
        claimed = next((t.value for t in trials if winner.name == f"trial {t.number}"), None)
        return Result(
            winner=winner.name,
            learned=winner.kind == "learned",
            rows=rows,
            rival=rival.name if rival else None,
            gain=rival.against if rival else None,
            trials=len(trials),
            steps=sum("gradient" in step.wants for step in steps) + self.refined.steps,
            failed=sum(trial.state == "failed" for trial in trials),
            seconds=sum(trial.seconds for trial in trials) + sum(s.seconds for s in steps) + self.refined.seconds,
            tokens=sum(trial.tokens for trial in trials) + sum(s.tokens for s in steps) + self.refined.tokens,
            items={
                info.name: {split: len(hashes) for split, hashes in info.hashes.items() if hashes}
                for info in self.job.suite.evals
            },
            search_value=claimed,
            importance=self.importance,
            notices=tuple(notices),
        )

    def _readings(self, winner: Contender) -> int:
        """How often the report items were read for a decision, this one included; going on with one is no other."""
        key = key_of(winner)
        if all(note.get("winner") != key for note in self.record.notes("report")):
            reading = len(self.record.notes("report")) + 1
            self.record.note("report", {"reading": reading, "by": "search", "winner": key})
        return len(self.record.notes("report"))
