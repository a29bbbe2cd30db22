"""Scores equal lm-eval's own, value and item by item."""

import copy
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from mergeopt.errors import InputError, MergeoptError
from mergeopt.scoring import resident
from mergeopt.scoring.base import NonFiniteError
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.resident import ResidentScorer
from mergeopt.scoring.splits import Shares, content_hash
from mergeopt.scoring.suite import Suite
from mergeopt.scoring.task_file import with_absolute_data
from mergeopt.scoring.tasks import EvalTask

SEARCH_ONLY = Shares(0, 1, 0, 0)


def by_lm_eval(model: Any, tokenizer: Any, path: Path, **arguments: Any) -> dict[str, Any]:
    """lm-eval's results on a task file, with its per-item samples in document order."""
    results = simple_evaluate(
        HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=7),
        tasks=[with_absolute_data(load_yaml(path), path)],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        **arguments,
    )
    assert results is not None
    return results


def by_us(model: Any, tokenizer: Any, *entries: ObjectiveEntry, **arguments: Any) -> Any:
    return ResidentScorer(Suite.whole(entries, tokenizer=tokenizer), model, **arguments).score("all")


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize(("kind", "metric"), [("generate", "exact_match"), ("choice", "acc"), ("choice", "acc_norm")])
def test_outcomes_equal_lm_eval(kind, metric, shots, model, tokenizer, make_task):
    path = make_task(kind)
    theirs = by_lm_eval(model, tokenizer, path, num_fewshot=shots)
    ours = by_us(model, tokenizer, ObjectiveEntry(eval=str(path), metric=metric, num_fewshot=shots))[kind]
    samples = [s[metric] for s in theirs["samples"][kind]]
    assert ours.items.tolist() == samples
    assert ours.value == theirs["results"][kind][f"{metric},none"]
    if shots == 0:
        assert 0 < ours.value < 1  # a constant outcome would compare nothing


@pytest.mark.parametrize("metric", ["bits_per_byte", "word_perplexity"])
def test_rolling_likelihood_equals_lm_eval(metric, model, tokenizer, make_task):
    path = make_task("rolling")
    theirs = by_lm_eval(model, tokenizer, path)
    ours = by_us(model, tokenizer, ObjectiveEntry(eval=str(path), metric=metric))["rolling"]
    logprobs, sizes = np.array([s[metric] for s in theirs["samples"]["rolling"]]).T
    assert ours.value == pytest.approx(theirs["results"]["rolling"][f"{metric},none"], rel=1e-6)
    assert not ours.higher_is_better
    if metric == "bits_per_byte":
        rate = logprobs.sum() / sizes.sum()
        expected = -(rate + (logprobs - rate * sizes) / sizes.mean()) / log(2)
        assert ours.items == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "metric", "texts"),
    [
        # no two windows alike: lm-eval mixes up windows of equal tokens that are cut differently
        ("rolling", "bits_per_byte", {"doc_to_target": "{{q ~ n ~ q ~ 'abdchgfe' ~ q ~ a ~ q ~ q ~ n ~ q ~ q}}"}),
        ("choice", "acc_norm", {"doc_to_text": "{{q * 9}} =>"}),
        ("generate", "exact_match", {"doc_to_text": "{{q * 9}} =>"}),
    ],
)
def test_texts_longer_than_the_model_equal_lm_eval(kind, metric, texts, short_model, tokenizer, make_task):
    path = make_task(kind, **texts)
    theirs = by_lm_eval(short_model, tokenizer, path)["results"][kind][f"{metric},none"]
    ours = by_us(short_model, tokenizer, ObjectiveEntry(eval=str(path), metric=metric))[kind]
    assert ours.value == pytest.approx(theirs, rel=1e-6)


