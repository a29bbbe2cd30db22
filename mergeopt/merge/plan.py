"""What will be computed, tensor by tensor, before a byte of weights is read.

`lay_out` says which tensors go into which (it depends on the models and the recipe's structure); `fill` adds the
coefficients (it depends on the recipe's numbers). A search lays out once and fills for every candidate. Both are
pure, linear in the number of tensors, and account for every tensor of every source: merged, copied or left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

from mergeopt.checkpoint.header import item_size
from mergeopt.errors import InputError
from mergeopt.merge.names import embedding_of, is_buffer, is_embedding, is_head, stands_before_layers
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.recipe.schema import REQUIRED, MethodSchema, ParameterSchema
from mergeopt.recipe.settings import Scalar, depth_of, resolve
from mergeopt.recipe.shape import Shape, TensorInfo

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
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    part: int
    depth: float
    layer: int | None
    sources: tuple[tuple[int, Input], ...]
    base: Input | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A source's tensor that goes nowhere, and why."""

    input: Input
    why: str


@dataclass(frozen=True)
class Layout:
    """Every output tensor with its inputs; no numbers yet."""

    slots: tuple[Slot, ...]
    left_out: tuple[LeftOut, ...]
    picked: tuple[int, ...] | None  # where slices assemble the stack: the first source's layer behind each layer
    untied: bool = False  # a head is written although the donor's config ties it to the embeddings


@dataclass(frozen=True, slots=True)
class Job:
    """One output tensor, ready to compute.

    `coefficients` has, by parameter name, a tuple with one value per input (per-source parameters) or one value.
    `verbatim`: not a number to merge (integers, booleans): all inputs must be identical, and are copied.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    inputs: tuple[Input, ...]
    base: Input | None
    coefficients: Mapping[str, Any]
    verbatim: bool = False

    @property
    def reads(self) -> tuple[Input, ...]:
        return self.inputs if self.base is None else (*self.inputs, self.base)


@dataclass(frozen=True)
class Plan:
    """The whole merge."""

    method: str
    jobs: tuple[Job, ...]
    left_out: tuple[LeftOut, ...]
    picked: tuple[int, ...] | None
    untied: bool
    seed: int

    @property
    def nbytes(self) -> int:
        """Bytes of the output's tensors."""
        return sum(prod(job.shape) * item_size(job.dtype) for job in self.jobs)


@dataclass(frozen=True)
class Facts:
    """What planning knows of one model: its shape, and whether its head is its embedding matrix."""

    shape: Shape
    tied: bool


def make_plan(recipe: Recipe, models: Mapping[ModelRef, Facts], schema: MethodSchema) -> Plan:
    """The plan of a recipe. Raises InputError for models that do not fit together and settings without a value."""
    return fill(lay_out(recipe, models, schema), recipe, schema)


def lay_out(recipe: Recipe, models: Mapping[ModelRef, Facts], schema: MethodSchema) -> Layout:
    """Which tensors go into which.

    Args:
        recipe: Its numbers do not matter here.
        models: Facts of every model in `recipe.models`.
        schema: The recipe's method.

    Raises:
        InputError: different numbers of layers, shapes or tensors; a layer range beyond a model.
    """
    return _LayOut(recipe, models, schema).run()


