"""What to do: the lines that a diagnosis ends with."""

from collections.abc import Iterator, Mapping
from math import ceil, isnan, nan
from statistics import fmean

from mergeopt.diagnose.evidence import Evidence, grouped
from mergeopt.diagnose.seen import Pair
from mergeopt.diagnose.verdict import COPY, DOMINATES, HALF, INTERFERES, KEPT, Verdict, faults
from mergeopt.recipe.recipe import ModelRef
from mergeopt.scoring.statistics import detectable

SMALL = 0.1  # of the whole's ‖τ‖/‖W_0‖: a part that hardly moves
UNEVEN = 1.5  # times
NOTICEABLE = 0.05  # share of the gain
GOAL = 0.02  # the gain that is to be certified

Verdicts = Mapping[Pair, Verdict]


def advise(evidence: Evidence, verdicts: Verdicts) -> tuple[str, ...]:
    """Plain sentences, the most important first."""
    return (
        *_base(evidence),
        *_whether(evidence, verdicts),
        *_copies(evidence),
        *_scale(evidence),
        *_interference(evidence),
        *_freeze(evidence),
        *_next(evidence, verdicts),
        *_data(evidence),
    )


def _base(evidence: Evidence) -> Iterator[str]:
    base = evidence.subjects.base
    if base is None:
        yield "Name the base (--base): without it only distances are known, not what each model learned."
        return
    better = evidence.better_base()
    if better is not None:
        name, times = evidence.names[better[0]], better[1]
        yield f"Take {name} as the base instead of {evidence.names[base]}: deltas are {times:.1f} times shorter."


