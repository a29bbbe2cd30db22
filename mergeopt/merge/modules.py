"""A recipe by module is laid out module by module, each as a recipe over the tensors of that module alone."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from mergeopt.errors import InputError
from mergeopt.merge.slots import FLOATS, Facts, Input, Layout, LeftOut, Slot
from mergeopt.recipe.modules import members
from mergeopt.recipe.recipe import ModelRef, Recipe
from mergeopt.recipe.settings import depth_of
from mergeopt.recipe.shape import Shape

LayOut = Callable[[Recipe, Mapping[ModelRef, Facts]], Layout]


def lay_out_modules(recipe: Recipe, models: Mapping[ModelRef, Facts], lay_out: LayOut) -> Layout:
    """The layouts of the modules in one; what is of no module that the recipe names is copied from the donor.

    Raises:
        InputError: a module that a model does not have, one whose number of layers config.json would not say.
    """
    parts = {ref: _members(ref, facts.shape, recipe) for ref, facts in models.items()}
    slots: list[Slot] = []
    left_out: list[LeftOut] = []
    joined = Layout((), (), None)
    for module in recipe.modules:
        own = recipe.of_module(module)
        layout = lay_out(own, {ref: replace(models[ref], shape=parts[ref][module]) for ref in own.models})
        first = next(i for i, part in enumerate(recipe.slices) if part.module == module)
        slots += [replace(slot, part=slot.part + first) for slot in layout.slots]
        left_out += layout.left_out
        picked = _picked(layout, module, parts[own.donor][module], models[recipe.donor].shape)
        joined = replace(
            joined,
            picked=joined.picked if picked is None else picked,
            untied=joined.untied or layout.untied,
            lacking=(*joined.lacking, *layout.lacking),
        )
    unnamed = [_copied(recipe, info.name, parts[recipe.donor][""]) for info in parts[recipe.donor][""]]
    for ref, own_parts in parts.items():
        if ref != recipe.donor:
            left_out += [LeftOut(Input(ref, info.name), "of a module that is not named") for info in own_parts[""]]
    return replace(
        joined,
        slots=(*slots, *unnamed),
        left_out=tuple(left_out),
        unnamed=tuple(item for slot in unnamed for _, item in slot.sources),
    )


def _members(ref: ModelRef, shape: Shape, recipe: Recipe) -> dict[str, Shape]:
    named = [m for m in recipe.modules if ref in recipe.of_module(m).models]
    try:
        return members(shape, recipe.modules if ref == recipe.donor else named)
    except InputError as error:
        raise InputError(f"model {str(ref)!r}: {error.problem}", remedy=error.remedy) from None


def _picked(layout: Layout, module: str, own: Shape, whole: Shape) -> tuple[int, ...] | None:
    """The layers behind the main stack's; other stacks keep theirs, as config.json has no general word for them."""
    if layout.picked is None or own.main == whole.main:
        return layout.picked
    if layout.picked != tuple(range(whole.stacks.get(own.main, 0))):
        raise InputError(
            f"module {module!r} would get other layers than config.json says",
            remedy="slices of this module must keep every layer in its place",
        )
    return None


def _copied(recipe: Recipe, name: str, shape: Shape) -> Slot:
    info = shape.tensors[name]
    dtype = recipe.out_dtype or recipe.dtype or info.dtype if info.dtype in FLOATS else info.dtype
    depth = depth_of(info.layer, shape.stacks.get(info.stack, 1))
    return Slot(name, info.shape, dtype, 0, depth, info.layer, ((0, Input(recipe.donor, name)),), None, copied=True)
