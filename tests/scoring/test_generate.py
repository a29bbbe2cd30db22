"""Generation equals lm-eval's generate_until."""

import copy

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from mergeopt.errors import InputError
from mergeopt.scoring.encoding import Encoder
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.generate import Generator

PROMPTS = [f"upper: {word} =>" for word in ("ab", "bcd", "h", "gfedc", "abcde", "dd", "cafe", "bed")] + [
    "ab",
    "?",
    "x-",
]


def both(model, tokenizer, gen_kwargs, *, theirs_batch=4, ours=None):
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=theirs_batch)
    requests = [Instance("generate_until", {}, (prompt, copy.deepcopy(gen_kwargs)), 0) for prompt in PROMPTS]
    encoder = Encoder(model, tokenizer)
    generation = encoder.generation(gen_kwargs)
    answers, tokens = Generator(model, encoder, ours or Batching(rows=5)).run(
        [encoder.prompt(prompt, generation) for prompt in PROMPTS], generation
    )
    return lm.generate_until(requests), answers, tokens


@pytest.mark.parametrize(
    "gen_kwargs",
    [
        {"until": ["\n"], "max_gen_toks": 12},
        {"until": "\n", "max_new_tokens": 12, "do_sample": False, "temperature": 0.7},
        {"until": [], "max_gen_toks": 6},
        {"max_gen_toks": 6},
        {"until": ["E", "\nu", "p"], "max_gen_toks": 20},
        {"until": ["p", "upp"], "max_gen_toks": 20},  # "upp" begins before "p" is seen
        {"until": ["per: ", "\n\n"], "max_gen_toks": 30},
        {"until": ["\n"], "max_gen_toks": 5, "repetition_penalty": 1.5},
    ],
)
def test_answers_equal_lm_eval(gen_kwargs, model, tokenizer):
    theirs, ours, _ = both(model, tokenizer, gen_kwargs)
    assert ours == theirs
    assert len(set(ours)) > 1


def test_beams_are_searched_to_their_end(model, tokenizer):
    encoder = Encoder(model, tokenizer)
    generation = encoder.generation({"until": ["\n"], "max_gen_toks": 4, "num_beams": 3})
    prompts = [encoder.prompt(prompt, generation) for prompt in PROMPTS[:3]]
    answers, _ = Generator(model, encoder, Batching(rows=2)).run(prompts, generation)
    assert not generation.greedy and all(answers) and not any("\n" in answer for answer in answers)


def test_a_random_model_that_never_stops(short_model, tokenizer):
    theirs, ours, tokens = both(short_model, tokenizer, {"until": ["\n\n"], "max_gen_toks": 9})
    assert ours == theirs and tokens > 9 * len(PROMPTS)


def test_without_an_eos_in_its_settings_a_model_still_stops(model, tokenizer):
    unsure = copy.deepcopy(model)
    with torch.no_grad():  # everything ends at once
        unsure.lm_head.weight.zero_()
        unsure.lm_head.weight[2] = 1
        unsure.lm_head.weight[3] = -1
    unsure.generation_config.eos_token_id = None
    theirs, ours, _ = both(unsure, tokenizer, {"until": ["\n"], "max_gen_toks": 5}, theirs_batch=1)
    assert ours == theirs


def test_a_batch_ends_with_its_last_answer(model, tokenizer, monkeypatch):
    steps = []
    forward = type(model).forward

    def counted(self, *arguments, **settings):
        steps.append(1)
        return forward(self, *arguments, **settings)

    monkeypatch.setattr(type(model), "forward", counted)
    encoder = Encoder(model, tokenizer)
    generation = encoder.generation({"until": ["\n", "E\n", "u"], "max_gen_toks": 60})
    prompts = [encoder.prompt(prompt, generation) for prompt in PROMPTS[:6]]
    Generator(model, encoder, Batching(rows=6)).run(prompts, generation)
    assert len(steps) < 20


def test_answers_longer_than_the_model_are_refused(short_model, tokenizer):
    with pytest.raises(InputError, match="max_gen_toks 24 leaves no room"):
        Encoder(short_model, tokenizer).generation({"max_gen_toks": 24})
