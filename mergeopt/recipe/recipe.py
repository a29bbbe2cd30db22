"""What to merge and how, as frozen values.

`Recipe` is what a YAML file says after reading: every setting parsed, every model reference split, and both of
mergekit's ways to list sources (`models`, `slices`) in one form. Nothing here has seen a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mergeopt.errors import InputError
from mergeopt.recipe.settings import Setting

DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as the recipe names it: a folder or a Hub id, perhaps at a revision, perhaps with an adapter.

    Text is split at + and @ without a look at the disk; whoever finds the model also tries a folder that has the whole
    text as its name.
    """

    path: str
    revision: str | None = None
    lora: str | None = None
    architecture: str | None = None
    lora_revision: str | None = None

    def __str__(self) -> str:
        text = self.path if self.revision is None else f"{self.path}@{self.revision}"
        return text if self.lora is None else f"{text}+{self.adapter}"

    @property
    def adapter(self) -> "ModelRef | None":
        """The adapter by itself."""
        return None if self.lora is None else ModelRef(self.lora, self.lora_revision)

    @property
    def bare(self) -> "ModelRef":
        """The model without its adapter."""
        return ModelRef(self.path, self.revision, architecture=self.architecture)

    @classmethod
    def parse(cls, data: Any, where: str) -> "ModelRef":
        """From ``path[@revision][+adapter[@revision]]``, or mergekit's mapping ``{model: {path, revision}, lora, …}``.

        Text with more of + or @ than that can only be the name of a folder, and stays whole.

        Raises:
            InputError: neither text nor such a mapping.
        """
        if isinstance(data, dict):
            return cls._from_mapping(data, where)
        if not isinstance(data, str) or not data.strip():
            raise InputError(f"{data!r} is not a model", where=where, remedy="give a folder or a Hub id")
        text = data.strip()
        parts = [part.split("@") for part in text.split("+")]
        if len(parts) > 2 or any(len(part) > 2 or not all(part) for part in parts):
            return cls(text)
        path, revision = _parted(parts[0])
        lora, lora_revision = _parted(parts[1]) if len(parts) == 2 else (None, None)
        return cls(path, revision, lora, lora_revision=lora_revision)

    @classmethod
    def _from_mapping(cls, data: dict[str, Any], where: str) -> "ModelRef":
        keys = {"model", "lora", "override_architecture"} if "model" in data else {"path", "revision"}
        model = _named(data.get("model", data), data, where)
        lora = None if data.get("lora") is None else _named(data["lora"], data, where)
        unknown = sorted(str(key) for key in data.keys() - keys)
        architecture = data.get("override_architecture")
        if unknown or not isinstance(architecture, str | None):
            raise InputError(
                f"{unknown[0]!r} says nothing about a model" if unknown else f"{architecture!r} is no architecture",
                where=where,
                remedy="write {model: {path: ..., revision: ...}, lora: {path: ...}, override_architecture: ...}",
            )
        path, revision = model
        return cls(path, revision, lora and lora[0], architecture, lora and lora[1])


def _parted(words: list[str]) -> tuple[str, str | None]:
    """Path and revision of text split at its @."""
    return words[0].strip(), words[1] if len(words) == 2 else None


def _named(part: Any, whole: Any, where: str) -> tuple[str, str | None]:
    """Path and revision of ``path`` or ``{path: ..., revision: ...}``."""
    part = {"path": part} if isinstance(part, str) else part
    path, revision = (part.get("path"), part.get("revision")) if isinstance(part, dict) else (None, None)
    if not isinstance(revision, str | None):
        raise InputError(f"revision {revision!r} is not text", where=where, remedy="quote it")
    if not isinstance(path, str) or not path.strip():
        remedy = "write {model: {path: ..., revision: ...}}"
        if isinstance(whole, dict) and whole and all(value is None for value in whole.values()):
            remedy = "it is a template that nobody has filled in: write the model's name"
        raise InputError(f"{whole!r} is not a model", where=where, remedy=remedy)
    return path.strip(), revision


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
class ModelToken:
    """A token of a model: its text, or its id in that model's vocabulary."""

    model: ModelRef
    token: str | int


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Where models that lack a token take its row from, all models where `force`d; None: as for any other token."""

    token: str
    source: ModelToken | Literal["zero"] | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class TokenizerRequest:
    """The vocabulary of the output.

    `among`: the models whose tokens count, the tokenizer's donor first, and `base` the one whose rows stand in for
    others'; empty are the recipe's own. A search says it where a recipe over fewer models keeps the vocabulary of all.
    """

    source: ModelRef | Literal["union", "base"] = "union"
    rules: tuple[TokenRule, ...] = ()
    pad_to_multiple_of: int | None = None
    among: tuple[ModelRef, ...] = ()
    base: ModelRef | None = None

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model that it names."""
        lenders = [rule.source.model for rule in self.rules if isinstance(rule.source, ModelToken)]
        source = [self.source] if isinstance(self.source, ModelRef) else []
        return tuple(dict.fromkeys([*self.among, *source, *lenders]))


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
    tokenizer: TokenizerRequest | None = None
    chat_template: str | None = None
    seed: int = 0
    refinement: str | None = None

    @property
    def whole_models(self) -> bool:
        """A `models:` recipe: every source gives all its layers."""
        return all(source.layer_range is None for part in self.slices for source in part.sources)

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model that is merged, each once: sources in order, then the bases."""
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
    def named(self) -> tuple[ModelRef, ...]:
        """Every model that is opened: those that are merged, then those that only give a tokenizer or rows to it."""
        return tuple(dict.fromkeys([*self.models, *(self.tokenizer.models if self.tokenizer else ())]))

    @property
    def donor(self) -> ModelRef:
        """Whose config and tokenizer the output carries: the base, else the first model listed."""
        return self.base_of(self.slices[0]) or self.slices[0].sources[0].model
