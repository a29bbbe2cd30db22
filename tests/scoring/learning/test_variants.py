import random

import pytest
import torch

from mergeopt.scoring.encoding import Encoder
from mergeopt.scoring.learning.variants import variants
from tests.scoring.conftest import question


@pytest.fixture(scope="module")
def prompts():
    rng = random.Random(5)
    return [f"upper: {question(rng)[0]} =>" for _ in range(12)]


def test_new_prompts_follow_the_pattern(model, encoder, prompts):
    state = torch.get_rng_state()
    made = variants(model, encoder, prompts, 30, seed=0)
    head, end = encoder.tokens("upper: "), encoder.tokens(" =>")
    assert len(set(made)) == len(made) == 30 and not set(made) & {tuple(encoder.tokens(p)) for p in prompts}
    for tokens in map(list, made):
        assert tokens[: len(head)] == head and tokens[-len(end) :] == end and encoder.decode(tokens).count("=>") == 1
    assert torch.equal(state, torch.get_rng_state())


def test_seeds_repeat_and_differ(model, encoder, prompts):
    first, again, other = (variants(model, encoder, prompts, 10, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_what_all_begin_with_is_never_cut(model, tokenizer, prompts):
    shots = "upper: abc => A\nupper: ba => B\n"
    encoder = Encoder(model, tokenizer)
    made = variants(model, encoder, [shots + prompt for prompt in prompts], 10, seed=0)
    head = tuple(encoder.tokens(shots + "upper: "))
    assert made and all(tokens[: len(head)] == head for tokens in made)


def test_without_a_common_end_a_prompt_is_as_long_as_the_one_it_began_with(model, encoder):
    known = ["upper: abc", "upper: bad", "upper: cab", "upper: deg", "upper: hdh"]
    made = variants(model, encoder, known, 5, seed=0)
    assert made and {len(tokens) for tokens in made} == {10}


def test_two_prompts_show_no_pattern(model, encoder):
    assert variants(model, encoder, ["upper: a =>", "upper: b =>"], 5, seed=0) == []
