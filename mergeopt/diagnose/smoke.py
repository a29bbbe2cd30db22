"""A look at what a model writes: does it end its answers, does it repeat itself?"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mergeopt.diagnose.exam import SPLIT
from mergeopt.diagnose.seen import Smoke
from mergeopt.scoring.encoding import Encoder, Generation
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.generate import Generator
from mergeopt.scoring.suite import Suite
from mergeopt.scoring.tasks import EvalTask

PROMPTS = 20
GRAM = 4  # tokens

Asked = Mapping[str, tuple[Generation, list[list[int]]]]  # by the generation's key


def prompts_of(suite: Suite, encoder: Encoder, evals: Sequence[str]) -> Asked:
    """A few prompts of the evals that generate, spread evenly."""
    able = [name for name in evals if isinstance(task := suite.part(name), EvalTask) and task.kind == "generate_until"]
    asked: dict[str, tuple[Generation, list[list[int]]]] = {}
    for name in able:
        for item in suite.items(name, SPLIT)[: max(1, PROMPTS // len(able))]:
            request = item.requests[0]
            generation = encoder.generation(request.gen_kwargs or {})
            asked.setdefault(generation.key, (generation, []))[1].append(encoder.prompt(request.context, generation))
    return asked


def smoke(model: Any, encoder: Encoder, asked: Asked) -> Smoke:
    """Lets the model answer.

    Raises:
        NonFiniteError: the model computed NaN or Inf.
    """
    generator = Generator(model, encoder, Batching())
    ended, repeated, lengths = [], [], []
    for generation, prompts in asked.values():
        for answer in generator.tokens(prompts, generation):
            ended.append(len(answer) < generation.max_tokens)
            repeated.append(repetition(answer))
            lengths.append(len(answer))
    return Smoke(fmean(ended), fmean(repeated), fmean(lengths))


def repetition(tokens: Sequence[int]) -> float:
    """Share of a text's 4-grams that stood in it before; 0 for texts too short to have two."""
    grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
