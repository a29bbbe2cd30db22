"""Random lessons, and teachers made of tiny models."""

from collections.abc import Callable

import numpy as np
import pytest

from mergeopt.scoring.encoding import Encoder
from mergeopt.scoring.learning.lessons import Lesson

LessonMaker = Callable[..., list[Lesson]]


@pytest.fixture(scope="session")
def encoder(model, tokenizer):
    return Encoder(model, tokenizer)


@pytest.fixture(scope="session")
def make_lessons() -> LessonMaker:
    """`count` lessons of random tokens and lengths; another seed gives others."""

    def make(count: int, *, seed: int = 0, longest: int = 12) -> list[Lesson]:
        rng = np.random.default_rng(seed)

        def tokens(least: int) -> tuple[int, ...]:
            return tuple(rng.integers(4, 36, rng.integers(least, longest)).tolist())

        return [Lesson(tokens(1), tokens(1), f"{seed}-{i}") for i in range(count)]

    return make
