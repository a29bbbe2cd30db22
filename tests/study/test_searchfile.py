"""The search file: what it may say, and how each mistake is answered."""

from pathlib import Path
from typing import Any

import pytest

from mergeopt.errors import InputError
from mergeopt.recipe.document import parse_document
from mergeopt.study.searchfile import SearchFile, read_search_file

FULL = """\
recipe:
  merge_method: ties
  base_model: zoo/base
  models:
    - model: zoo/reverse
      parameters:
        weight: {range: [0.0, 1.5], init: 0.5, depth: 4}
        density: {range: [0.1, 1.0], init: 0.5}
    - model: zoo/sort
      parameters:
        weight:
          - {filter: self_attn, value: {range: [0.0, 1.5], depth: layers}}
          - {filter: mlp, value: {range: [0.0, 1.5], depth: 4, outer: {range: [0, 1]}}}
          - {value: {range: [0.0, 1.0], share: rest}}
        density: 0.6
  parameters: {lambda: {range: [0.3, 1.5], init: 1.0, log: true}}
  dtype: bfloat16
objective:
  - {eval: evals/reverse.yaml, metric: acc, weight: 1.0, teacher: zoo/reverse, filter: none, direction: max}
  - {eval: evals/sort.yaml, num_fewshot: 2, chat_template: true, system: Be brief., gen_kwargs: {max_gen_toks: 8}}
  - {eval: evals/general.yaml, metric: bits_per_byte, limit: 100, source: train, at_most: {base: 1.02}}
  - {eval: evals/more.yaml, at_least: 0.5}
optimize:
  method: auto
  trials: 200
  tokens: 5M
  time: 30m
  seed: 0
  splits: {calibrate: 0.2, search: 0.4, select: 0.2, report: 0.2}
  portable: true
  start: [recipes/known.yaml]
  compare: [recipes/published.yaml]
learn:
  loss: kl
  prompts:
    - {file: prompts/reverse.jsonl, column: question, teacher: zoo/reverse}
"""


def read(text: str, **arguments: Any) -> SearchFile:
    return read_search_file(parse_document(text, "s.yml"), layers_of=lambda ref: 4, **arguments)


def refusal(text: str, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(text, **arguments)
    return str(caught.value)


def test_every_key_is_accepted() -> None:
    file = read(FULL)
    assert file.recipe.data["models"][0]["parameters"]["density"] == {"range": [0.1, 1.0], "init": 0.5}
    assert file.recipe.where(("models", 1, "parameters", "density")) == "s.yml:15 models[1].parameters.density"
    assert [entry.eval for entry in file.objective][2:] == ["evals/general.yaml", "evals/more.yaml"]
    assert file.objective[2].at_most == {"base": 1.02}
    options = file.optimize
    assert (options.trials, options.tokens, options.time, options.most_trials) == (200, 5_000_000, 1800.0, 200)
    assert (options.start, options.compare) == (["recipes/known.yaml"], ["recipes/published.yaml"])
    assert options.splits.shares.all() == {"calibrate": 0.2, "search": 0.4, "select": 0.2, "report": 0.2}
    assert file.learn is not None and file.learn.prompts[0].column == "question"
    assert file.notices == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("optimize:", "optimise:", "s.yml:23 optimise: unknown key 'optimise'; did you mean 'optimize'?"),
        ("learn:", "'[bold]':", "s.yml:33 [bold]: unknown key '[bold]'"),
        ("learn:", "int:", "s.yml:33 int: unknown key 'int'"),
        ("  trials: 200", "  trails: 200", "s.yml:25 optimize.trails: unknown key 'trails'; did you mean 'trials'?"),
        ("calibrate: 0.2", "calibrat: 0.2", "optimize.splits.calibrat: unknown key 'calibrat'; did you mean"),
        ("metric: acc, ", "metrics: acc, ", "s.yml:19 objective[0].metrics: unknown key 'metrics'; did you mean"),
        ("column:", "colum:", "s.yml:36 learn.prompts[0].colum: unknown key 'colum'; did you mean 'column'?"),
        ("  loss: kl", "  loss: mse", "s.yml:34 learn.loss: input should be 'kl' or 'nll', not 'mse'"),
        ("trials: 200", "trials: -1", "s.yml:25 optimize.trials: input should be greater than or equal to 0, not -1"),
        ("trials: 200", "trials: many", "s.yml:25 optimize.trials: input should be a valid integer"),
        ("tokens: 5M", "tokens: 5X", "s.yml:26 optimize.tokens: write a number, e.g. 500k or 5M, not '5X'"),
        ("time: 30m", "time: 3 weeks", "s.yml:27 optimize.time: write e.g. 90s, 30m or 2h, not '3 weeks'"),
        ("method: auto", "method: cmaess", "s.yml:24 optimize.method: no optimizer is called 'cmaess'; did you mean"),
        ("{base: 1.02}", "{bass: 1.02}", "objective[2].at_most.bass: input should be 'base', 'best_parent' or 'unif"),
        ("at_least: 0.5", "at_least: {}", "objective[3].at_least: give a number, or exactly one of base, best_parent"),
        ("weight: 1.0,", "weight: -1,", "s.yml:19 objective[0].weight: input should be greater than 0, not -1"),
        (", teacher: zoo/reverse}\n", "}\n", "s.yml:36 learn.prompts[0].teacher: 'teacher' is missing; add teacher:"),
        (
            "{file: prompts",
            "{write: 9, file: prompts",
            "s.yml:36 learn.prompts[0]: give exactly one of file, dataset an",
        ),
        (
            "{file: prompts/reverse.jsonl, ",
            "{",
            "s.yml:36 learn.prompts[0]: give exactly one of file, dataset and writ",
        ),
        ("  loss: kl", "  refine: row", "s.yml:34 learn.refine: input should be 'rows+columns', 'rows', 'columns' or"),
        ("  loss: kl", "  steps: 0", "s.yml:34 learn.steps: input should be greater than or equal to 1, not 0"),
        ("recipe:\n", "recipes:\n", "s.yml:1 recipe: 'recipe' is missing; add recipe:"),
    ],
)
def test_mistakes_are_named_with_line_and_way_out(old: str, new: str, said: str) -> None:
    assert old in FULL
    assert said in refusal(FULL.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "s.yml:1: is no search file; it has the keys recipe: and objective:"),
        ("recipe: {merge_method: linear}\nobjective: []\n", "s.yml:2 objective: list should have at least 1 item"),
        (
            "recipe: {merge_method: linear}\nobjective: [{eval: a.yaml, at_least: 0.5}]\n",
            "s.yml:2 objective: only constraints, nothing to optimise; add an eval without at_most and at_least",
        ),
    ],
)
def test_files_of_another_kind(text: str, said: str) -> None:
    assert said in refusal(text)