def test_filters_and_comparison_settings_equal_lm_eval(model, tokenizer, make_task):
    first = {"function": "take_first"}
    path = make_task(
        "generate",
        doc_to_target="{{a.lower()}}",
        metric_list=[
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
        ],
        filter_list=[
            {"name": "letter", "filter": [{"function": "regex", "regex_pattern": "([A-Z])"}, first]},
            {"name": "strict", "filter": [first]},
        ],
    )  # fmt: skip
    theirs = by_lm_eval(model, tokenizer, path)["results"]["generate"]
    by_filter = [
        by_us(model, tokenizer, ObjectiveEntry(eval=str(path), filter=f))["generate"] for f in ("letter", "strict")
    ]
    assert [s.value for s in by_filter] == [theirs["exact_match,letter"], theirs["exact_match,strict"]]
    assert by_filter[0].value > by_filter[1].value == 0
    assert by_us(model, tokenizer, ObjectiveEntry(eval=str(path)))["generate"].metric == "exact_match,letter"


def test_chat_template_equals_lm_eval(model, tokenizer, make_task):
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.content }}{% if m.role == 'assistant' %}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{% endif %}"
    )
    path = make_task("generate")
    theirs = by_lm_eval(
        model,
        chatty,
        path,
        num_fewshot=1,
        apply_chat_template=True,
        system_instruction="abc",
        fewshot_as_multiturn=True,
    )
    entry = ObjectiveEntry(eval=str(path), num_fewshot=1, chat_template=True, system="abc")
    suite = Suite.whole([entry], tokenizer=chatty)
    prompts = [item.requests[0].context for item in suite.items("generate", "all")]
    assert prompts == [s["arguments"][0][0] for s in theirs["samples"]["generate"]]
    ours = ResidentScorer(suite, model).score("all")["generate"]
    assert ours.items.tolist() == [s["exact_match"] for s in theirs["samples"]["generate"]]
    with pytest.raises(InputError, match="no chat template"):
        by_us(model, tokenizer, entry)


def test_a_split_equals_lm_eval_on_the_same_items(model, tokenizer, make_task):
    path = make_task("generate")
    suite = Suite.build([ObjectiveEntry(eval=str(path))], tokenizer=tokenizer, shares=Shares(0, 1, 0, 1))
    theirs = by_lm_eval(model, tokenizer, path)["samples"]["generate"]
    outcome = {content_hash(s["doc"]): s["exact_match"] for s in theirs}
    found = ResidentScorer(suite, model).score("search")["generate"].items
    assert found.tolist() == [outcome[h] for h in suite.evals[0].hashes["search"]]
    assert 0 < len(found) < 40


