import pytest

from mergeopt.errors import InputError
from mergeopt.scoring.base import NonFiniteError
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.resident import ResidentScorer
from mergeopt.scoring.suite import Suite

SCORER = """
def length(model, tokenizer, items):
    return [len(tokenizer.encode(item["text"])) / BY for item in items]

length.items = [{"text": "ab" * n} for n in range(1, 61)]
length.higher_is_better = False

def bare(model, tokenizer, items):
    return []
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    name = f"scorer_{request.node.name.replace('[', '_').replace(']', '')}"
    (tmp_path / f"{name}.py").write_text(SCORER.replace("BY", getattr(request, "param", "1")))
    monkeypatch.syspath_prepend(tmp_path)
    return name


def suite(name, tokenizer, *, trust=True):
    return Suite.build([ObjectiveEntry(eval=f"python:{name}")], tokenizer=tokenizer, trust_eval_code=trust)


def test_a_function_scores_each_item(module, model, tokenizer):
    made = suite(f"{module}.length", tokenizer)
    score = ResidentScorer(made, model).score("search")["length"]
    assert score.items.tolist() == [len(doc["text"]) for doc in made.docs("length", "search")]
    assert score.value == score.items.mean() and not score.higher_is_better
    assert made.evals[0].count("search") == 36


def test_own_code_needs_trust_and_its_attributes(module, tokenizer):
    with pytest.raises(InputError, match="--trust-eval-code"):
        suite(f"{module}.length", tokenizer, trust=False)
    with pytest.raises(InputError, match="no attribute 'items'"):
        suite(f"{module}.bare", tokenizer)
    with pytest.raises(InputError, match="cannot import the scorer"):
        suite(f"{module}.absent", tokenizer)


@pytest.mark.parametrize("module", ["float('nan')"], indirect=True)
def test_nan_is_a_failed_trial(module, model, tokenizer):
    with pytest.raises(NonFiniteError):
        ResidentScorer(suite(f"{module}.length", tokenizer), model).score("search")
