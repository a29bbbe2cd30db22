"""More prompts like those there are: each is cut somewhere, and the model that will answer goes on with it.

A specialist knows what its tasks look like, so what it writes after half a prompt is another prompt of its domain. It
takes no template and no data beyond a few prompts, and gives as many as one can use.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from mergeopt.scoring.encoding import Encoder
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.generate import Generator
from mergeopt.scoring.learning.selfmade import different

LONGER = 1.5  # times the longest prompt: what has not come to its end by then is dropped
FEWEST = 4  # prompts that show a pattern


def variants(
    model: PreTrainedModel,
    encoder: Encoder,
    prompts: Sequence[str],
    count: int,
    *,
    seed: int,
    temperature: float = 1.0,
    batching: Batching | None = None,
) -> list[tuple[int, ...]]:
    """Up to `count` different new prompts in tokens, none of `prompts`; fewer where the model repeats itself.

    A new prompt ends as all of `prompts` do (``Answer:``); where they have no common end it is as long as the one it
    began with. What all begin with (few-shot examples, instructions) is never cut.

    Raises:
        NonFiniteError: The model computed NaN or Inf.
    """
    known = list(dict.fromkeys(prompts))
    if len(known) < FEWEST:
        return []
    shared = _shared([prompt[::-1] for prompt in known])
    end = known[0][len(known[0]) - shared :]
    tokens = [tuple(encoder.tokens(prompt)) for prompt in known]
    asked = frozenset(tokens)
    head, tail = max(1, _shared(tokens)), _shared([prompt[::-1] for prompt in tokens])
    whole = max(map(len, tokens))
    longest = min(int(LONGER * (whole - head)) + 1, encoder.max_length - whole)
    if longest < 1:  # the prompts fill the model's context
        return []
    settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "max_gen_toks": longest}
    generation = encoder.generation({"until": [end] if end else [], **settings})
    generator = Generator(model, encoder, batching or Batching())

    def some(number: int, missing: int) -> list[tuple[int, ...]]:
        rng = np.random.default_rng([seed, number])
        chosen = rng.integers(len(known), size=missing).tolist()
        cuts = [int(rng.integers(head, max(head, len(tokens[i]) - tail) + 1)) for i in chosen]
        begun = [tokens[i][:cut] for i, cut in zip(chosen, cuts, strict=True)]
        made = generator.tokens([list(first) for first in begun], generation, seed=seed * 1000 + number)
        found = []
        for i, first, rest in zip(chosen, begun, made, strict=True):
            if not end:
                found.append(first + tuple(rest[: len(tokens[i]) - len(first)]))
            elif encoder.decode(rest).endswith(end):
                found.append(first + tuple(rest))
        return [prompt for prompt in found if prompt not in asked]

    return different(some, count)


def _shared(sequences: Sequence[Sequence[Any]]) -> int:
    """How many elements all begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False)))
