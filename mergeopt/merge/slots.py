"""A layout as values: every output tensor, what goes into it, and what stays out."""

from dataclasses import dataclass

from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.shape import Shape

FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that is read: which model's, under which name."""

    model: ModelRef
    tensor: str


@dataclass(frozen=True, slots=True)
class Slot:
    """One output tensor and what goes into it.

    `part` indexes the recipe's slices and `depth` is the depth inside it; `sources` are (index in the slice, input).
    `copied`: only one model has it, so that there is nothing to merge.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    part: int
    depth: float
    layer: int | None
    sources: tuple[tuple[int, Input], ...]
    base: Input | None
    copied: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A source's tensor that goes nowhere, and why."""

    input: Input
    why: str


@dataclass(frozen=True, slots=True)
class Lack:
    """An output tensor that a source does not have, and what becomes of it."""

    input: Input
    so: str


@dataclass(frozen=True)
class Layout:
    """Every output tensor with its inputs; no numbers yet."""

    slots: tuple[Slot, ...]
    left_out: tuple[LeftOut, ...]
    picked: tuple[int, ...] | None  # where slices assemble the stack: the first source's layer behind each layer
    untied: bool = False  # a head is written although the donor's config ties it to the embeddings
    lacking: tuple[Lack, ...] = ()
    unnamed: tuple[Input, ...] = ()  # copied because the recipe names no module that they are of


@dataclass(frozen=True)
class Facts:
    """What planning knows of one model: its shape, whether its embeddings are its head, and how it is quantised."""

    shape: Shape
    tied: bool
    quantised: str = ""  # "gptq", "fp8", …; "" for plain weights
