"""One line of a search file's `objective`: which eval, which of its metrics, and what it is for.

An entry with `at_most` or `at_least` is a constraint; every other entry is a term of the objective.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Anchor = Literal["base", "best_parent", "uniform"]
DIRECTIONS = {"max": "maximize", "min": "minimize", "maximize": "maximize", "minimize": "minimize"}


def _direction(value: Any) -> Any:
    return DIRECTIONS.get(value, value) if isinstance(value, str) else value


_FromWord = BeforeValidator(_direction, json_schema_input_type=Literal["max", "min", "maximize", "minimize"] | None)


class ObjectiveEntry(BaseModel):
    """An eval in an objective.

    Attributes:
        eval: An lm-eval task file, a task name of lm-eval, or ``python:package.module.function``.
        metric: The metric's name in the task; its first by default.
        filter: The task's filter that the metric is taken after; its first by default.
        weight: Of this term in the weighted mean.
        direction: Overrides lm-eval's ``higher_is_better``.
        num_fewshot: Overrides the task's.
        chat_template: Render prompts with the tokenizer's chat template.
        system: System instruction.
        gen_kwargs: Override the task's generation settings, key by key.
        limit: Items to use at most (below 1: a share of them).
        source: Dataset split that items come from: train, validation, test, or a name the dataset has.
        teacher: The model whose outputs are imitated on this eval when learning by gradient.
        at_most: Constraint: a number, or ``{base: 1.02}`` for 1.02 times what the base scores.
        at_least: The same, from below.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    eval: str = Field(min_length=1)
    metric: str | None = None
    filter: str | None = None
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    direction: Annotated[Literal["maximize", "minimize"] | None, _FromWord] = None
    num_fewshot: int | None = Field(default=None, ge=0)
    chat_template: bool = False
    system: str | None = None
    gen_kwargs: Mapping[str, Any] | None = None
    limit: float | None = Field(default=None, gt=0)
    source: str | None = None
    teacher: str | None = None
    at_most: float | Mapping[Anchor, float] | None = None
    at_least: float | Mapping[Anchor, float] | None = None

    @field_validator("at_most", "at_least")
    @classmethod
    def _one_anchor(cls, bound: float | Mapping[Anchor, float] | None) -> float | Mapping[Anchor, float] | None:
        if isinstance(bound, Mapping) and len(bound) != 1:
            raise ValueError("give a number, or exactly one of base, best_parent, uniform with its factor")
        return bound

    @property
    def is_constraint(self) -> bool:
        """Whether this entry bounds a score instead of adding to the objective."""
        return self.at_most is not None or self.at_least is not None
