"""Lessons: an answer after its context, in tokens, which is all that a smooth loss needs to know of an eval's item.

The likelihood of a right answer has a gradient where the eval's own metric is 0 or 1. A lesson carries the content hash
of the item it came from, so that all lessons of one item stay on one side of a fence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mergeopt.scoring.base import Split
from mergeopt.scoring.custom import CustomEval
from mergeopt.scoring.encoding import Encoder, Pair
from mergeopt.scoring.metrics import ChoiceFacts
from mergeopt.scoring.resident import right_answers
from mergeopt.scoring.suite import Suite
from mergeopt.scoring.tasks import EvalTask, Item


@dataclass(frozen=True, slots=True)
class Lesson:
    """Token ids of a context and of the answer that is learned after it, neither empty. `key`: a content hash."""

    context: tuple[int, ...]
    answer: tuple[int, ...]
    key: str

    @classmethod
    def of(cls, pair: Pair, key: str, *, max_length: int) -> "Lesson":
        """The lesson of a pair, its context cut from the left to a model of `max_length` positions."""
        context, answer = pair
        return cls(tuple(context[-(max_length + 1 - len(answer)) :]), tuple(answer), key)


def lessons_of(suite: Suite, name: str, split: Split, encoder: Encoder) -> list[Lesson]:
    """What a model could learn from one eval's items in `split`, in the items' order.

    A generating item teaches its first accepted answer that the metric finds right, with the target delimiter before it
    and the stop sequence after it; a choice or likelihood its gold continuation; a rolling text its windows. Items
    without such an answer teach nothing, nor does an eval with a scorer of its own.
    """
    task = suite.part(name)
    if isinstance(task, CustomEval):
        return []
    items = suite.items(name, split)
    found = zip(items, _pairs(task, items, encoder), strict=True)
    return [Lesson.of(pair, item.hash, max_length=encoder.max_length) for item, pairs in found for pair in pairs]


def _pairs(task: EvalTask, items: Sequence[Item], encoder: Encoder) -> list[list[Pair]]:
    if task.kind == "generate_until":
        return [right_answers(task, item, encoder)[:1] for item in items]
    if task.kind == "loglikelihood_rolling":
        return [encoder.windows(item.requests[0].context) for item in items]
    if task.kind == "multiple_choice":
        facts = task.facts(items)
        golds = facts.gold if isinstance(facts, ChoiceFacts) else [frozenset[int]()] * len(items)
        right = [[item.requests[i] for i in sorted(gold)[:1]] for item, gold in zip(items, golds, strict=True)]
    else:
        right = [list(item.requests) for item in items]
    return [[encoder.pair(request.context, request.continuation) for request in requests] for requests in right]
