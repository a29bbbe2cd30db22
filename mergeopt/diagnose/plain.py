"""A diagnosis as plain data, for JSON: everything that was measured; what is not known is null."""

from math import isnan
from typing import Any

from mergeopt.diagnose.diagnosis import Diagnosis
from mergeopt.diagnose.evidence import Evidence
from mergeopt.diagnose.seen import Behaviour, Pair
from mergeopt.diagnose.sums import Sums
from mergeopt.diagnose.verdict import Verdict
from mergeopt.recipe.recipe import ModelRef


def as_data(diagnosis: Diagnosis) -> dict[str, Any]:
    """Everything, under names that are a promise."""
    evidence = diagnosis.evidence
    subjects = evidence.subjects
    found = {
        "base": None if subjects.base is None else str(subjects.base),
        "reference": str(subjects.reference),
        "tensors": {"compared": len(subjects.common), "of": len(subjects.shape(subjects.reference).tensors)},
        "models": {str(ref): _model(evidence, ref) for ref in subjects.models},
        "pairs": [_pair(evidence, pair, verdict) for pair, verdict in diagnosis.verdicts.items()],
        "places": [_place(evidence, place.part, place.layer, sums) for place, sums in evidence.weights.places.items()],
        "sample": {
            "matrices": list(evidence.sample.matrices),
            "layers": list(evidence.sample.layers),
            "chance_overlap": evidence.sample.chance,
        },
        "findings": [{"model": str(f.model), "level": f.level, "text": f.text} for f in evidence.findings],
        "start_weights": {str(ref): weight for ref, weight in evidence.norm_scaled.items()},
        "uniform": None if evidence.behaviour is None else _scored(evidence.behaviour, None),
        "kept_by_scale": {}
        if evidence.behaviour is None
        else {
            f"{scale:.4g}": {str(ref): share for ref, share in kept.items()}
            for scale, kept in evidence.behaviour.scaled.items()
        },
        "advice": list(diagnosis.advice),
        "notices": list(diagnosis.notices),
    }
    clean: dict[str, Any] = _without_nan(found)
    return clean


def _model(evidence: Evidence, ref: ModelRef) -> dict[str, Any]:
    found: dict[str, Any] = {"not_finite": evidence.broken(ref)}
    if ref != evidence.subjects.reference:
        k, body, units = evidence.column(ref), evidence.body, evidence.sample.units.get(ref)
        found |= {
            "delta_ratio": body.ratio(k),
            "cosine_with_base": body.alike(k),
            "unchanged": evidence.whole.unchanged(k),
            "stable_rank": evidence.sample.stable_rank[ref],
            "units_matched": None if units is None else units.matched,
            "experts_matched": evidence.sample.experts.get(ref),
        }
    if evidence.behaviour is not None:
        own = evidence.behaviour.own[ref]
        found |= {
            "own_evals": list(own.evals),
            "gain": own.gain,
            "kept_alone": own.alone,
            "kept_alone_thinned": own.thinned,
            "barrier_from_base": own.barrier,
            "divergence": own.divergence,
        } | _scored(evidence.behaviour, ref)
    return found


def _scored(behaviour: Behaviour, ref: ModelRef | None) -> dict[str, Any]:
    smoke = behaviour.smokes.get(ref)
    return {
        "loss": dict(behaviour.losses[ref]),
        "score": dict(behaviour.scores[ref]),
        "smoke": None if smoke is None else {"ended": smoke.ended, "repeated": smoke.repeated, "length": smoke.length},
    }


def _pair(evidence: Evidence, pair: Pair, verdict: Verdict) -> dict[str, Any]:
    found: dict[str, Any] = {"models": [str(ref) for ref in pair], "distance": evidence.apart(*pair)}
    if evidence.comparable(pair):
        i, j = evidence.columns(pair)
        found |= {
            "cosine": evidence.body.cosine(i, j),
            "sign_conflict": evidence.body.conflict(i, j),
            "shared_support": evidence.body.support(i, j),
            "subspace_overlap": evidence.sample.overlap[pair],
            "conflict_where": evidence.where_signs_conflict(pair),
        }
    if evidence.behaviour is not None:
        path = evidence.behaviour.paths[pair]
        found |= {
            "barrier": path.barrier,
            "kept": list(path.kept),
            "interference": list(path.interference),
            "similarity": path.similarity,
            "carried": dict(path.carried),
        }
    return found | {"verdict": verdict.word, "reasons": list(verdict.reasons)}


def _place(evidence: Evidence, part: str, layer: int | None, sums: Sums) -> dict[str, Any]:
    subjects = evidence.subjects
    models = [ref for ref in subjects.models if ref != subjects.reference]
    pairs = [pair for pair in subjects.pairs if evidence.comparable(pair)]
    return {
        "part": part,
        "layer": layer,
        "delta_ratio": {str(ref): sums.ratio(evidence.column(ref)) for ref in models},
        "unchanged": {str(ref): sums.unchanged(evidence.column(ref)) for ref in models},
        "cosine": [sums.cosine(*evidence.columns(pair)) for pair in pairs],
        "sign_conflict": [sums.conflict(*evidence.columns(pair)) for pair in pairs],
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and isnan(value) else value
