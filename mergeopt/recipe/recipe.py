"""What to merge and how, as frozen values.

`Recipe` is what a YAML file says after reading: every setting parsed, every model reference split, and both of
mergekit's ways to list sources (`models`, `slices`) in one form. Nothing here has seen a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mergeopt.errors import InputError
from mergeopt.recipe.settings import Setting

DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as the recipe names it: a folder or a Hub id, perhaps at a revision, perhaps with an adapter."""

    path: str
    revision: str | None = None
    lora: str | None = None
    architecture: str | None = None

    def __str__(self) -> str:
        text = self.path if self.revision is None else f"{self.path}@{self.revision}"
        return text if self.lora is None else f"{text}+{self.lora}"

    @classmethod
    def parse(cls, data: Any, where: str) -> "ModelRef":
        """From ``path[@revision][+adapter]``, or mergekit's mapping ``{model: {path, revision}, lora, …}``.

        Raises:
            InputError: not text, or more than one + or @.
        """
        if isinstance(data, dict):
            return cls._from_mapping(data, where)
        if not isinstance(data, str) or not data.strip():
            raise InputError(f"{data!r} is not a model", where=where, remedy="give a folder or a Hub id")
        model, *loras = data.strip().split("+")
        path, *revisions = model.split("@")
        if len(loras) > 1 or len(revisions) > 1:
            raise InputError(
                f"{data!r} has more than one {'+' if len(loras) > 1 else '@'}",
                where=where,
                remedy="for a folder with such a name write {model: {path: ...}}",
            )
        return cls(path.strip(), revisions[0] if revisions else None, loras[0] if loras else None)

    @classmethod
    def _from_mapping(cls, data: dict[str, Any], where: str) -> "ModelRef":
        inner = data.get("model", data)
        lora = data.get("lora")
        if isinstance(inner, str):
            inner = {"path": inner}
        if isinstance(lora, dict):
            lora = lora.get("path")
        if not isinstance(inner, dict) or not isinstance(inner.get("path"), str):
            remedy = "write {model: {path: ..., revision: ...}}"
            if data and all(value is None for value in data.values()):
                remedy = "it is a template that nobody has filled in: write the model's name"
            raise InputError(f"{data!r} is not a model", where=where, remedy=remedy)
        return cls(inner["path"], inner.get("revision"), lora, data.get("override_architecture"))


@dataclass(frozen=True, slots=True)
class Source:
    """One model's part in a slice: layers [first, last), or the whole model where `layer_range` is None."""

    model: ModelRef
    layer_range: tuple[int, int] | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slice:
    """Some layers of the output, made from the same number of layers of each source.

    `base` where it is not the recipe's; `module`: the part of the model that they are of, in a recipe by module.
    """

    sources: tuple[Source, ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    base: ModelRef | None = None
    module: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to merge and how.

    `slices` has one slice of whole models for a `models:` recipe. `seed` addresses the random masks of DARE.
    `refinement` is the file of coefficients below the tensor, from the working folder.
    """

    method: str
    slices: tuple[Slice, ...]
    base: ModelRef | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    chat_template: str | None = None
    seed: int = 0
    refinement: str | None = None

    @property
    def whole_models(self) -> bool:
        """A `models:` recipe: every source gives all its layers."""
        return all(source.layer_range is None for part in self.slices for source in part.sources)

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model that is read, each once: sources in order, then the bases."""
        found = [source.model for part in self.slices for source in part.sources]
        bases = [self.base, *(part.base for part in self.slices)]
        return tuple(dict.fromkeys([*found, *(base for base in bases if base is not None)]))

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that the slices are of, in order; none in a plain recipe."""
        return tuple(dict.fromkeys(part.module for part in self.slices if part.module))

    def of_module(self, module: str) -> "Recipe":
        """The plain recipe of one module."""
        return replace(self, slices=tuple(replace(part, module="") for part in self.slices if part.module == module))

    def base_of(self, part: Slice) -> ModelRef | None:
        """What deltas are taken from in a slice."""
        return part.base or self.base

    @property
    def donor(self) -> ModelRef:
        """Whose config and tokenizer the output carries: the base, else the first model listed."""
        return self.base_of(self.slices[0]) or self.slices[0].sources[0].model