class _LayOut:
    def __init__(self, recipe: Recipe, models: Mapping[ModelRef, Facts], schema: MethodSchema) -> None:
        self.recipe, self.models, self.schema = recipe, models, schema
        donor = models[recipe.donor].shape
        self.stack = max(donor.stacks, key=lambda name: donor.stacks[name], default=None)
        self.slots: list[Slot] = []
        self.left_out: list[LeftOut] = []

    def run(self) -> Layout:
        self._check_layers()
        first, last = self.recipe.slices[0], self.recipe.slices[-1]
        before: list[TensorInfo] = []
        after: list[TensorInfo] = []
        for info in self._outer(first, last):
            (before if stands_before_layers(info.name) else after).append(info)
        for info in before:
            self._slot(first, 0, info.name, dict.fromkeys(range(len(first.sources)), info.name), info.layer)
        offset = 0
        for index, part in enumerate(self.recipe.slices):
            offset = self._layers(part, index, offset)
        for info in after:
            names = dict.fromkeys(range(len(last.sources)), info.name)
            self._slot(last, len(self.recipe.slices) - 1, info.name, names, info.layer)
        self._account()
        picked = None if self.recipe.whole_models else self._picked()
        untied = self.models[self.recipe.donor].tied and any(is_head(slot.tensor) for slot in self.slots)
        return Layout(tuple(self.slots), tuple(self.left_out), picked, untied)

    def _picked(self) -> tuple[int, ...]:
        ranges = [self._range(part.sources[0]) for part in self.recipe.slices]
        return tuple(layer for first, last in ranges for layer in range(first, last))

    def _layers_of(self, ref: ModelRef) -> int:
        return 0 if self.stack is None else self.models[ref].shape.stacks.get(self.stack, 0)

    def _range(self, source: Source) -> tuple[int, int]:
        layers = self._layers_of(source.model)
        if source.layer_range is None:
            return 0, layers
        if source.layer_range[1] > layers:
            raise InputError(
                f"layer_range {list(source.layer_range)} goes beyond {str(source.model)!r}, which has {layers} layers",
                remedy=f"the last layer_range may end at {layers}",
            )
        return source.layer_range

    def _check_layers(self) -> None:
        for part in self.recipe.slices:
            counts = {str(s.model): self._range(s)[1] - self._range(s)[0] for s in self._all_sources(part)}
            if len(set(counts.values())) > 1:
                listed = ", ".join(f"{name} has {n}" for name, n in counts.items())
                raise InputError(f"models of different depth cannot be merged: {listed} layers", remedy="use slices:")

    def _all_sources(self, part: Slice) -> tuple[Source, ...]:
        """The slice's sources, and the base where `models:` leaves it unlisted."""
        if self._unlisted_base(part):
            assert self.recipe.base is not None
            return (*part.sources, Source(self.recipe.base))
        return part.sources

    def _unlisted_base(self, part: Slice) -> bool:
        base = self.recipe.base
        return self.schema.takes_base and base is not None and all(s.model != base for s in part.sources)

    def _outer(self, first: Slice, last: Slice) -> Iterator[TensorInfo]:
        """Tensors outside the main stack, each once, donor's order first."""
        giving = [source.model for part in (first, last) for source in self._all_sources(part)]
        refs = dict.fromkeys(sorted(giving, key=lambda ref: ref != self.recipe.donor))
        seen: set[str] = set()
        for ref in refs:
            for info in self.models[ref].shape:
                if info.stack != self.stack and info.name not in seen:
                    seen.add(info.name)
                    yield info

    def _layers(self, part: Slice, index: int, offset: int) -> int:
        sources = self._all_sources(part)
        ranges = [self._range(source) for source in sources]
        count = ranges[0][1] - ranges[0][0]
        by_layer: list[dict[int, list[TensorInfo]]] = []
        for source in sources:
            layers: dict[int, list[TensorInfo]] = {}
            for info in self.models[source.model].shape:
                if info.stack == self.stack and info.layer is not None:
                    layers.setdefault(info.layer, []).append(info)
            by_layer.append(layers)
        for layer in range(count):
            parts: dict[str, None] = {}
            for (start, _), layers in zip(ranges, by_layer, strict=True):
                parts |= dict.fromkeys(info.part for info in layers.get(start + layer, []))
            for name in parts:
                inputs = {i: f"{self.stack}.{start + layer}.{name}" for i, (start, _) in enumerate(ranges)}
                self._slot(part, index, f"{self.stack}.{offset + layer}.{name}", inputs, layer, count)
        return offset + count

    def _slot(
        self, part: Slice, index: int, output: str, names: Mapping[int, str], layer: int | None, count: int = 0
    ) -> None:
        found: list[tuple[int, Input, TensorInfo]] = []
        lacking = []
        for i, source in enumerate(self._all_sources(part)):
            name = names.get(i, output)
            info = self._find(source.model, name)
            if info is None:
                lacking.append(source.model)
            else:
                found.append((i, Input(source.model, info.name), info))
        if found and all(is_buffer(info) for _, _, info in found):
            self.left_out += [LeftOut(item, "a buffer that models compute themselves") for _, item, _ in found]
            return
        if lacking:
            self._refuse_lacking(output, [item for _, item, _ in found], lacking)
        self._same_shape(output, found)
        others: list[tuple[int, Input]] = []
        base = None
        for i, item, _ in found:
            if self.schema.takes_base and item.model == self.recipe.base:
                base = item
            else:
                others.append((i, item))
        stack_depth = depth_of(layer, count) if count else self._own_depth(found[0][2])
        dtype = self._dtype(output, [info for _, _, info in found])
        self.slots.append(Slot(output, found[0][2].shape, dtype, index, stack_depth, layer, tuple(others), base))

    def _own_depth(self, info: TensorInfo) -> float:
        layers = self.models[self.recipe.donor].shape.stacks.get(info.stack, 1)
        return depth_of(info.layer, layers)

    def _find(self, ref: ModelRef, name: str) -> TensorInfo | None:
        """The tensor, or the embedding matrix that stands for a tied head."""
        facts = self.models[ref]
        if name in facts.shape.tensors:
            return facts.shape.tensors[name]
        if facts.tied and is_head(name):
            return embedding_of(facts.shape)
        return None

    def _refuse_lacking(self, output: str, found: list[Input], lacking: list[ModelRef]) -> NoReturn:
        whose = f", which {str(found[0].model)!r} has" if found else ""
        raise InputError(
            f"model {str(lacking[0])!r} lacks tensor {output!r}{whose}", remedy="merge models of one architecture"
        )

    def _same_shape(self, output: str, found: list[tuple[int, Input, TensorInfo]]) -> None:
        _, first, info = found[0]
        for _, item, other in found[1:]:
            if other.shape == info.shape:
                continue
            remedy = "merge fine-tunes of one base model"
            if other.shape[1:] == info.shape[1:] and (is_head(output) or is_embedding(output)):
                remedy = "the vocabularies differ; bring the models to one tokenizer first"
            sizes = f"{list(info.shape)} in {str(first.model)!r} and {list(other.shape)} in {str(item.model)!r}"
            raise InputError(f"tensor {output!r} is {sizes}", remedy=remedy)

    def _dtype(self, output: str, infos: list[TensorInfo]) -> str:
        kinds = {info.dtype for info in infos}
        if kinds <= set(FLOATS):
            return self.recipe.out_dtype or self.recipe.dtype or _promoted(kinds)
        if len(kinds) > 1:
            raise InputError(
                f"tensor {output!r} is {' and '.join(sorted(kinds))}", remedy="merge models stored in one way"
            )
        return infos[0].dtype

    def _account(self) -> None:
        """Names every tensor of a source that no slot reads."""
        read = {item for slot in self.slots for _, item in slot.sources} | {s.base for s in self.slots if s.base}
        read |= {left.input for left in self.left_out}
        for part in self.recipe.slices:
            for source in self._all_sources(part):
                for info in self.models[source.model].shape:
                    item = Input(source.model, info.name)
                    if item not in read:
                        why = "in no slice" if info.stack == self.stack else "only the first and last slice give it"
                        self.left_out.append(LeftOut(item, why))
                        read.add(item)


