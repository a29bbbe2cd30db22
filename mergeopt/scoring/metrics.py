"""Per-item outcomes of the common metrics in one vectorised step, and what each item contributes to an aggregate.

lm-eval computes an item's outcome by rendering its templates again; here everything that does not depend on the model
(gold answers, lengths) is read once as `facts`. These shortcuts are only used after they agreed item by item with
lm-eval's own code, and the aggregate is always lm-eval's.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np

from mergeopt.scoring.base import Items

BLOCKS = 32  # of the jackknife: enough to estimate a spread, few enough for aggregates that cost milliseconds


@dataclass(frozen=True, slots=True)
class ChoiceFacts:
    """Multiple choice: the right choices of each item (none if its label is out of range) and all choices' lengths."""

    gold: Sequence[frozenset[int]]
    chars: Sequence[Sequence[float]]
    bytes: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class TextFacts:
    """Generation: the accepted answers of each item, and how exact_match compares."""

    golds: Sequence[Sequence[str]]
    compare: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RollingFacts:
    """Whole-text likelihood: the words and bytes of each item."""

    words: Sequence[int]
    bytes: Sequence[int]


Facts = ChoiceFacts | TextFacts | RollingFacts


def fast_outcomes(metric: str, facts: Facts, responses: Sequence[Sequence[Any]]) -> list[Any] | None:
    """Each item's outcome, as lm-eval's aggregation wants it; None where no shortcut exists for this metric.

    Args:
        metric: The metric's name without its filter.
        facts: Of the same items.
        responses: Per item, the filtered response to each of its requests.
    """
    if isinstance(facts, ChoiceFacts):
        lengths = {"acc": None, "acc_norm": facts.chars, "acc_bytes": facts.bytes}
        return _choices(facts, lengths[metric], responses) if metric in lengths else None
    if isinstance(facts, TextFacts):
        return _exact_match(facts, responses) if metric == "exact_match" else None
    sizes = {"word_perplexity": facts.words, "byte_perplexity": facts.bytes, "bits_per_byte": facts.bytes}
    if metric not in sizes:
        return None
    return [(float(response[0]), size) for response, size in zip(responses, sizes[metric], strict=True)]


def _choices(
    facts: ChoiceFacts, lengths: Sequence[Sequence[float]] | None, responses: Sequence[Sequence[Any]]
) -> list[float] | None:
    width = max(map(len, facts.chars))
    if any(len(response) != len(chars) for response, chars in zip(responses, facts.chars, strict=True)):
        return None  # more requests than choices: mutual information
    logprobs = np.full((len(responses), width), -np.inf)
    for row, response in zip(logprobs, responses, strict=True):
        row[: len(response)] = [logprob for logprob, _ in response]
    if lengths is not None:
        divisors = np.ones_like(logprobs)
        for row, length in zip(divisors, lengths, strict=True):
            row[: len(length)] = length
        if not divisors.all():
            return None  # an empty choice: leave 0/0 to lm-eval
        logprobs = logprobs / divisors
    return [float(choice in gold) for choice, gold in zip(logprobs.argmax(1).tolist(), facts.gold, strict=True)]


def _exact_match(facts: TextFacts, responses: Sequence[Sequence[Any]]) -> list[float] | None:
    if not all(len(response) == 1 and isinstance(response[0], str) for response in responses):
        return None
    normal = text_normaliser(**facts.compare)
    return [
        float(normal(response[0]) in {normal(gold) for gold in golds})
        for response, golds in zip(responses, facts.golds, strict=True)
    ]


def text_normaliser(
    regexes_to_ignore: Sequence[str] | None = None,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_numbers: bool = False,
    **unknown: Any,
) -> Callable[[str], str]:
    """What exact_match does to both texts before it compares them, in lm-eval's order."""
    del unknown  # other keys of a metric_list entry do not change the comparison
    dropped = (string.punctuation if ignore_punctuation else "") + (string.digits if ignore_numbers else "")
    table = str.maketrans("", "", dropped)
    patterns = [re.compile(pattern) for pattern in regexes_to_ignore or ()]

    def normal(text: str) -> str:
        for pattern in patterns:
            text = pattern.sub("", text)
        if ignore_case:
            text = text.lower()
        return text.translate(table) if dropped else text

    return normal


def shares(outcomes: Sequence[Any], aggregation: str, aggregate: Callable[[Sequence[Any]], float]) -> Items:
    """Each item's share in the aggregate: numbers whose mean is the aggregate and whose spread is its error.

    A mean's outcomes are their own shares. Perplexities and bits per byte are functions g of a ratio r = Σa/Σb and are
    linearised: g(r) + g'(r)·(aᵢ − r·bᵢ)/mean(b). Any other aggregate gives block-jackknife pseudo-values.

    Args:
        outcomes: One per item, as the aggregation takes them.
        aggregation: lm-eval's name for it.
        aggregate: The aggregation itself.
    """
    if aggregation == "mean":
        return np.asarray(outcomes, dtype=np.float64)
    if aggregation == "perplexity":
        a, b = np.asarray(outcomes, dtype=np.float64), np.ones(len(outcomes))
    elif aggregation in ("weighted_perplexity", "bits_per_byte"):
        a, b = np.asarray(outcomes, dtype=np.float64).T
    else:
        return _jackknife(outcomes, aggregate)
    ratio = a.sum() / b.sum()
    influence = (a - ratio * b) / b.mean()
    if aggregation == "bits_per_byte":
        return np.asarray(-(ratio + influence) / log(2))
    return np.asarray(exp(-ratio) * (1 - influence))


def _jackknife(outcomes: Sequence[Any], aggregate: Callable[[Sequence[Any]], float]) -> Items:
    whole, n = float(aggregate(outcomes)), len(outcomes)
    blocks = np.array_split(np.arange(n), min(n, BLOCKS))
    if len(blocks) < 2:
        return np.full(n, whole)
    without = [float(aggregate([outcomes[i] for i in range(n) if not b[0] <= i <= b[-1]])) for b in blocks]
    pseudo = -(len(blocks) - 1) * (np.asarray(without) - whole)
    # items of one block share a number: the factor keeps the standard error of the mean that of the blocks
    spread = np.concatenate([np.full(len(b), p * np.sqrt(len(b))) for b, p in zip(blocks, pseudo, strict=True)])
    return np.asarray(whole + spread - spread.mean())
