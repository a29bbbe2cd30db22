"""What a family is: one architecture, one base trained on a mixture of tasks, and fine-tunes of it.

`DEMO` is the family that `mergeopt zoo` makes unasked; others are in `families`.
"""

from dataclasses import dataclass
from typing import Literal

from mergeopt.errors import InputError
from mergeopt.zoo.tasks import get_task

Architecture = Literal["llama", "qwen2", "gpt_neox"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen2", "gpt_neox")


@dataclass(frozen=True, slots=True)
class Stage:
    """One training run: steps, the peak learning rate, and the share of items drawn from the base's mixture.

    `replay` keeps a fine-tune from forgetting, as the general data in real fine-tunes do. It is 1 for the base itself.
    """

    steps: int
    learning_rate: float
    replay: float

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0 or not 0 <= self.replay <= 1:
            raise InputError(f"{self} cannot be trained", remedy="steps ≥ 1, learning_rate > 0, 0 ≤ replay ≤ 1")


@dataclass(frozen=True, slots=True)
class Specialist:
    """A fine-tune of the base on one task; its folder has the task's name."""

    task: str
    stage: Stage

    def __post_init__(self) -> None:
        get_task(self.task)


@dataclass(frozen=True, slots=True)
class FamilySpec:
    """A family of models. Equal specs give equal models on one machine.

    `mixture` are the tasks the base is trained on, in equal shares; `multitask` is a fine-tune of the base on the tasks
    of all specialists, in equal shares: what training on everything reaches. Sizes are those of the model's config.
    """

    architecture: Architecture
    hidden: int
    layers: int
    heads: int
    intermediate: int
    mixture: tuple[str, ...]
    base: Stage
    specialists: tuple[Specialist, ...]
    multitask: Stage
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise InputError(
                f"architecture {self.architecture!r} is not built here", remedy=f"known: {', '.join(ARCHITECTURES)}"
            )
        if self.hidden % (2 * self.heads):
            raise InputError(f"hidden {self.hidden} does not divide into {self.heads} heads of an even size")
        for task in self.mixture:
            get_task(task)
        names = [specialist.task for specialist in self.specialists]
        if not self.mixture or not names or len(set(names)) < len(names):
            raise InputError("a family needs a mixture and at least one specialist per task, each task once")


# Uneven on purpose, as published fine-tunes are: each has its own length, learning rate and share of general data.
DEMO = FamilySpec(
    architecture="llama",
    hidden=128,
    layers=4,
    heads=4,
    intermediate=344,
    mixture=("reverse", "sort", "shift", "upper", "dedup", "rotate"),
    base=Stage(steps=220, learning_rate=4e-3, replay=1.0),
    specialists=(
        Specialist("reverse", Stage(steps=160, learning_rate=1.5e-3, replay=0.35)),
        Specialist("sort", Stage(steps=220, learning_rate=2e-3, replay=0.45)),
        Specialist("shift", Stage(steps=100, learning_rate=1e-3, replay=0.30)),
        Specialist("dedup", Stage(steps=250, learning_rate=2e-3, replay=0.40)),
    ),
    multitask=Stage(steps=600, learning_rate=2e-3, replay=0.35),
)
