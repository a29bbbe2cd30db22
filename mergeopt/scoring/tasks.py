"""lm-eval's tasks as plain values; with `task_loader` the only place that knows lm-eval's task API.

A task becomes plain values: documents, requests (texts to score or to continue), facts for the vectorised metrics, and
functions from responses to outcomes to one number. lm-eval's caches are never used: their keys hold neither weights
nor data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from typing import Any, Literal

from lm_eval import utils as lm_utils
from lm_eval.api import metrics as lm_metrics
from transformers import PreTrainedTokenizerBase

from mergeopt.errors import InputError, did_you_mean
from mergeopt.scoring.chat import render_chat
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.metrics import ChoiceFacts, Facts, RollingFacts, TextFacts
from mergeopt.scoring.templates import Templates

Kind = Literal["loglikelihood", "loglikelihood_rolling", "generate_until"]
Doc = Mapping[str, Any]

FEWSHOT_SEED = 1234  # lm-eval's default
_RENDERING = RLock()  # lm-eval's environment is one per process: two threads may not put theirs in its place at once
ROLES = {"train": "training_split", "validation": "validation_split", "test": "test_split"}


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask a model: the likelihood of `continuation` after `context`, of `context` itself (rolling), or
    a continuation of `context` under `gen_kwargs`."""

    kind: Kind
    context: str
    continuation: str = ""
    gen_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One question: its document and its requests, in lm-eval's order. `instances` belongs to lm-eval."""

    hash: str
    doc: Doc
    requests: tuple[Request, ...]
    instances: tuple[Any, ...]


