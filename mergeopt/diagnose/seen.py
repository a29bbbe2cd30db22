"""What was seen of models with data, as plain values: see `behaviour` for how."""

from collections.abc import Mapping
from dataclasses import dataclass

from mergeopt.recipe.recipe import ModelRef

Pair = tuple[ModelRef, ModelRef]
Losses = Mapping[str, float]  # eval → nats per answer token


@dataclass(frozen=True, slots=True)
class Smoke:
    """Of some answers: the share that ended before the limit, the share of their 4-grams that stood there before, and
    the mean number of tokens."""

    ended: float
    repeated: float
    length: float


@dataclass(frozen=True, slots=True)
class Own:
    """One model on its own prompts.

    evals: where no other model is better. gain: nats saved there. alone: share of the gain at half the delta, and
    thinned: at 1/n of it, as in the average of n models.
    barrier: of the straight path from the base. divergence: KL(model ‖ base).
    """

    evals: tuple[str, ...]
    gain: float
    alone: float
    thinned: float
    barrier: float
    divergence: float


@dataclass(frozen=True, slots=True)
class Path:
    """The straight path between two models.

    barrier: max over the path of the loss above the straight line, on the prompts of both. kept: share of its gain that
    each model keeps half-way. interference: what each keeps alone at half its delta, minus that. similarity: linear CKA
    of hidden states at mid depth. carried: which blocks, averaged alone, cost most; shares of all such costs.
    """

    barrier: float
    kept: tuple[float, float]
    interference: tuple[float, float]
    similarity: float
    carried: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Behaviour:
    """Everything that was measured with data. `losses`, `scores` and `smokes` are by model, the uniform merge under
    None; `scaled` is what each model keeps of its gain in base + s Σ τ_k, by s, and `norm_scaled` with such weights."""

    metrics: Mapping[str, str]
    items: Mapping[str, int]
    losses: Mapping[ModelRef | None, Losses]
    scores: Mapping[ModelRef | None, Mapping[str, float]]
    owners: Mapping[str, ModelRef]
    own: Mapping[ModelRef, Own]
    paths: Mapping[Pair, Path]
    scaled: Mapping[float, Mapping[ModelRef, float]]
    norm_scaled: Mapping[ModelRef, float]
    smokes: Mapping[ModelRef | None, Smoke]
