"""Will these two merge? A word, and the reasons in plain language.

Rules of thumb, and marked as such in docs/when-merging-fails.md. Where data was given, what was measured decides:
signs and cosines of weights say little about what a merge keeps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import Literal

from mergeopt.diagnose.evidence import Evidence
from mergeopt.diagnose.seen import Pair
from mergeopt.recipe.recipe import ModelRef

Word = Literal["good", "tune", "risky", "no"]
WORDS: tuple[Word, ...] = ("good", "tune", "risky", "no")

STRANGER = 0.5  # cos(W, W_0) below it: not a fine-tune of this base
PERMUTED = 0.8  # likeness of a unit and its nearest one: the same units, in another order
COPY = 1e-3  # distance of two models, in lengths of their deltas
DUPLICATE = 0.9  # cosine of two deltas
AGAINST = -0.1
CONFLICT = 0.55  # of the mass; 0.5 is chance
DOMINATES = 3.0  # times the norm
FAR = 0.1  # ‖τ‖ / ‖W_0‖; fine-tunes of large models stay below 0.03
BARRIER, WALL = 0.05, 0.5  # nats
KEPT, HALF = 0.75, 0.5  # share of the gain
INTERFERES = 0.25  # share of the gain that the other model costs
UNLIKE = 0.75  # CKA at mid depth

Said = tuple[Word, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word`: good: merge them; tune: a plain average loses something; risky: it loses much; no: do not."""

    word: Word
    reasons: tuple[str, ...]


def judge(evidence: Evidence, pair: Pair) -> Verdict:
    """The verdict on a pair, the gravest reason first."""
    hard = [said for ref in pair for said in faults(evidence, ref)] + list(_between(evidence, pair))
    measured = list(_measured(evidence, pair))
    soft = [] if measured or any(word == "no" for word, _ in hard) else list(_soft(evidence, pair))
    said = sorted([*hard, *measured, *soft], key=lambda each: -WORDS.index(each[0]))
    if not said:
        return Verdict("good", ())
    return Verdict(said[0][0], tuple(text for word, text in said if word != "good" or said[0][0] == "good"))


def faults(evidence: Evidence, ref: ModelRef) -> Iterator[Said]:
    """What is wrong with one model, whomever it is merged with."""
    name, reference = evidence.names[ref], evidence.names[evidence.subjects.reference]
    if evidence.broken(ref):
        yield "no", f"{name} holds {evidence.broken(ref)} numbers that are NaN or infinite"
    stops, minds = evidence.levels(ref, "stop"), evidence.levels(ref, "mind")
    if stops:
        yield "no", f"{name} does not fit {reference}: {stops[0]}"
    elif minds:
        yield "risky", f"{name}: {minds[0]}"
    if ref == evidence.subjects.reference or not evidence.subjects.common:
        return
    alike, units = evidence.body.alike(evidence.column(ref)), evidence.sample.units.get(ref)
    if units is not None and units.matched < HALF and units.likeness > PERMUTED:
        yield "no", f"{name} has the units of {reference} in another order: align them first (re-basin)"
    elif alike < STRANGER:
        yield "no", f"{name} is no fine-tune of {reference}: cosine of their weights {alike:.2f}"


def _between(evidence: Evidence, pair: Pair) -> Iterator[Said]:
    """What weights say for certain."""
    if not evidence.subjects.common:
        return
    a, b = (evidence.names[ref] for ref in pair)
    sizes = [evidence.norm(ref) for ref in pair]
    if evidence.apart(*pair) <= COPY * max(sizes):
        yield "tune", f"{a} and {b} are the same model: keep one"
    for ref, size in zip(pair, sizes, strict=True):
        if size == 0 and evidence.comparable(pair):
            yield "tune", f"{evidence.names[ref]} equals the base: it adds nothing"


def _soft(evidence: Evidence, pair: Pair) -> Iterator[Said]:
    """What weights let fear."""
    if not evidence.comparable(pair) or not evidence.subjects.common:
        return
    i, j = evidence.columns(pair)
    cosine, conflict = evidence.body.cosine(i, j), evidence.body.conflict(i, j)
    if cosine < AGAINST or conflict > CONFLICT:
        where = evidence.where_signs_conflict(pair)
        yield "risky", f"signs conflict in {conflict:.0%} of the mass (cosine {cosine:+.2f}), {where}"
    if cosine > DUPLICATE:
        yield "tune", f"deltas point the same way (cosine {cosine:+.2f}): weights should add to 1"
    small, large = sorted(pair, key=evidence.norm)
    ratio = evidence.norm(large) / evidence.norm(small) if evidence.norm(small) > 0 else 1.0
    if ratio > DOMINATES:
        yield "tune", f"the delta of {evidence.names[large]} is {ratio:.1f} times that of {evidence.names[small]}"
    far = max(pair, key=evidence.norm)
    share = evidence.body.ratio(evidence.column(far))
    if share > FAR:
        yield "tune", f"{evidence.names[far]} went far from the base (|τ|/|W₀| {share:.2f}): measure what is kept"


def _measured(evidence: Evidence, pair: Pair) -> Iterator[Said]:
    """What was seen with data; nothing where neither model has a gain to lose."""
    if evidence.behaviour is None:
        return
    path, known = evidence.behaviour.paths[pair], False
    for k, ref in enumerate(pair):
        kept, lost, name = path.kept[k], path.interference[k], evidence.names[ref]
        if isnan(kept):
            continue
        known = True
        beside = evidence.names[pair[1 - k]]
        word: Word = "good" if kept >= KEPT else "tune" if kept >= HALF else "risky"
        if lost > INTERFERES:
            alone = f"{kept + lost:.0%} alone"
            yield max(word, "risky", key=WORDS.index), f"{beside} disturbs {name}: it keeps {kept:.0%}, {alone}"
        else:
            yield word, f"{name} keeps {kept:.0%} of its gain half-way"
    if path.barrier > BARRIER:
        yield "no" if path.barrier > WALL else "risky", f"a barrier of {path.barrier:.2f} nats lies between them"
    if known and path.similarity < UNLIKE:
        yield "tune", f"hidden states differ (CKA {path.similarity:.2f})"
