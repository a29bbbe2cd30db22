"""All that is known of the models, with the questions that verdicts ask of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import isnan

from mergeopt.diagnose.hygiene import Finding
from mergeopt.diagnose.sample import Sample
from mergeopt.diagnose.seen import Behaviour, Pair
from mergeopt.diagnose.subjects import Subjects, labels
from mergeopt.diagnose.sums import Sums, added
from mergeopt.diagnose.weights import WeightSums
from mergeopt.recipe.recipe import ModelRef

NEARER, MUCH_NEARER = 1.1, 2.0  # times; fine-tunes that share a direction are nearer to each other than to the base
SHARE = 0.5  # of the opposing mass, that a place must hold to be named


@dataclass(frozen=True)
class Evidence:
    """Of the subjects: sums, a sample, differences beside the weights, and behaviour where data was given."""

    subjects: Subjects
    weights: WeightSums
    sample: Sample
    findings: tuple[Finding, ...]
    behaviour: Behaviour | None

    @cached_property
    def names(self) -> Mapping[ModelRef, str]:
        return labels((*self.subjects.models, *self.subjects.candidates, self.subjects.reference))

    @cached_property
    def whole(self) -> Sums:
        return self.weights.whole

    @cached_property
    def body(self) -> Sums:
        """What lies inside layers: embedding rows that no text touched move by weight decay alone, all the same way."""
        layers = self.weights.layers.values()
        return added(layers, len(self.weights.columns)) if layers else self.whole

    def column(self, ref: ModelRef) -> int:
        return self.weights.columns.index(ref)

    def columns(self, pair: Pair) -> tuple[int, int]:
        return self.column(pair[0]), self.column(pair[1])

    def comparable(self, pair: Pair) -> bool:
        """Do both have deltas? Without a base the first model has none."""
        return self.subjects.base is not None and self.subjects.reference not in pair

    def norm(self, ref: ModelRef) -> float:
        """‖τ‖ inside layers"""
        return 0.0 if ref == self.subjects.reference else self.body.norm(self.column(ref))

    def apart(self, a: ModelRef, b: ModelRef) -> float:
        """‖W_a − W_b‖ inside layers; the reference may be one of them."""
        if self.subjects.reference in (a, b):
            return self.norm(b if a == self.subjects.reference else a)
        return self.body.apart(*self.columns((a, b)))

    @cached_property
    def norm_scaled(self) -> Mapping[ModelRef, float]:
        """Weights in inverse proportion to the deltas' lengths, adding to 1; none without a base."""
        lengths = {ref: self.norm(ref) for ref in self.subjects.models}
        if self.subjects.base is None or not self.subjects.common or not all(lengths.values()):
            return {}
        total = sum(1 / length for length in lengths.values())
        return {ref: float(f"{1 / length / total:.2g}") for ref, length in lengths.items()}

    def broken(self, ref: ModelRef) -> int:
        """Elements that are NaN or infinite."""
        return int(self.whole.broken[-1 if ref == self.subjects.reference else self.column(ref)])

    def levels(self, ref: ModelRef, level: str) -> list[str]:
        """The findings of a level about a model."""
        return [finding.text for finding in self.findings if (finding.model, finding.level) == (ref, level)]

    def better_base(self) -> tuple[ModelRef, float] | None:
        """A candidate or one of the models that is nearer to all (other) models than the base; how many times."""
        base = self.subjects.base
        found = {}
        for ref in (*self.subjects.candidates, *self.subjects.models) if base is not None else ():
            others = [model for model in self.subjects.models if model != ref]
            now = sum(self.apart(base, model) for model in others) if base else 0.0
            then = sum(self.apart(ref, model) for model in others)
            if then > 0 and now / then > (NEARER if ref in self.subjects.candidates else MUCH_NEARER):
                found[ref] = now / then
        return max(found.items(), key=lambda each: each[1], default=None)

    def where_signs_conflict(self, pair: Pair) -> str:
        """The shortest range of layers of one part that holds half of the opposing mass, else the part with most."""
        i, j = self.columns(pair)
        mass = {place: sums.opposed(i, j) for place, sums in self.weights.places.items() if place.layer is not None}
        total = sum(mass.values())
        if not total > 0:
            return ""
        best: tuple[int, str] | None = None
        for part in {place.part for place in mass}:
            line = sorted((p.layer, m) for p, m in mass.items() if p.part == part and p.layer is not None)
            for first in range(len(line)):
                held = 0.0
                for last in range(first, len(line)):
                    held += line[last][1]
                    if held >= SHARE * total:
                        span = (last - first + 1, _span(line[first][0] or 0, line[last][0] or 0, part))
                        best = span if best is None else min(best, span)
                        break
        if best is not None:
            return best[1]
        parts = {part: sum(m for p, m in mass.items() if p.part == part) for part in {p.part for p in mass}}
        return f"mostly {max(parts, key=lambda part: parts[part])}"

    def where_it_is_lost(self, pair: Pair) -> str:
        """``attention of layers 0–1 (70%)``: the blocks of one part that carry most of a pair's loss."""
        carried = self.behaviour.paths[pair].carried if self.behaviour else ()
        some, held = [], 0.0
        for name, share in carried[:3]:
            some.append(f"{name} ({share:.0%})")
            held += share
            if held >= SHARE:
                break
        return ", ".join(some)

    def kept(self, pair: Pair) -> float | None:
        """The smaller share of its gain that one of the two keeps half-way; None where nothing was measured."""
        if self.behaviour is None:
            return None
        known = [share for share in self.behaviour.paths[pair].kept if not isnan(share)]
        return min(known, default=None)


def _span(first: int, last: int, part: str) -> str:
    return f"{part} of layer {first}" if first == last else f"{part} of layers {first}–{last}"


def grouped(names: list[str]) -> str:
    """``a, b and c``"""
    listed = [name for name, _ in groupby(names)]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"
