"""What a merge method asks for, as plain values.

`methods` reads these off its functions' signatures; recipe and space check and fill settings with them, without
importing torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mergeopt.errors import InputError


class Required(Enum):
    """Stands where a parameter has no default."""

    REQUIRED = "required"


REQUIRED = Required.REQUIRED


@dataclass(frozen=True, slots=True)
class ParameterSchema:
    """One parameter of a method: `kind` is "float", "bool" or "int"; `default` may be REQUIRED or None.

    `smooth`: a number that the merge is a function of, so that it has a gradient (or a secant); others are plain.
    """

    name: str
    per_source: bool
    kind: str
    default: Any
    smooth: bool = True


@dataclass(frozen=True, slots=True)
class MethodSchema:
    """A method's parameters and the number of sources it takes.

    `min_sources` and `max_sources` count what the function receives as `sources`: without the base where the method
    `takes_base`, with it otherwise (then the base is one more source). One that takes a base may do without it unless
    it `needs_base`.
    """

    name: str
    takes_base: bool
    needs_base: bool
    min_sources: int
    max_sources: int | None
    parameters: Mapping[str, ParameterSchema]
    random: bool = False  # draws masks (DARE): mergekit's draw is another one than ours
    summary: str = ""
    refuses: Callable[[Mapping[str, Any]], str | None] | None = None  # coefficients of a tensor: why they cannot be

    def check(self, tensor: str, coefficients: Mapping[str, Any]) -> None:
        """Raises InputError for coefficients that the method cannot use."""
        if self.refuses is not None and (problem := self.refuses(coefficients)):
            raise InputError(f"{self.name} of tensor {tensor!r}: {problem}")
