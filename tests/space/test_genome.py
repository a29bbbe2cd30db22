import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document
from mergeopt.recipe.write import to_yaml
from mergeopt.space.genome import donor_of, is_genome, translate_genome
from mergeopt.space.space import check_space
from tests.space.conftest import assert_written_as_meant, document, make_shape, space_of

EVOLVE = """
model_name: mine
genome:
  models: [zoo/base, zoo/a, zoo/b]
  merge_method: dare_ties
  base_model: zoo/base
  tokenizer_source: null
  layer_granularity: 4
  allow_negative_weights: true
  smooth: {smooth}
  normalize: true
  filters: [self_attn, mlp]
tasks:
  - {name: sorting, weight: 0.5, metric: "exact_match,strict"}
  - {name: extra, weight: 0}
  - name: general
"""


def evolve(**replacements: str) -> Document:
    text = EVOLVE.replace("{smooth}", "true")
    for old, new in replacements.items():
        text = text.replace(old, new)
    return document(text)


def test_a_genome_is_a_recipe_with_holes() -> None:
    assert is_genome(evolve()) and not is_genome(document("merge_method: ties"))
    assert str(donor_of(evolve())) == "zoo/base"
    translation = translate_genome(evolve(), schemas=SCHEMAS, layers=12)
    base, a, _ = translation.recipe["models"]
    assert base == {"model": "zoo/base"}
    assert a["parameters"] == {
        "weight": {"range": [-1.5, 1.5], "depth": 3, "parts": ["self_attn", "mlp"]},
        "density": {"range": [0.05, 1.0], "depth": 3, "parts": ["self_attn", "mlp"]},
    }
    assert translation.recipe["parameters"] == {"normalize": True}
    assert translation.objective == [
        {"eval": "sorting", "metric": "exact_match", "filter": "strict", "weight": 0.5},
        {"eval": "general", "metric": "acc", "weight": 1.0},
    ]
    said = "\n".join(translation.notices)
    assert "'model_name' is not used" in said and "'extra' has weight 0" in said and "in steps of" not in said
    (branch,) = space_of(to_yaml(translation.recipe), make_shape(12)).branches
    assert len(branch.dimensions) == 2 * 2 * 3 * 3
    assert_written_as_meant(branch, branch.init, lambda _: make_shape(12))


def test_what_a_hole_cannot_say_is_a_notice() -> None:
    rough = translate_genome(evolve(**{"smooth: true": "smoth: false"}), schemas=SCHEMAS, layers=10)
    said = "\n".join(rough.notices)
    assert "not in steps of 4 layers" in said and "10 layers do not divide" in said
    assert "'smoth' is not used; did you mean 'smooth'?" in said


def test_slerp_has_one_t_and_no_granularity_one_value() -> None:
    text = {"dare_ties": "slerp", ", zoo/b": "", "layer_granularity: 4": "layer_granularity: 0"}
    recipe = translate_genome(evolve(**text), schemas=SCHEMAS, layers=12).recipe
    assert recipe["parameters"] == {"t": {"range": [0.0, 1.0], "parts": ["self_attn", "mlp"]}}
    assert recipe["models"] == [{"model": "zoo/base"}, {"model": "zoo/a"}]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("dare_ties", "dare_tis", "did you mean 'dare_ties'"),
        ("[zoo/base, zoo/a, zoo/b]", "", "the genome names no models"),
        ("tasks:", "jobs:", "names no tasks"),
        ("layer_granularity: 4", "layer_granularity: some", "layer_granularity is 'some'"),
    ],
)
def test_mistakes(old: str, new: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        translate_genome(evolve(**{old: new}), schemas=SCHEMAS, layers=12)


def test_evaluation_is_read_as_tasks() -> None:
    text = (
        EVOLVE.split("tasks:", maxsplit=1)[0].replace("{smooth}", "true") + "evaluation: {tasks: [gsm8k], limit: 20}\n"
    )
    translation = translate_genome(document(text), schemas=SCHEMAS, layers=12)
    assert translation.objective == [{"eval": "gsm8k", "metric": "acc", "weight": 1.0, "limit": 20}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dare_ties": "[dare_ties]"}, "unknown method"),
        ({"layer_granularity: 4": "layer_granularity: .inf"}, "layer_granularity is inf"),
        ({"layer_granularity: 4": "layer_granularity: .nan"}, "layer_granularity is nan"),
    ],
)
def test_values_of_no_sense(change: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        translate_genome(evolve(**change), schemas=SCHEMAS, layers=8)


def test_a_genome_is_checked_without_its_models() -> None:
    translation = translate_genome(evolve(), schemas=SCHEMAS, layers=None)
    said = [text for text in translation.notices if "needs the model" in text]
    assert said == ["space.yml:8 genome.layer_granularity: how many groups the layers make needs the model"]
    assert check_space(document(to_yaml(translation.recipe)), schemas=SCHEMAS) == ()


def test_a_genome_of_a_delta_method_needs_its_base() -> None:
    text = EVOLVE.replace("  base_model: zoo/base\n", "").replace("{smooth}", "true")
    with pytest.raises(InputError, match=r"genome\.base_model: dare_ties needs base_model"):
        translate_genome(document(text), schemas=SCHEMAS, layers=12)


def test_a_base_may_be_a_mapping() -> None:
    base = "{model: zoo/base, override_architecture: LlamaForCausalLM}"
    genome = evolve(**{"base_model: zoo/base": f"base_model: {base}", "[zoo/base, zoo/a, zoo/b]": "[zoo/a, zoo/b]"})
    assert donor_of(genome).architecture == "LlamaForCausalLM"
    recipe = translate_genome(genome, schemas=SCHEMAS, layers=12).recipe
    assert recipe["base_model"] == {"model": "zoo/base", "override_architecture": "LlamaForCausalLM"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("merge_method: ties\nbase_model: a\nmodels: [{model: b, parameters: {weight: {range: [1, 0]}}}]", "is empty"),
        (
            "merge_method: {choice: [ties, tise]}\nbase_model: a\nmodels: [{model: b}]\nparameters: {weight: 1}",
            "'tise'",
        ),
        ("merge_method: ties\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: {range: [0, 1]}}", "needs 'weight'"),
    ],
)
def test_a_space_is_checked_without_its_models(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        check_space(document(text), schemas=SCHEMAS)
