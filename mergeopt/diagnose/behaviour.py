"""What models do with data: how much of each model's gain survives beside the others, and where the rest is lost.

A gain is the loss that a model saves on its own prompts (in nats per answer token), against the base or, without one,
against the other model. A merge can lose it in two ways that call for different cures. *Dilution*: at half its delta a
model has lost some of its gain even alone. *Interference*: what is lost beyond that once the other model's half is
there too.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from math import nan
from statistics import fmean

from mergeopt.diagnose.exam import SPLIT, Exam, similarity
from mergeopt.diagnose.mixture import Mixer, Shares
from mergeopt.diagnose.seen import Behaviour, Losses, Own, Path, Smoke
from mergeopt.diagnose.smoke import prompts_of, smoke
from mergeopt.diagnose.subjects import Place, Subjects, place_of
from mergeopt.merge.plan import Job
from mergeopt.recipe.recipe import ModelRef
from mergeopt.scoring.suite import Suite
from mergeopt.study.workbench import Workbench

ALONG = (0.25, 0.5, 0.75)  # places on a path that are scored
SCALES = (0.2, 0.3, 0.4, 0.6, 0.8, 1.0)  # of the sum of all deltas
GAIN = 0.05  # nats; less is no gain that could be lost
GOOD = 0.75  # of the gain: a pair that keeps so much is not looked into
QUARTERS = 4  # ranges of layers that are swapped

Progress = Callable[[int], None]  # told the models scored since the last call


def observe(
    subjects: Subjects,
    suite: Suite,
    workbench: Workbench,
    norm_scaled: Shares,
    progress: Progress | None = None,
) -> Behaviour:
    """Scores models, paths and swapped blocks.

    Args:
        subjects: The models.
        suite: The evals, divided as for a search.
        workbench: Holds the models and the base.
        norm_scaled: Weights to try beside equal ones; may be empty.
        progress: Told of every mixture that was scored.

    Raises:
        InputError: the models do not fit together, or no eval has answers to learn from.
        NonFiniteError, NotFiniteError: some mixture computed NaN or Inf.
    """
    return _Observer(subjects, suite, workbench, progress).run(norm_scaled)


class _Observer:
    def __init__(self, subjects: Subjects, suite: Suite, workbench: Workbench, progress: Progress | None) -> None:
        self.subjects, self.suite, self.progress = subjects, suite, progress
        self.mixer = Mixer(subjects, workbench)
        self.encoder = self.mixer.become({subjects.reference: 1}).scorer.encoder
        self.exam = Exam.of(suite, self.encoder, workbench.device, workbench.batch_size)
        self.owners: dict[str, ModelRef] = {}
        self.losses: dict[ModelRef | None, Losses] = {}

    def run(self, norm_scaled: Shares) -> Behaviour:
        subjects = self.subjects
        uniform = dict.fromkeys(subjects.models, 1 / len(subjects.models))
        singles: dict[ModelRef | None, Shares] = {ref: {ref: 1.0} for ref in self._everyone()} | {None: uniform}
        scores, states = {}, {}
        for ref, shares in singles.items():
            bench = self.mixer.become(shares)
            self.losses[ref] = self._losses(shares)
            scores[ref] = {score.name: score.value for score in bench.scorer.score(SPLIT)}
            if ref is not None:
                states[ref] = self.exam.states(bench.model, max(1, subjects.layers // 2))
        self.owners = self._owners()
        own = {ref: self._own(ref) for ref in subjects.models}
        paths = {}
        for a, b in subjects.pairs:
            paths[a, b] = self._path(a, b, own, similarity(states[a], states[b]))
        return Behaviour(
            metrics={info.name: info.metric for info in self.suite.evals},
            items={info.name: info.count(SPLIT) for info in self.suite.evals},
            losses=self.losses,
            scores=scores,
            owners=self.owners,
            own=own,
            paths=paths,
            scaled=self._scaled(),
            norm_scaled=self._kept_with(norm_scaled) if norm_scaled and self.owners else {},
            smokes=self._smokes(singles),
        )

    def _everyone(self) -> tuple[ModelRef, ...]:
        return (*([self.subjects.base] if self.subjects.base else []), *self.subjects.models)

    def _losses(self, shares: Shares | Callable[[Job], Shares], evals: Sequence[str] | None = None) -> Losses:
        found = self.exam.losses(self.mixer.become(shares).model, evals)
        if self.progress:
            self.progress(1)
        return found

    def _owners(self) -> dict[str, ModelRef]:
        """Whose prompts an eval's are: its teacher's, else those of the model that loses least there."""
        named = {info.name: info.entry.teacher for info in self.suite.evals if not info.entry.is_constraint}
        found = {}
        for name, wanted in named.items():
            if name in self.exam.lessons:
                teacher = next((ref for ref in self.subjects.models if str(ref) == wanted), None)
                best = teacher or min(self.subjects.models, key=lambda ref: self.losses[ref][name])
                if self._gain(name, best) > 0:
                    found[name] = best
        return found

    def _gain(self, name: str, ref: ModelRef, against: ModelRef | None = None) -> float:
        """Nats that a model saves on an eval, against the base or else the worst other model."""
        rivals = [self.subjects.base] if self.subjects.base else [against] if against else self._others(ref)
        return max(self.losses[rival][name] for rival in rivals) - self.losses[ref][name]

    def _others(self, ref: ModelRef) -> list[ModelRef]:
        return [other for other in self.subjects.models if other != ref] or [ref]

    def _evals_of(self, ref: ModelRef) -> tuple[str, ...]:
        return tuple(name for name, owner in self.owners.items() if owner == ref)

    def _kept(self, losses: Losses, ref: ModelRef, against: ModelRef | None = None) -> float:
        """Share of its gain that a model's evals keep; NaN where there is none to lose."""
        gains = {name: self._gain(name, ref, against) for name in self._evals_of(ref)}
        shares = [1 - (losses[n] - self.losses[ref][n]) / gain for n, gain in gains.items() if gain > GAIN]
        return fmean(shares) if shares else nan

    def _own(self, ref: ModelRef) -> Own:
        evals, base = self._evals_of(ref), self.subjects.base
        gain = fmean(self._gain(name, ref) for name in evals) if evals else nan
        if base is None or not evals:
            return Own(evals, gain, nan, nan, nan, nan)
        part = 1 / len(self.subjects.models)
        points = {a: self._losses({base: 1 - a, ref: a}, evals) for a in sorted({*ALONG, part})}
        alone, thinned = self._kept(points[0.5], ref), self._kept(points[part], ref)
        barrier = self._barrier(points, base, ref, evals)
        model = self.mixer.become({ref: 1}).model
        targets = {name: self.exam.targets(model, name, self.encoder) for name in evals}
        model = self.mixer.become({base: 1}).model
        divergence = fmean(self.exam.divergence(model, name, targets[name]) for name in evals)
        return Own(evals, gain, alone, thinned, barrier, divergence)

    def _barrier(self, points: Mapping[float, Losses], a: ModelRef, b: ModelRef, evals: Sequence[str]) -> float:
        """max over the path of L((1−x) a + x b) − (1−x) L(a) − x L(b)"""

        def mean(losses: Losses) -> float:
            return fmean(losses[name] for name in evals)

        ends = mean(self.losses[a]), mean(self.losses[b])
        return max(mean(losses) - (1 - x) * ends[0] - x * ends[1] for x, losses in points.items())

    def _path(self, a: ModelRef, b: ModelRef, own: Mapping[ModelRef, Own], cka: float) -> Path:
        evals = (*self._evals_of(a), *self._evals_of(b)) or tuple(self.exam.lessons)
        points = {x: self._losses({a: 1 - x, b: x}, evals) for x in ALONG}
        barrier = self._barrier(points, a, b, evals)
        kept = self._kept(points[0.5], a, b), self._kept(points[0.5], b, a)
        interference = own[a].alone - kept[0], own[b].alone - kept[1]
        bad = any(share < GOOD for share in kept) or barrier > GAIN
        return Path(barrier, kept, interference, cka, self._carried(a, b) if bad else ())

    def _carried(self, a: ModelRef, b: ModelRef) -> tuple[tuple[str, float], ...]:
        """Which blocks cost most: each averaged alone in either model, on that model's prompts; as Adilova et al. 2023
        (arXiv 2307.06966) do by layer."""
        costs = {}
        for name, inside in self._blocks().items():
            cost = 0.0
            for ref, other in ((a, b), (b, a)):
                evals = self._evals_of(ref)
                if evals:
                    here = self._losses(_swapped(inside, ref, other), evals)
                    cost += sum(here[n] - self.losses[ref][n] for n in evals)
            costs[name] = max(0.0, cost)
        total = sum(costs.values())
        ordered = sorted(costs.items(), key=lambda each: -each[1])
        return tuple((name, cost / total) for name, cost in ordered if cost > 0)

    def _blocks(self) -> dict[str, Callable[[Job], bool]]:
        """Attention and MLP of each quarter of the layers, and what belongs to neither."""
        tensors, layers = self.subjects.shape(self.subjects.reference).tensors, self.subjects.layers
        places = {name: place_of(info) for name, info in tensors.items()}
        count = min(QUARTERS, layers)
        cuts = [layers * i // count for i in range(count + 1)] if count else []
        blocks: dict[str, Callable[[Job], bool]] = {}
        for first, end in itertools.pairwise(cuts):
            span = f"layer {first}" if end - first == 1 else f"layers {first}–{end - 1}"
            for part in ("attention", "mlp"):
                blocks[f"{part} of {span}"] = _chooser(places, {Place(part, layer) for layer in range(first, end)})
        for part in ("embed", "norm", "other"):
            chosen = {place for place in places.values() if place.part == part}
            if chosen:
                blocks[part] = _chooser(places, chosen)
        return blocks

    def _scaled(self) -> dict[float, dict[ModelRef, float]]:
        """base + s Σ τ_k for some scales s: what each model keeps of its gain."""
        base, models = self.subjects.base, self.subjects.models
        if base is None or not self.owners:
            return {}
        scales = sorted({*SCALES, 1 / len(models)})
        return {scale: self._kept_with(dict.fromkeys(models, scale)) for scale in scales}

    def _kept_with(self, weights: Shares) -> dict[ModelRef, float]:
        """What each model keeps of its gain in base + Σ w_k τ_k."""
        base = self.subjects.base
        assert base is not None
        losses = self._losses({base: 1 - sum(weights.values()), **weights}, tuple(self.owners))
        return {ref: self._kept(losses, ref) for ref in self.subjects.models}

    def _smokes(self, singles: Mapping[ModelRef | None, Shares]) -> dict[ModelRef | None, Smoke]:
        found = {}
        for ref, shares in singles.items():
            mine = None if ref is None or ref == self.subjects.base else self._evals_of(ref)
            asked = prompts_of(self.suite, self.encoder, mine or tuple(self.exam.lessons))
            if asked:
                found[ref] = smoke(self.mixer.become(shares).model, self.encoder, asked)
        return found


def _chooser(places: Mapping[str, Place], chosen: set[Place]) -> Callable[[Job], bool]:
    return lambda job: places.get(job.tensor) in chosen


def _swapped(inside: Callable[[Job], bool], ref: ModelRef, other: ModelRef) -> Callable[[Job], Shares]:
    """`ref`, but half-way to `other` inside a block."""
    return lambda job: {ref: 0.5, other: 0.5} if inside(job) else {ref: 1.0}