def test_an_unknown_metric_is_left_to_lm_eval(model, tokenizer, make_task):
    metrics = [{"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False}]
    path = make_task("choice", metric_list=metrics)
    theirs = by_lm_eval(model, tokenizer, path)["results"]["choice"]["brier_score,none"]
    scorer = ResidentScorer(Suite.whole([ObjectiveEntry(eval=str(path))], tokenizer=tokenizer), model)
    for _ in range(2):
        score = scorer.score("all")["choice"]
        assert score.value == pytest.approx(theirs, rel=1e-5)
        assert score.items.mean() == pytest.approx(score.value)


def test_a_shortcut_that_disagrees_is_never_used_again(model, tokenizer, make_task, monkeypatch):
    path = make_task("choice")
    right = by_us(model, tokenizer, ObjectiveEntry(eval=str(path)))["choice"].items
    monkeypatch.setattr(resident, "fast_outcomes", lambda metric, facts, responses: [0.5] * len(responses))
    scorer = ResidentScorer(Suite.whole([ObjectiveEntry(eval=str(path))], tokenizer=tokenizer), model)
    for _ in range(2):
        assert scorer.score("all")["choice"].items.tolist() == right.tolist()


def test_a_shortcut_that_agreed_saves_lm_evals_code(model, tokenizer, make_task, monkeypatch):
    path = make_task("choice")
    scorer = ResidentScorer(Suite.whole([ObjectiveEntry(eval=str(path))], tokenizer=tokenizer), model)
    first = scorer.score("all")["choice"]
    monkeypatch.setattr(EvalTask, "outcomes", lambda *_: pytest.fail("the slow way was taken"))
    assert scorer.score("all")["choice"].items.tolist() == first.items.tolist()


def test_weights_are_read_anew(model, tokenizer, make_task):
    changing = copy.deepcopy(model)
    suite = Suite.whole([ObjectiveEntry(eval=str(make_task("rolling")))], tokenizer=tokenizer)
    scorer = ResidentScorer(suite, changing)
    before = scorer.score("all")["rolling"].value
    with torch.no_grad():
        changing.lm_head.weight.mul_(0.5)
    after = scorer.score("all")["rolling"].value
    assert after != before
    with torch.no_grad():
        changing.lm_head.weight.mul_(2)
    assert scorer.score("all")["rolling"].value == before


@pytest.mark.parametrize("batching", [{"batch_size": 1}, {"batch_size": 3}, {"batch_tokens": 64}, {}])
def test_the_batch_size_changes_no_outcome(batching, model, tokenizer, make_task):
    entries = [ObjectiveEntry(eval=str(make_task(kind))) for kind in ("generate", "choice", "rolling")]
    found, expected = by_us(model, tokenizer, *entries, **batching), by_us(model, tokenizer, *entries, batch_size=5)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.items == pytest.approx(theirs.items, rel=1e-5)
    assert found.tokens > 0


@pytest.mark.parametrize("kind", ["generate", "choice", "rolling"])
def test_nan_weights_are_a_failed_trial(kind, model, tokenizer, make_task):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.lm_head.weight[5, 5] = float("nan")
    with pytest.raises(NonFiniteError):
        by_us(broken, tokenizer, ObjectiveEntry(eval=str(make_task(kind))))


def test_memory_that_runs_out_halves_the_batches(model, tokenizer, make_task, monkeypatch):
    entry = ObjectiveEntry(eval=str(make_task("rolling")))
    expected = by_us(model, tokenizer, entry)["rolling"].value
    small = copy.deepcopy(model)
    forward = small.forward

    def short_of_memory(ids, **arguments):
        if ids.numel() > 300:
            raise torch.OutOfMemoryError
        return forward(ids, **arguments)

    monkeypatch.setattr(small, "forward", short_of_memory)
    assert by_us(small, tokenizer, entry)["rolling"].value == pytest.approx(expected, rel=1e-5)
    with pytest.raises(MergeoptError, match="smaller batch size"):
        by_us(small, tokenizer, entry, batch_size=40)


def test_forcing_agrees_and_costs_no_generation(model, tokenizer, make_task, monkeypatch):
    entries = [ObjectiveEntry(eval=str(make_task(kind))) for kind in ("generate", "choice")]
    suite = Suite.build(entries, tokenizer=tokenizer, shares=SEARCH_ONLY)
    scorer = ResidentScorer(suite, model)
    assert scorer.forcing_agrees("search") == {"generate": True}
    generated = scorer.score("search")
    monkeypatch.setattr(type(model), "generate", lambda *_, **__: pytest.fail("it generated"))
    forced = scorer.score("search", forced=frozenset({"generate"}))
    assert 0 < forced["generate"].value < 1
    assert [s.items.tolist() for s in forced] == [s.items.tolist() for s in generated]


def test_forcing_is_not_offered_where_it_cannot_tell(model, tokenizer, make_task):
    sampled = ObjectiveEntry(eval=str(make_task("generate")), gen_kwargs={"do_sample": True, "temperature": 1.0})
    suite = Suite.build([sampled], tokenizer=tokenizer, shares=SEARCH_ONLY)
    scorer = ResidentScorer(suite, model)
    assert scorer.forcing_agrees("search") == {"generate": False}
    with pytest.raises(InputError, match="teacher forcing"):
        scorer.score("search", forced=frozenset({"generate"}))


def test_forcing_disagrees_when_another_text_is_right_too(model, tokenizer, make_task):
    # any capital counts: the forced pass knows one text, the model writes another
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "regexes_to_ignore": ["[ A-Z]"]}
    suite = Suite.build(
        [ObjectiveEntry(eval=str(make_task("generate", metric_list=[metric])))], tokenizer=tokenizer, shares=SEARCH_ONLY
    )
    assert ResidentScorer(suite, model).forcing_agrees("search") == {"generate": False}


def test_the_process_keeps_its_random_state(model, tokenizer, make_task):
    sampled = ObjectiveEntry(eval=str(make_task("generate")), gen_kwargs={"do_sample": True, "temperature": 1.0})
    state = torch.random.get_rng_state()
    first = by_us(model, tokenizer, sampled)["generate"]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert by_us(model, tokenizer, sampled)["generate"].items.tolist() == first.items.tolist()
