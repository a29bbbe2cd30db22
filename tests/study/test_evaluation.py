"""Models side by side."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.study.evaluation import evaluate_models
from mergeopt.study.workbench import Compute
from tests.study.family import search_data
from tests.study.test_search import search

CPU = Compute(torch.device("cpu"))


def test_differences_are_to_the_first_model(work: Path) -> None:
    rows, _ = evaluate_models(
        ["zoo/base", "zoo/upper"], ["evals/upper_lines.yaml", "evals/upper_first.yaml"], CPU, limit=20
    )
    assert [row.model for row in rows] == ["zoo/base", "zoo/upper"] and rows[0].against == {}
    for name, cell in rows[1].evals.items():
        difference = rows[1].against[name]
        assert difference.n == 20
        assert difference.mean == pytest.approx(cell.value - rows[0].evals[name].value)
        assert difference.low <= difference.mean <= difference.high
    assert rows[1].evals["upper_lines"].value < rows[0].evals["upper_lines"].value
    assert np.isfinite(rows[1].evals["upper_first"].stderr)


def test_the_splits_of_a_search(work: Path, tmp_path: Path) -> None:
    outcome = search(search_data(trials=2), tmp_path, write=True)
    out = str(outcome.out)
    winner = outcome.found.result.row(outcome.found.result.winner)
    rows, _ = evaluate_models([out, "zoo/base"], [], CPU)
    assert rows[0].evals == winner.evals
    assert rows[1].evals == outcome.found.result.row("zoo/base").evals
    select, _ = evaluate_models([out], [], CPU, split="select")
    assert select[0].evals != winner.evals
    evaluate_models([out], ["evals/upper_lines.yaml"], CPU)  # named evals read no report items
    again = search(search_data(trials=2), tmp_path, resume=True)
    assert [n for n in again.found.result.notices if "report items were read 2 times" in n]


@pytest.mark.parametrize(
    ("models", "evals", "split", "said"),
    [
        (["zoo/upper"], ["evals/upper_lines.yaml"], "report", "--split report is for the output of a search"),
        (["zoo/uper"], ["evals/upper_lines.yaml"], None, "zoo/uper is not on disk; did you mean 'upper'?"),
        (["zoo/upper"], ["evals/uper_lines.yaml"], None, "no such file: evals/uper_lines.yaml; did you mean 'upper_li"),
    ],
)
def test_mistakes(models: list[str], evals: list[str], split: str | None, said: str, work: Path) -> None:
    with pytest.raises(InputError) as caught:
        evaluate_models(models, evals, CPU, split=split)
    assert said in str(caught.value)


def test_an_unknown_split(work: Path, tmp_path: Path) -> None:
    out = search(search_data(trials=1), tmp_path, write=True).out
    with pytest.raises(InputError, match="--split: unknown split 'all'; use report, select or search"):
        evaluate_models([str(out)], [], CPU, split="all")