class EvalTask:
    """One lm-eval task with one metric chosen."""

    def __init__(self, task: Any, entry: ObjectiveEntry, templates: Templates, *, local: bool, where: str) -> None:
        self._task, self._templates = task, templates
        self.entry, self.local, self.where = entry, local, where
        self.name = str(task.config.task)
        self.kind: str = task.OUTPUT_TYPE
        self.notices: tuple[str, ...] = ()
        self._configure()
        self._metric, self._filter = self._resolve_metric()

    def _configure(self) -> None:
        config, entry = self._task.config, self.entry
        if getattr(self._task, "MULTIMODAL", False):
            raise InputError("the eval needs images or audio", where=self.where, remedy="give an eval of text")
        if self.kind == "generate_until":
            config.generation_kwargs = {**(config.generation_kwargs or {}), **(entry.gen_kwargs or {})}
            if (config.repeats or 1) > 1 and config.generation_kwargs.get("do_sample"):
                raise InputError(
                    f"the eval samples {config.repeats} answers per item",
                    where=self.where,
                    remedy="set `gen_kwargs: {do_sample: false}` in the objective entry",
                )
        if entry.num_fewshot is not None:
            if config.num_fewshot == 0 != entry.num_fewshot:  # a task's own 0 is final, as in lm-eval
                self.notices += (f"{self.name}: the task says num_fewshot: 0, so {entry.num_fewshot} is not used",)
            else:
                config.num_fewshot = entry.num_fewshot
        if config.num_fewshot is None:
            config.num_fewshot = 0
        self._task.set_fewshot_seed(seed=FEWSHOT_SEED)

    def _resolve_metric(self) -> tuple[str, Any]:
        metrics = tuple(self._task.aggregation())
        filters = {f.name: f for f in self._task._filters}
        metric = self.entry.metric or metrics[0]
        metric, _, suffix = metric.partition(",")
        name = self.entry.filter or suffix or next(iter(filters))
        if metric not in metrics:
            raise InputError(
                f"eval {self.name!r} has no metric {metric!r}",
                where=self.where,
                remedy=did_you_mean(metric, list(metrics)),
            )
        if name not in filters:
            raise InputError(
                f"eval {self.name!r} has no filter {name!r}", where=self.where, remedy=did_you_mean(name, list(filters))
            )
        if not callable(self._task.aggregation()[metric]):
            raise InputError(f"lm-eval has no such aggregation for {metric!r} of {self.name!r}", where=self.where)
        return metric, filters[name]

    @property
    def metric(self) -> str:
        """The metric's name, without its filter."""
        return self._metric

    @property
    def metric_key(self) -> str:
        """lm-eval's name for the number: "metric,filter"."""
        return f"{self._metric},{self._filter.name}"

    @property
    def higher_is_better(self) -> bool:
        """The entry's direction, else lm-eval's."""
        if self.entry.direction is not None:
            return self.entry.direction == "maximize"
        return bool(self._task.higher_is_better().get(self._metric, True))

    @property
    def num_fewshot(self) -> int:
        """Examples in each prompt."""
        return int(self._task.config.num_fewshot)

    @cached_property
    def aggregation(self) -> str:
        """The name of the aggregation if it is one whose per-item shares are known, else "other"."""
        known = ("mean", "perplexity", "weighted_perplexity", "bits_per_byte")
        function = self._task.aggregation()[self._metric]
        return next((name for name in known if getattr(lm_metrics, name) is function), "other")

    # ----------------------------------------------------------------------------------------------- documents

    def split_of(self, role: str) -> str | None:
        """The dataset split that plays `role` (train, validation, test), or a split of that very name; None: absent."""
        declared = getattr(self._task.config, ROLES[role]) if role in ROLES else None
        if declared is None and role not in ROLES and role in self._task.dataset:
            return role
        return declared

    def docs(self, split: str) -> list[Doc]:
        """All documents of a dataset split, processed as the task says."""
        data = self._task.dataset[split]
        if self._task.config.process_docs is not None:
            data = self._task.config.process_docs(data)
        return list(data)

    def eval_docs(self) -> list[Doc]:
        """What lm-eval itself would evaluate."""
        return list(self._task.eval_docs)

    def fewshot_split(self) -> str | None:
        """The dataset split that examples come from by the task's own rule; None where it lists them itself."""
        config = self._task.config
        if config.fewshot_config.split is not None:
            return str(config.fewshot_config.split)
        if config.fewshot_config.samples is not None:
            return None
        found: str | None = config.training_split or config.validation_split or config.test_split
        return found

    def use_fewshot_pool(self, docs: Sequence[Doc]) -> None:
        """Draws few-shot examples from these documents only."""
        self._task.sampler.replace_df(list(docs))

    # ------------------------------------------------------------------------------------------------ requests

    def items(
        self,
        docs: Sequence[Doc],
        hashes: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        fewshot_by_content: bool,
    ) -> list[Item]:
        """Renders documents into requests.

        Args:
            docs: In order.
            hashes: Their content hashes.
            tokenizer: For its chat template.
            fewshot_by_content: Choose each item's examples by its content hash, so that they do not depend on the other
                items; else draw them one item after the other, as lm-eval does.
        """
        task, chat = self._task, self.entry.chat_template
        template: Callable[..., str] | None = None
        if chat:

            def template(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
                return render_chat(tokenizer, messages, add_generation_prompt=add_generation_prompt)

        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        made: list[Item] = []
        for number, (doc, digest) in enumerate(zip(docs, hashes, strict=True)):
            if fewshot_by_content and self.num_fewshot:
                task.set_fewshot_seed(seed=int(digest, 16))
            with self._rendering(number), rendered_by(self._templates):
                context = task.fewshot_context(
                    doc,
                    num_fewshot=self.num_fewshot,
                    system_instruction=self.entry.system,
                    apply_chat_template=chat,
                    fewshot_as_multiturn=True,  # simple_evaluate's default
                    chat_template=template,
                    gen_prefix=task.doc_to_prefix(doc),
                )
                built = task.construct_requests(
                    doc=doc,
                    ctx=context,
                    metadata=(self.name, number, task.config.repeats),
                    apply_chat_template=chat,
                    chat_template=template,
                )
            instances = tuple(built) if isinstance(built, list) else (built,)
            made.append(Item(digest, doc, tuple(map(_request, instances)), instances))
        return made

    @contextmanager
    def _rendering(self, number: int) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # templates are the user's code: anything can happen in them
            raise InputError(
                f"item {number} cannot be rendered: {type(error).__name__}: {error}", where=self.where
            ) from error

    # ------------------------------------------------------------------------------------------------ outcomes

    def filtered(self, items: Sequence[Item], responses: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Responses after the chosen filter: per item, one per request."""
        instances = [instance for item in items for instance in item.instances]
        flat = [response for item_responses in responses for response in item_responses]
        for instance, response in zip(instances, flat, strict=True):
            instance.resps = [response] * (instance.repeats or 1)
            instance.filtered_resps = {}
        self._filter.apply(instances)
        return [[instance.filtered_resps[self._filter.name] for instance in item.instances] for item in items]

    def outcomes(self, items: Sequence[Item], filtered: Sequence[Sequence[Any]]) -> list[Any]:
        """lm-eval's own outcome of each item.

        Raises:
            InputError: The task gives no such metric for some item.
        """
        found = []
        for item, responses in zip(items, filtered, strict=True):
            with rendered_by(self._templates):
                results = self._task.process_results(item.doc, list(responses))
            if self._metric not in results:
                raise InputError(
                    f"eval {self.name!r} gave no {self._metric!r} for an item, only {', '.join(results)}",
                    where=self.where,
                )
            found.append(results[self._metric])
        return found

    def aggregate(self, outcomes: Sequence[Any]) -> float:
        """lm-eval's aggregate of the items' outcomes."""
        return float(self._task.aggregation()[self._metric](list(outcomes)))

    def facts(self, items: Sequence[Item]) -> Facts | None:
        """What the vectorised metrics need to know of these items; None where the task computes its own results."""
        if self._task.config.process_results is not None or not items:
            return None
        with rendered_by(self._templates):
            return self._facts([item.doc for item in items])

    def _facts(self, docs: Sequence[Doc]) -> Facts | None:
        task = self._task
        if self.kind == "multiple_choice":
            choices = [task.doc_to_choice(doc) for doc in docs]
            golds = [task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc) for doc in docs]
            return ChoiceFacts(
                gold=[_gold_choices(gold, choice) for gold, choice in zip(golds, choices, strict=True)],
                chars=[[float(len(c)) for c in choice] for choice in choices],
                bytes=[[float(len(c.encode())) for c in choice] for choice in choices],
            )
        if self.kind == "generate_until":
            return TextFacts([self._answers(doc) for doc in docs], task._metric_fn_kwargs.get(self._metric, {}))
        if self.kind == "loglikelihood_rolling":
            texts = [task.doc_to_target(doc) for doc in docs]
            return RollingFacts([task.count_words(t) for t in texts], [task.count_bytes(t) for t in texts])
        return None

    def answers(self, doc: Doc) -> list[str]:
        """The answers that a generation is compared with."""
        with rendered_by(self._templates):
            return self._answers(doc)

    def _answers(self, doc: Doc) -> list[str]:
        gold = self._task.doc_to_target(doc)
        if self._task.config.doc_to_choice is not None:
            gold = self._task.doc_to_choice(doc)[gold]
        return [str(g) for g in gold] if isinstance(gold, list) else [str(gold)]

    @property
    def target_delimiter(self) -> str:
        """What stands between a question and its answer."""
        return str(self._task.config.target_delimiter)


def _request(instance: Any) -> Request:
    kind: Kind = instance.request_type
    if kind == "generate_until":
        return Request(kind, instance.args[0], gen_kwargs=instance.args[1])
    return Request(kind, *instance.args)


def _gold_choices(gold: Any, choices: Sequence[str]) -> frozenset[int]:
    if isinstance(gold, list):
        return frozenset(g for g in gold if g < len(choices))
    if isinstance(gold, str):
        return frozenset({choices.index(gold)} if gold in choices else ())
    return frozenset({int(gold)} if gold < len(choices) else ())


@contextmanager
def rendered_by(templates: Templates) -> Iterator[None]:
    """lm-eval renders its templates with ours, put back afterwards; one thread at a time."""
    with _RENDERING:
        before = lm_utils.env
        lm_utils.env = templates
        try:
            yield
        finally:
            lm_utils.env = before