def test_without_a_budget_there_are_200_trials() -> None:
    text = "recipe: {merge_method: linear}\nobjective: [{eval: a.yaml}]\n"
    assert read(text).optimize.most_trials == 200
    assert read(text + "optimize: {tokens: 1.5k}\n").optimize.tokens == 1500
    assert read(text + "optimize: {time: 90}\n").optimize.time == 90
    assert read(text + "optimize: {time: 2h}\n").optimize.most_trials > 200


def test_set_overrides_any_key() -> None:
    file = read(
        FULL,
        overrides=[
            "optimize.trials=50",
            "recipe.models.1.model=zoo/shift",
            "objective.0.at_least={base: 1}",
            "optimize.start=[a.yaml, b.yaml]",
            "learn.retain=0.5",
        ],
    )
    assert file.optimize.trials == 50
    assert file.recipe.data["models"][1]["model"] == "zoo/shift"
    assert file.objective[0].at_least == {"base": 1}
    assert file.optimize.start == ["a.yaml", "b.yaml"]
    assert file.learn is not None and file.learn.retain == 0.5
    assert (
        read("recipe: {merge_method: linear}\nobjective: [{eval: a}]", overrides=["optimize.seed=3"]).optimize.seed == 3
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimize.trials", "--set 'optimize.trials' is not key=value; write e.g. --set optimize.trials=50"),
        ("recipe.models.7.model=a", "the list has positions 0 to 1, not '7'"),
        ("optimize.trials.x=1", "'x' would stand inside 200, which is no mapping"),
        ("optimize.trials={", "the value is not YAML; quote it"),
        ("optimize.trails=5", "unknown key 'trails'; did you mean 'trials'?"),
    ],
)
def test_set_in_vain(text: str, said: str) -> None:
    assert said in refusal(FULL, overrides=[text])


PLAIN = """\
merge_method: ties
base_model: zoo/base
models:
  - {model: zoo/sort, parameters: {weight: 0.5, density: 0.6}}
"""


def test_a_plain_recipe_is_freed() -> None:
    file = read(PLAIN, free=["weight", "density"], evals=["reverse", "evals/x.yaml"])
    parameters = file.recipe.data["models"][0]["parameters"]
    assert all("range" in parameters[key] for key in ("weight", "density"))
    assert [entry.eval for entry in file.objective] == ["reverse", "evals/x.yaml"]
    assert "nothing to search; name parameters to free" in refusal(PLAIN)
    assert "says nothing about what to optimise; add --eval" in refusal(PLAIN, free=["weight"])
    assert "--free is for plain recipes" in refusal(FULL, free=["weight"])


def test_a_genome_is_translated() -> None:
    genome = """\
genome:
  models: [zoo/a, zoo/b]
  merge_method: dare_ties
  base_model: zoo/base
  layer_granularity: 2
tasks:
  - {name: sort, weight: 1.0, metric: "acc,none"}
"""
    file = read(genome)
    assert file.recipe.data["merge_method"] == "dare_ties"
    assert file.objective[0].eval == "sort"


def test_a_search_file_is_a_value(tmp_path: Path) -> None:
    assert read(FULL) == read(FULL)
