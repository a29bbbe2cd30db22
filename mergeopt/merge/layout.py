"""Which tensors go into which, before any number of the recipe counts.

The shapes of the models and the recipe's structure decide it; a search lays out once for all its candidates. Every
tensor of every source is merged, copied or left out by name: nothing vanishes in silence.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mergeopt.errors import InputError
from mergeopt.merge.modules import lay_out_modules
from mergeopt.merge.names import is_buffer, is_embedding, is_head
from mergeopt.merge.slots import FLOATS, Facts, Input, Lack, Layout, LeftOut, Slot
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.recipe.schema import MethodSchema
from mergeopt.recipe.settings import depth_of
from mergeopt.recipe.shape import Shape, TensorInfo

__all__ = ["FLOATS", "Facts", "Input", "Lack", "Layout", "LeftOut", "Slot", "lay_out"]


def lay_out(recipe: Recipe, models: Mapping[ModelRef, Facts], schema: MethodSchema) -> Layout:
    """Which tensors go into which.

    Args:
        recipe: Its numbers do not matter here.
        models: Facts of every model in `recipe.models`.
        schema: The recipe's method.

    Raises:
        InputError: different numbers of layers, shapes or tensors; a layer range beyond a model; quantised weights.
    """
    if recipe.modules:
        return lay_out_modules(recipe, models, lambda part, facts: _LayOut(part, facts, schema).run())
    return _LayOut(recipe, models, schema).run()


Found = tuple[int, Input, TensorInfo]  # index in the slice, what is read, how it looks


@dataclass(frozen=True)
class _Part:
    """A slice with its models. `base` is the index of the base among the sources, where the method takes one."""

    index: int
    sources: tuple[Source, ...]
    facts: tuple[Facts, ...]
    base: int | None
    read: tuple[set[str], ...]  # names, per source; a model's set is one for all slices


class _LayOut:
    def __init__(self, recipe: Recipe, models: Mapping[ModelRef, Facts], schema: MethodSchema) -> None:
        self.recipe, self.models, self.schema = recipe, models, schema
        self.donor = models[recipe.donor].shape
        self.stack = self.donor.main
        self.slots: list[Slot] = []
        self.left_out: list[LeftOut] = []
        self.lacking: list[Lack] = []
        self.read: dict[ModelRef, set[str]] = {ref: set() for ref in recipe.models}
        self.parts = [self._part(part, index) for index, part in enumerate(recipe.slices)]
        self.by_layer = {ref: self._by_layer(models[ref].shape) for ref in recipe.models}

    def run(self) -> Layout:
        self._check_quantised()
        self._check_layers()
        picked = self._picked()
        before: list[tuple[str, TensorInfo]] = []
        after: list[tuple[str, TensorInfo]] = []
        for output, info in self._outer(len(picked)):
            (before if self.donor.before_layers(info) else after).append((output, info))
        self._outers(self.parts[0], before, len(picked))
        offset = 0
        for part in self.parts:
            offset = self._layers(part, offset)
        self._outers(self.parts[-1], after, len(picked))
        self._account()
        untied = self.models[self.recipe.donor].tied and any(is_head(slot.tensor) for slot in self.slots)
        return Layout(
            tuple(self.slots),
            tuple(self.left_out),
            None if self.recipe.whole_models else picked,
            untied,
            tuple(self.lacking),
        )

    def _part(self, part: Slice, index: int) -> _Part:
        """The slice, and the base where `models:` leaves it unlisted."""
        sources, base, ref = part.sources, None, self.recipe.base_of(part)
        if self.schema.takes_base and ref is not None:
            base = next((i for i, source in enumerate(sources) if source.model == ref), len(sources))
            sources = (*sources, Source(ref)) if base == len(sources) else sources
        refs = [source.model for source in sources]
        return _Part(
            index, sources, tuple(self.models[ref] for ref in refs), base, tuple(self.read[ref] for ref in refs)
        )

    def _by_layer(self, shape: Shape) -> dict[int, list[str]]:
        """The parts of each layer of the main stack."""
        layers: dict[int, list[str]] = {}
        for info in shape:
            if info.layer is not None and info.stack == self.stack:
                layers.setdefault(info.layer, []).append(info.part)
        return layers

    def _check_quantised(self) -> None:
        """Codes, scales and zero points are no weights: they are copied, never merged, nor cast to another dtype."""
        for ref in self.recipe.models:
            kind = self.models[ref].quantised
            if kind and (self.schema.max_sources != 1 or self.schema.takes_base or _changes_numbers(self.recipe)):
                raise InputError(
                    f"model {str(ref)!r} is quantised ({kind}): its tensors are codes, which cannot be merged",
                    remedy="take the model it was made from, or dequantise it first (transformers: "
                    "model.dequantize(), save_pretrained); passthrough without scale and dtype copies it as it is",
                )

    def _picked(self) -> tuple[int, ...]:
        ranges = [self._range(part.sources[0]) for part in self.recipe.slices]
        return tuple(layer for first, last in ranges for layer in range(first, last))

    def _layers_of(self, ref: ModelRef) -> int:
        return self.models[ref].shape.stacks.get(self.stack, 0)

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
        for part in self.parts:
            counts = {str(source.model): end - start for source in part.sources for start, end in [self._range(source)]}
            if len(set(counts.values())) > 1:
                listed = ", ".join(f"{name} has {n}" for name, n in counts.items())
                raise InputError(f"models of different depth cannot be merged: {listed} layers", remedy="use slices:")

    def _outer(self, layers: int) -> Iterator[tuple[str, TensorInfo]]:
        """Tensors outside the main stack under the output's names, each once, donor's order first.

        Args:
            layers: Of the output.
        """
        giving = [source.model for part in (self.parts[0], self.parts[-1]) for source in part.sources]
        refs = dict.fromkeys(sorted(giving, key=lambda ref: ref != self.recipe.donor))
        seen: set[str] = set()
        for ref in refs:
            own = self._layers_of(ref)
            for info in self.models[ref].shape:
                if self._in_main(info):
                    continue
                output = self._moved(info.name, own, layers)
                if output not in seen:
                    seen.add(output)
                    yield output, info

    def _outers(self, part: _Part, tensors: list[tuple[str, TensorInfo]], layers: int) -> None:
        counts = [self._layers_of(source.model) for source in part.sources]
        for output, info in tensors:
            self._slot(part, output, [self._moved(output, layers, count) for count in counts], info.layer)

    def _in_main(self, info: TensorInfo) -> bool:
        return not info.outer and info.stack == self.stack

    def _moved(self, name: str, layers: int, to: int) -> str:
        """A prediction layer's tensor, filed after the last of `layers` layers, as it is filed after `to`."""
        if layers == to or not self._predicts(name):
            return name
        number, part = name.removeprefix(f"{self.stack}.").split(".", 1)
        return f"{self.stack}.{int(number) - layers + to}.{part}"

    def _predicts(self, name: str) -> bool:
        """Is it of a multi-token-prediction layer? (Only asked of tensors that are no layer's.)"""
        return name.startswith(f"{self.stack}.") and name.removeprefix(f"{self.stack}.").split(".")[0].isdigit()

    def _layers(self, part: _Part, offset: int) -> int:
        ranges = [self._range(source) for source in part.sources]
        layers = [self.by_layer[source.model] for source in part.sources]
        count = ranges[0][1] - ranges[0][0]
        for layer in range(count):
            homes = [f"{self.stack}.{start + layer}." for start, _ in ranges]
            parts: dict[str, None] = {}
            for (start, _), having in zip(ranges, layers, strict=True):
                parts |= dict.fromkeys(having.get(start + layer, ()))
            for name in parts:
                names = [home + name for home in homes]
                self._slot(part, f"{self.stack}.{offset + layer}.{name}", names, layer, count)
        return offset + count

    def _slot(self, part: _Part, output: str, names: Sequence[str], layer: int | None, count: int = 0) -> None:
        found, lacking = self._gather(part, names)
        if found and all(is_buffer(info) for _, _, info in found):
            self.left_out += [LeftOut(item, "a buffer that models compute themselves") for _, item, _ in found]
            return
        if lacking:
            self._check_lacking(output, found, lacking, inside=count > 0)
        if not found:
            return  # the slice that gives it has none; whoever has it sees it left out
        self._same_shape(output, found)
        base = next((item for i, item, _ in found if i == part.base), None)
        others = tuple((i, item) for i, item, _ in found if i != part.base)
        copied = bool(lacking) and self._is_copied(output, others, base)
        if copied and base is not None:
            others, base = ((found[0][0], base),), None
        if lacking:
            self._name_lacking(output, found, lacking, copied=copied)
        depth = depth_of(layer, count) if count else self._own_depth(found[0][2])
        dtype = self._dtype(output, [info for _, _, info in found])
        self.slots.append(Slot(output, found[0][2].shape, dtype, part.index, depth, layer, others, base, copied))

    def _own_depth(self, info: TensorInfo) -> float:
        return depth_of(info.layer, self.donor.stacks.get(info.stack, 1))

    def _gather(self, part: _Part, names: Sequence[str]) -> tuple[list[Found], list[Input]]:
        """Each source's tensor, and what is lacking. In a tied model the embedding matrix stands for the head."""
        infos = [facts.shape.tensors.get(name) for facts, name in zip(part.facts, names, strict=True)]
        found: list[Found] = []
        lacking = []
        for i, (source, facts, own) in enumerate(zip(part.sources, part.facts, infos, strict=True)):
            info = own or _lent(facts, infos)
            if info is None:
                lacking.append(Input(source.model, names[i]))
            else:
                part.read[i].add(info.name)
                found.append((i, Input(source.model, info.name), info))
        return found, lacking

    def _check_lacking(self, output: str, found: list[Found], lacking: list[Input], *, inside: bool) -> None:
        """A head, a tower or a prediction layer may be some models' own; the language model's body may not.

        Raises:
            InputError: a tensor of the main stack or filed beside it, an embedding, part of a stack that the model has.
        """
        home = self.stack.rpartition(".")[0]
        body = inside or is_embedding(output) or (home and output.startswith(f"{home}.") and not self._predicts(output))
        stack = next((info.stack for _, _, info in found), "")
        for item in lacking:
            if body or (stack and stack in self.models[item.model].shape.stacks):
                whose = f", which {str(found[0][1].model)!r} has" if found else ""
                problem = f"model {str(item.model)!r} lacks tensor {item.tensor!r}{whose}"
                raise InputError(problem, remedy="merge models of one architecture")

    def _is_copied(self, output: str, others: tuple[tuple[int, Input], ...], base: Input | None) -> bool:
        """With some models lacking it, is there one left, to be copied?

        Raises:
            InputError: there are several, but not what the method needs.
        """
        few = len(others) < self.schema.min_sources
        if len(others) + (base is not None) == 1 and (few or self.schema.needs_base):
            return True
        if self.schema.needs_base and base is None:
            who = " and ".join(str(item.model) for _, item in others)
            raise InputError(
                f"base_model {str(self.recipe.base)!r} lacks tensor {output!r}, which {who} have: there is no delta",
                remedy="give a base_model that has it, or merge with linear, which needs no base",
            )
        if few:
            raise InputError(
                f"{self.schema.name} takes {self.schema.min_sources} models, and only {len(others)} have {output!r}",
                remedy="leave out the models that lack it, or use linear",
            )
        return False

    def _name_lacking(self, output: str, found: list[Found], lacking: list[Input], *, copied: bool) -> None:
        givers = ", ".join(str(item.model) for _, item, _ in found)
        for item in lacking:
            so = f"copied from {givers}" if copied else f"merged from {givers}"
            if item.model == self.recipe.donor:
                so += "; the output's config.json is this model's and may not know it"
            self.lacking.append(Lack(Input(item.model, output), so))

    def _same_shape(self, output: str, found: list[Found]) -> None:
        _, first, info = found[0]
        for _, item, other in found[1:]:
            if other.shape == info.shape:
                continue
            remedy = "merge fine-tunes of one base model"
            if other.shape[1:] == info.shape[1:] and (is_head(output) or is_embedding(output)):
                remedy = "the vocabularies differ; write tokenizer_source: union to merge token by token"
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
        if len(infos) > 1 and infos[0].dtype.startswith("float8"):
            problem = f"tensor {output!r} is {infos[0].dtype}, which is merged only when widened"
            raise InputError(problem, remedy="dequantise the models first")
        return infos[0].dtype

    def _account(self) -> None:
        """Names every tensor of a source that no slot reads."""
        for ref in dict.fromkeys(source.model for part in self.parts for source in part.sources):
            for info in self.models[ref].shape:
                if info.name not in self.read[ref]:
                    why = "in no slice" if self._in_main(info) else "only the first and last slice give it"
                    self.left_out.append(LeftOut(Input(ref, info.name), why))


def _lent(facts: Facts, infos: Sequence[TensorInfo | None]) -> TensorInfo | None:
    """A tied model's embedding matrix, where other models have another matrix over the vocabulary: a head."""
    lent = facts.shape.embedding if facts.tied else None
    if lent is not None and any(info and info.outer and info.shape == lent.shape for info in infos):
        return lent
    return None


def _changes_numbers(recipe: Recipe) -> bool:
    """Does the recipe set anything that would touch the numbers of a copy?"""
    given = [recipe.parameters, *(p.parameters for p in recipe.slices)]
    given += [source.parameters for part in recipe.slices for source in part.sources]
    return bool(recipe.dtype or recipe.out_dtype or any(given))


def _promoted(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float64" if "float64" in kinds else "float32"
