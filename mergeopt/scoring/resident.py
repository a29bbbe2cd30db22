"""Scores the model that is resident in memory, whatever weights it holds at the moment.

What does not depend on the weights (tokens, batches, gold answers) is made once per split; a candidate then costs its
forward passes and a few microseconds per item.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from mergeopt.errors import InputError, MergeoptError
from mergeopt.scoring.base import EvalInfo, EvalScore, Items, Scores, Split
from mergeopt.scoring.custom import CustomEval
from mergeopt.scoring.encoding import Encoder, Generation, Pair
from mergeopt.scoring.forward import Batching, LikelihoodPlan
from mergeopt.scoring.generate import Generator
from mergeopt.scoring.metrics import Facts, fast_outcomes, shares
from mergeopt.scoring.suite import Suite
from mergeopt.scoring.tasks import EvalTask, Item, Request

SMALLEST_BATCH = 256  # tokens; a model that cannot do this much does not fit
CPU_BATCH = 1024  # tokens of a likelihood pass on a CPU: activations stay in its cache (1.5 times as fast as 16k)


@dataclass(frozen=True, slots=True)
class _Handle:
    """Where a request's response will be: positions among the likelihoods, or one among a batch of generations."""

    request: Request
    likelihoods: tuple[int, ...] = ()
    generation: tuple[str, int] | None = None


@dataclass(slots=True)
class _Work:
    """Everything one split asks of the model; `handles` and `forced` are per eval, per item."""

    pairs: list[Pair] = field(default_factory=list)
    prompts: dict[str, list[list[int]]] = field(default_factory=lambda: defaultdict(list))
    generations: dict[str, Generation] = field(default_factory=dict)
    handles: dict[str, list[list[_Handle]]] = field(default_factory=dict)
    forced: dict[str, list[list[int]]] = field(default_factory=dict)
    plan: LikelihoodPlan | None = None

    def add_pair(self, pair: Pair) -> int:
        self.pairs.append(pair)
        return len(self.pairs) - 1


