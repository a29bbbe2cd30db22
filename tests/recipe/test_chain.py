"""The short form of a chain is the documents that it stands for."""

from textwrap import dedent

import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_documents
from mergeopt.recipe.stages import Stages, read_stages
from tests.recipe.conftest import refusal as single_refusal

SLERP = """\
merge_method: slerp
chain:
  - model: a
  - model: b
    parameters: {t: 0.4}
  - model: c
    parameters: {t: 0.3}
  - d
parameters: {t: 0.5}
dtype: bfloat16
"""
LONG = """\
name: step-1
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters: {t: 0.4}
dtype: bfloat16
---
name: step-2
merge_method: slerp
base_model: step-1
models: [{model: step-1}, {model: c}]
parameters: {t: 0.3}
dtype: bfloat16
---
merge_method: slerp
base_model: step-2
models: [{model: step-2}, {model: d}]
parameters: {t: 0.5}
dtype: bfloat16
"""


def stages(text: str) -> Stages:
    return read_stages(parse_documents(dedent(text), "r.yml"), SCHEMAS)


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        stages(text)
    return str(caught.value)


def test_the_short_form_is_the_long_one() -> None:
    short, long = stages(SLERP), stages(LONG)
    assert [(s.name, s.recipe, s.needs) for s in short.stages] == [(s.name, s.recipe, s.needs) for s in long.stages]
    assert short.notices == ()


def test_parameters_go_to_their_model_or_to_their_step() -> None:
    text = """\
    merge_method: ties
    base_model: base
    chain:
      - model: a
        parameters: {weight: 0.9}
      - model: b
        parameters: {weight: 0.4, lambda: 0.7}
      - {model: c, merge_method: task_arithmetic}
    parameters: {weight: 0.5}
    """
    first, last = stages(text).stages
    a, b = first.recipe.slices[0].sources
    assert (a.parameters["weight"][0].values, b.parameters["weight"][0].values) == ((0.9,), (0.4,))
    assert first.recipe.parameters["lambda"][0].values == (0.7,) and "lambda" not in last.recipe.parameters
    assert (first.recipe.method, last.recipe.method, str(last.recipe.base)) == ("ties", "task_arithmetic", "base")


def test_a_chain_among_other_documents_has_a_name_of_its_own() -> None:
    text = f"name: mine\n{SLERP}---\nmerge_method: passthrough\nmodels: [{{model: mine}}]\n"
    assert [stage.name for stage in stages(text).stages] == ["mine-step-1", "mine-step-2", "mine", ""]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("t: 0.3", "t: x", "r.yml:7 parameters.t: 'x' is not a number"),
        ("  - d", "  - {modle: d}", "r.yml:8 chain[3]: {'modle': 'd'} is no model"),
        ("model: c", "model: c\n    weight: 1", "r.yml:7 chain[2].weight: unknown key 'weight'"),
        ("parameters: {t: 0.4}", "parameters: 0.4", "r.yml:5 chain[1].parameters: parameters are 0.4"),
        ("parameters: {t: 0.5}", "parameters: [t]", "r.yml:9 parameters: parameters are ['t']"),
        ("chain:", "chain: {order: [a, b]}\nx:", "here list the models in one"),
        ("dtype", "base_model: a\ndtype", "r.yml:10 base_model: the base of a slerp chain is what came out so far"),
        ("dtype: bfloat16", "models: [{model: x}]", "r.yml:10 models: has both chain and models"),
    ],
)
def test_mistakes_keep_their_lines(old: str, new: str, says: str) -> None:
    assert says in refusal(SLERP.replace(old, new))


def test_a_chain_has_two_models_or_more() -> None:
    assert "list two or more models" in refusal("merge_method: slerp\nchain: [a]\nparameters: {t: 0.5}\n")


def test_where_one_recipe_is_wanted_a_chain_is_refused() -> None:
    assert "r.yml:2 chain: a chain is several merges, one is wanted here" in single_refusal(SLERP)
