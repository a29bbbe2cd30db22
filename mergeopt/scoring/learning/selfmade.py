"""Prompts that an instruction-tuned model writes itself, for those who have none.

Given its chat template up to where the user would speak, such a model goes on with a plausible user's turn, and what it
asks is what it was taught (Magpie, Xu et al. 2024, arXiv 2406.08464, section 2.1).
"""

from collections.abc import Callable, Hashable
from typing import TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mergeopt.errors import InputError
from mergeopt.scoring.chat import render_chat
from mergeopt.scoring.encoding import Encoder, Generation
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.generate import Generator

ROUNDS = 8  # of asking for the turns that are still missing; who repeats himself that often has no more to say
T = TypeVar("T", bound=Hashable)
_MARK = "MERGEOPTUSERTURN"


def user_turns(
    model: PreTrainedModel,
    encoder: Encoder,
    count: int,
    *,
    seed: int,
    max_tokens: int = 256,
    temperature: float = 1.0,
    batching: Batching | None = None,
) -> list[str]:
    """Up to `count` different user's turns, sampled from the model; fewer where it repeats itself.

    Raises:
        InputError: The tokenizer has no chat template, or one that says nothing before the user's turn.
        NonFiniteError: The model computed NaN or Inf.
    """
    before, after = _around_the_turn(encoder.tokenizer)
    prompt = encoder.tokenizer.encode(before, add_special_tokens=False)
    generation = _generation(model, encoder, after, max_tokens, temperature)
    generator = Generator(model, encoder, batching or Batching())

    def some(number: int, missing: int) -> list[str]:
        made = generator.tokens([prompt] * missing, generation, seed=seed * ROUNDS + number)
        return [encoder.answer(tokens, generation).strip() for tokens in made]

    return different(some, count)


def different(make: Callable[[int, int], list[T]], count: int) -> list[T]:
    """Up to `count` different texts or prompts, none empty, of ``make(round, how many are missing)``."""
    found: dict[T, None] = {}
    for number in range(ROUNDS):
        missing = count - len(found)
        if missing <= 0:
            break
        found |= dict.fromkeys(one for one in make(number, missing) if one)
    return list(found)[:count]


def _around_the_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What a chat template writes before a user's turn, and between it and the answer."""
    chat = render_chat(tokenizer, [{"role": "user", "content": _MARK}], add_generation_prompt=True)
    before, mark, after = chat.partition(_MARK)
    if not mark or not before:
        raise InputError(
            "the chat template says nothing before the user's turn, so the model cannot take the user's part",
            remedy="give prompts in a file",
        )
    return before, after


def _generation(
    model: PreTrainedModel, encoder: Encoder, after: str, max_tokens: int, temperature: float
) -> Generation:
    """Samples until the turn ends: with EOS, with the special token that the template writes next, or with its text."""
    settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "max_gen_toks": max_tokens}
    plain = encoder.generation({"until": [], **settings})
    eos = model.generation_config.eos_token_id
    ending = [eos] if isinstance(eos, int) else list(eos or [encoder.tokenizer.eos_token_id])
    follows = encoder.tokenizer.encode(after.lstrip(), add_special_tokens=False)[:1]
    if follows and follows[0] in encoder.tokenizer.added_tokens_decoder:
        ending = list(dict.fromkeys([*ending, *follows]))
        return Generation(plain.max_tokens, plain.stops, {**plain.options, "eos_token_id": ending})
    stops = tuple(after.strip().splitlines()[:1])
    return Generation(plain.max_tokens, (*stops, *plain.stops), {**plain.options, "eos_token_id": ending})