class ResidentScorer:
    """Scores a resident model on a suite.

    Args:
        suite: The evals.
        model: On its device, in evaluation; its weights may change between calls.
        batch_size: Rows per forward pass; without it as many as fit into `batch_tokens`.
        batch_tokens: Padded tokens per forward pass; halved when the device runs out of memory.
    """

    def __init__(
        self, suite: Suite, model: PreTrainedModel, *, batch_size: int | None = None, batch_tokens: int = 16_384
    ) -> None:
        self._suite, self._model = suite, model
        self._batching = Batching(batch_size, batch_tokens)
        self.encoder = Encoder(model, suite.tokenizer)
        self._generator = Generator(model, self.encoder, self._batching)
        self._work: dict[tuple[Split, frozenset[str]], _Work] = {}
        self._facts: dict[tuple[str, Split], Facts | None] = {}
        self._agreed: set[tuple[str, Split]] = set()  # the vectorised metric gave lm-eval's outcomes here
        self._slow: set[str] = set()  # it did not: lm-eval's code from now on

    @property
    def evals(self) -> tuple[EvalInfo, ...]:
        """The suite's evals, in order."""
        return self._suite.evals

    def score(self, split: Split, *, forced: frozenset[str] = frozenset()) -> Scores:
        """Every eval on `split`, in one go: requests of all evals share batches.

        Args:
            split: Of the suite.
            forced: Evals to judge by one teacher-forced pass instead of generating; see `forcing_agrees`.

        Raises:
            NonFiniteError: The model computed NaN or Inf.
        """
        while True:
            try:
                return self._score(split, forced)
            except torch.OutOfMemoryError:
                self._shrink()

    def _shrink(self) -> None:
        """Half as many tokens per pass from now on."""
        if self._batching.rows is not None or self._batching.tokens <= SMALLEST_BATCH:
            raise MergeoptError("the device is out of memory while scoring; give a smaller batch size") from None
        self._batching = Batching(tokens=self._batching.tokens // 2)
        self._generator = Generator(self._model, self.encoder, self._batching)
        self._work.clear()
        torch.cuda.empty_cache()

    def _score(self, split: Split, forced: frozenset[str]) -> Scores:
        if (split, forced) not in self._work:
            self._work[split, forced] = self._prepare(split, forced)
        work = self._work[split, forced]
        logprobs, greedy = work.plan.run(self._model) if work.plan else (np.zeros(0), np.zeros(0, dtype=np.bool_))
        tokens = work.plan.tokens if work.plan else 0
        answers: dict[str, list[str]] = {}
        for key, prompts in work.prompts.items():
            answers[key], used = self._generator.run(prompts, work.generations[key])
            tokens += used
        # plain numbers: indexing an array one by one is slower than the whole loop
        found = list(zip(logprobs.tolist(), greedy.tolist(), strict=True))
        scores = {info.name: self._score_eval(info, split, work, found, answers) for info in self.evals}
        return Scores(split, scores, tokens)

    def forcing_agrees(self, split: Split) -> dict[str, bool]:
        """For every eval that generates: does one teacher-forced pass give the model's outcome on every item?"""
        names = [i.name for i in self.evals if self._generates(i.name)]
        able = frozenset(name for name in names if self._forced_pairs(name, split) is not None)
        if not able:
            return dict.fromkeys(names, False)
        generated, forced = self.score(split), self.score(split, forced=able)
        return {n: n in able and np.array_equal(generated[n].items, forced[n].items) for n in names}

    # ------------------------------------------------------------------------------------------ before the model

    def _prepare(self, split: Split, forced: frozenset[str]) -> _Work:
        work = _Work()
        for info in self.evals:
            part = self._suite.part(info.name)
            if isinstance(part, CustomEval):
                continue
            if info.name in forced:
                pairs = self._forced_pairs(info.name, split)
                if pairs is None:
                    raise InputError(f"eval {info.name!r} cannot be judged by teacher forcing")
                work.forced[info.name] = [[work.add_pair(pair) for pair in choices] for choices in pairs]
            else:
                items = self._suite.items(info.name, split)
                work.handles[info.name] = [[self._handle(work, r) for r in item.requests] for item in items]
        if work.pairs:
            device, batching = self._model.device, self._batching
            if device.type == "cpu":
                batching = Batching(batching.rows, min(batching.tokens, CPU_BATCH))
            work.plan = LikelihoodPlan.of(
                work.pairs, max_length=self.encoder.max_length, batching=batching, device=device
            )
        return work

    def _handle(self, work: _Work, request: Request) -> _Handle:
        if request.kind == "loglikelihood":
            return _Handle(request, (work.add_pair(self.encoder.pair(request.context, request.continuation)),))
        if request.kind == "loglikelihood_rolling":
            return _Handle(request, tuple(work.add_pair(pair) for pair in self.encoder.windows(request.context)))
        generation = self.encoder.generation(request.gen_kwargs or {})
        work.generations[generation.key] = generation
        work.prompts[generation.key].append(self.encoder.prompt(request.context, generation))
        return _Handle(request, generation=(generation.key, len(work.prompts[generation.key]) - 1))

    def _generates(self, name: str) -> bool:
        part = self._suite.part(name)
        return isinstance(part, EvalTask) and part.kind == "generate_until"

    def _forced_pairs(self, name: str, split: Split) -> list[list[Pair]] | None:
        """Per item, what greedy decoding must produce to be right: one (context, answer + stop) per accepted answer.

        None where the outcome is no exact match under greedy decoding, or where an answer has no such form.
        """
        task = self._suite.part(name)
        if not isinstance(task, EvalTask) or task.metric != "exact_match" or task.aggregation != "mean":
            return None
        pairs = [self._forced_item(task, item) for item in self._suite.items(name, split)]
        return None if any(not choices for choices in pairs) else pairs

    def _forced_item(self, task: EvalTask, item: Item) -> list[Pair]:
        generation = self.encoder.generation(item.requests[0].gen_kwargs or {})
        return right_answers(task, item, self.encoder) if generation.greedy else []

    # ------------------------------------------------------------------------------------------- after the model

    def _score_eval(
        self,
        info: EvalInfo,
        split: Split,
        work: _Work,
        found: Sequence[tuple[float, bool]],
        answers: dict[str, list[str]],
    ) -> EvalScore:
        part = self._suite.part(info.name)
        if isinstance(part, CustomEval):
            items = part.score(self._model, self._suite.tokenizer, self._suite.docs(info.name, split))
            return _eval_score(info, float(items.mean()), items)
        if info.name in work.forced:
            outcomes: list[Any] = [float(any(found[i][1] for i in item)) for item in work.forced[info.name]]
        else:
            responses = [[_response(h, found, answers) for h in item] for item in work.handles[info.name]]
            outcomes = self._outcomes(info.name, part, split, responses)
        return _eval_score(info, part.aggregate(outcomes), shares(outcomes, part.aggregation, part.aggregate))

    def _outcomes(self, name: str, task: EvalTask, split: Split, responses: Sequence[Sequence[Any]]) -> list[Any]:
        items = self._suite.items(name, split)
        filtered = task.filtered(items, responses)
        if name not in self._slow:
            if (name, split) not in self._facts:
                self._facts[name, split] = task.facts(items)
            facts = self._facts[name, split]
            fast = fast_outcomes(task.metric, facts, filtered) if facts is not None else None
            if fast is not None and (name, split) in self._agreed:
                return fast
            exact = task.outcomes(items, filtered)
            if fast == exact:
                self._agreed.add((name, split))
            else:
                self._slow.add(name)
            return exact
        return task.outcomes(items, filtered)


def right_answers(task: EvalTask, item: Item, encoder: Encoder) -> list[Pair]:
    """The prompt of a generating item with each accepted answer that the metric finds right, and the first stop.

    The answer follows the task's target delimiter, or the prompt itself where only that is right or can be forced.
    """
    (request,) = item.requests
    generation = encoder.generation(request.gen_kwargs or {})
    found = []
    for answer in task.answers(item.doc) if generation.stops else ():
        for text in (task.target_delimiter + answer, answer):
            right = task.outcomes([item], task.filtered([item], [[text]])) == [1.0]
            pair = encoder.forced(request.context, text, generation) if right else None
            if pair is not None:
                found.append(pair)
                break
    return found


def _response(handle: _Handle, found: Sequence[tuple[float, bool]], answers: dict[str, list[str]]) -> Any:
    if handle.generation is not None:
        key, position = handle.generation
        return answers[key][position]
    if handle.request.kind == "loglikelihood":
        return found[handle.likelihoods[0]]
    return sum(found[i][0] for i in handle.likelihoods)


def _eval_score(info: EvalInfo, value: float, items: Items) -> EvalScore:
    return EvalScore(info.name, info.metric, value, items, info.higher_is_better)