def _whether(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    bad = _unfit(evidence)
    if bad:
        yield f"Leave out {grouped([evidence.names[ref] for ref in bad])}: no recipe mends this."
    words = [verdict.word for pair, verdict in verdicts.items() if not set(pair) & set(bad)]
    behaviour = evidence.behaviour
    if behaviour is None or not words:
        return
    if all(word == "good" for word in words):
        yield "Merge them: every pair keeps most of its gains on the straight path."
    elif evidence.subjects.base is not None:
        uniform = _mean(behaviour.scaled.get(1 / len(evidence.subjects.models), {}))
        if not isnan(uniform):
            verb = "will do" if uniform >= KEPT else "loses much" if uniform >= HALF else "loses more than half"
            yield f"A plain average {verb}: it keeps {uniform:.0%} of the models' gains (in nats, on their prompts)."


def _unfit(evidence: Evidence) -> list[ModelRef]:
    """Models that fit no merge with the others."""
    return [ref for ref in evidence.subjects.models if any(word == "no" for word, _ in faults(evidence, ref))]


def _copies(evidence: Evidence) -> Iterator[str]:
    for a, b in evidence.subjects.pairs if evidence.subjects.common else ():
        if evidence.apart(a, b) <= COPY * max(evidence.norm(a), evidence.norm(b)):
            yield f"Keep one of {evidence.names[a]} and {evidence.names[b]}: together they count twice."


def _scale(evidence: Evidence) -> Iterator[str]:
    behaviour, models = evidence.behaviour, evidence.subjects.models
    best = _best_scale(evidence)
    if best is not None and behaviour is not None:
        kept, spread = _mean(behaviour.scaled[best]), _range(evidence, best)
        if best == 1 / len(models):
            yield f"No equal weights do better than the plain average ({best:.3g} each): {spread}."
        else:
            yield f"Start from task_arithmetic with weight {best:.3g} each: it keeps {kept:.0%}, {spread}."
    weights = evidence.norm_scaled
    if len(weights) < 2 or _unfit(evidence):
        return
    large, small = max(models, key=evidence.norm), min(models, key=evidence.norm)
    ratio = evidence.norm(large) / evidence.norm(small)
    if ratio > (UNEVEN if behaviour is None else DOMINATES):
        listed = ", ".join(f"{evidence.names[ref]} {weight:g}" for ref, weight in weights.items())
        head = f"{evidence.names[large]} {'dominates' if ratio > DOMINATES else 'weighs most'}"
        head += f" ({ratio:.1f} times {evidence.names[small]})"
        kept = _mean(behaviour.norm_scaled) if behaviour is not None else nan
        plain = _mean(behaviour.scaled[1 / len(models)]) if behaviour is not None and behaviour.scaled else nan
        if kept < plain:
            yield f"{head}, yet norm-scaled weights keep less than equal ones ({kept:.0%})."
        else:
            yield f"{head}; norm-scaled weights: {listed}{'' if isnan(kept) else f' (keeps {kept:.0%})'}."


def _best_scale(evidence: Evidence) -> float | None:
    """The equal weight that keeps most; None where nothing was measured."""
    scaled = evidence.behaviour.scaled if evidence.behaviour is not None and len(evidence.subjects.models) > 1 else {}
    known = {scale: mean for scale, kept in scaled.items() if not isnan(mean := _mean(kept))}
    return max(known, key=lambda scale: known[scale], default=None)


def _range(evidence: Evidence, scale: float) -> str:
    assert evidence.behaviour is not None
    kept = {ref: share for ref, share in evidence.behaviour.scaled[scale].items() if not isnan(share)}
    ordered = sorted(kept, key=lambda ref: kept[ref])
    low, high = ordered[0], ordered[-1]
    return f"from {kept[low]:.0%} ({evidence.names[low]}) to {kept[high]:.0%} ({evidence.names[high]})"


def _interference(evidence: Evidence) -> Iterator[str]:
    """The pair that disturbs most, and where; and whether an average loses by dilution or by interference."""
    behaviour = evidence.behaviour
    if behaviour is None:
        return
    disturbed = [
        (lost, pair, k)
        for pair, path in behaviour.paths.items()
        for k, lost in enumerate(path.interference)
        if lost > INTERFERES
    ]
    if disturbed:
        _, pair, k = max(disturbed, key=lambda each: each[0])
        name, other = evidence.names[pair[k]], evidence.names[pair[1 - k]]
        where = evidence.where_it_is_lost(pair)
        yield f"{other} disturbs {name} most; averaging costs most in {where}: give it weights of its own."
    best = _best_scale(evidence)
    if best is None:
        return
    equal = 1 / len(evidence.subjects.models)
    alone, together = _mean({ref: own.thinned for ref, own in behaviour.own.items()}), _mean(behaviour.scaled[equal])
    if together >= KEPT:
        return
    told = f"at weight {equal:.3g} a model alone keeps {alone:.0%}, beside the others {together:.0%}"
    if together < alone - NOTICEABLE:
        yield f"The average loses by interference: {told}."
    elif best > equal:
        yield f"The average loses by dilution: {told}; larger weights bring some back."
    else:
        yield f"The average loses by dilution ({told}), yet larger equal weights overshoot what the deltas share."


def _freeze(evidence: Evidence) -> Iterator[str]:
    if evidence.subjects.base is None:
        return
    columns = [evidence.column(ref) for ref in evidence.subjects.models]
    still = [part for part, sums in evidence.weights.parts.items() if all(sums.unchanged(k) == 1 for k in columns)]
    if still:
        yield f"Nothing to merge in {grouped(sorted(still))}: unchanged in every model."
    whole = evidence.whole
    slow = [
        part
        for part, sums in evidence.weights.parts.items()
        if part not in still and all(0 <= sums.ratio(k) < SMALL * whole.ratio(k) for k in columns)
    ]
    if slow:
        yield f"Keep {grouped(sorted(slow))} at the base: they hardly moved, and numbers for them only cost data."


def _next(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    if evidence.behaviour is None:
        if evidence.subjects.base is not None and any(v.word != "no" for v in verdicts.values()):
            yield "Weights alone do not tell what a merge keeps: measure it with --eval, one eval per model."
    elif any(verdict.word in ("tune", "risky") for verdict in verdicts.values()):
        yield "Learn the weights (mergeopt search, method: auto; portable: false goes below the tensor)."


def _data(evidence: Evidence) -> Iterator[str]:
    needed = ceil((detectable(1) / GOAL) ** 2 / 10) * 10
    text = f"To certify a gain of {100 * GOAL:.0f} points: about {needed:,} paired items (80 % power)"
    if evidence.behaviour is None:
        yield text + "."
        return
    count = sum(evidence.behaviour.items.values())
    yield f"{text}; the {count:,} used here show {100 * detectable(count):.1f} points."


def _mean(kept: Mapping[ModelRef, float]) -> float:
    known = [share for share in kept.values() if not isnan(share)]
    return fmean(known) if known else nan