def fill(layout: Layout, recipe: Recipe, schema: MethodSchema) -> Plan:
    """The layout with the recipe's numbers.

    Raises:
        InputError: a required parameter has no value for some tensor, or one the method cannot use.
    """
    jobs = []
    for slot in layout.slots:
        coefficients = {p.name: coefficient(p, slot, recipe) for p in schema.parameters.values()}
        schema.check(slot.tensor, coefficients)
        jobs.append(
            Job(
                slot.tensor,
                slot.shape,
                slot.dtype,
                tuple(item for _, item in slot.sources),
                slot.base,
                coefficients,
                verbatim=slot.dtype not in FLOATS,
            )
        )
    return Plan(recipe.method, tuple(jobs), layout.left_out, layout.picked, layout.untied, recipe.seed)


def coefficient(parameter: ParameterSchema, slot: Slot, recipe: Recipe) -> Any:
    """A parameter's value for one output tensor: a tuple over the slot's sources, or one value.

    The first level that gives a value wins: source, slice, recipe, default. Filters see the input's name for values per
    source and the output's name for values of the merge.
    """
    part = recipe.slices[slot.part]
    if not parameter.per_source:
        value = _first(parameter, (part.parameters, recipe.parameters), slot.tensor, slot.depth)
        return _or_default(value, parameter, slot, "the merge")
    values = []
    for index, item in slot.sources:
        own = part.sources[index].parameters if index < len(part.sources) else {}
        value = _first(parameter, (own, part.parameters, recipe.parameters), item.tensor, slot.depth)
        values.append(_or_default(value, parameter, slot, str(item.model)))
    return tuple(values)


def _first(parameter: ParameterSchema, levels: tuple[Mapping[str, Any], ...], tensor: str, depth: float) -> Scalar:
    for level in levels:
        if parameter.name in level:
            value = resolve(level[parameter.name], tensor, depth)
            if value is not None:
                return value
    return None


def _or_default(value: Scalar, parameter: ParameterSchema, slot: Slot, whose: str) -> Any:
    if value is not None:
        return value
    if parameter.default is REQUIRED:
        raise InputError(
            f"{parameter.name!r} of {whose} has no value for tensor {slot.tensor!r}",
            remedy="add a last entry without a filter: - value: 0.5",
        )
    return parameter.default


def unmatched_filters(layout: Layout, recipe: Recipe) -> list[str]:
    """Filters that match no tensor they could apply to, in words."""
    found = []
    for index, part in enumerate(recipe.slices):
        slots = [slot for slot in layout.slots if slot.part == index]
        for i, source in enumerate(part.sources):
            names = [item.tensor for slot in slots for j, item in slot.sources if j == i]
            found += _unmatched(source.parameters, names or [slot.tensor for slot in slots], str(source.model))
        found += _unmatched(part.parameters, [slot.tensor for slot in slots], f"slice {index}")
    found += _unmatched(recipe.parameters, [slot.tensor for slot in layout.slots], "the top-level parameters")
    return found


def _unmatched(settings: Mapping[str, Any], names: list[str], whose: str) -> list[str]:
    return [
        f"{name!r} of {whose}: filter {entry.filter!r} matches no tensor; `mergeopt explain` lists them"
        for name, setting in settings.items()
        for entry in setting
        if not any(entry.matches(tensor) for tensor in names)
    ]


def _promoted(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float64" if "float64" in kinds else "float32"
