"""What a person should hear of a layout: what stays out, what is missing somewhere, what loses precision."""

from collections import Counter
from collections.abc import Iterable, Mapping

from mergeopt.merge.layout import Facts, Input, Layout
from mergeopt.recipe.recipe import ModelRef, Recipe

_WIDE = ("float64", "float32")


def layout_notices(layout: Layout, recipe: Recipe, models: Mapping[ModelRef, Facts]) -> list[str]:
    """One line per reason and model."""
    lines = _grouped("left out of", ((item.input, item.why) for item in layout.left_out))
    lines += _grouped("lacking in", ((item.input, item.so) for item in layout.lacking))
    lines += _grouped("copied from", ((item, "of a module that the recipe does not name") for item in layout.unnamed))
    lines += _narrowed(layout, recipe, models)
    if layout.untied:
        lines.append(f"the head is written: the output's config unties it from the embeddings of {recipe.donor}")
    return lines


def _grouped(what: str, items: Iterable[tuple[Input, str]]) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for item, why in items:
        groups.setdefault((str(item.model), why), []).append(item.tensor)
    return [f"{what} {model!r}: {_some(names)} ({why})" for (model, why), names in groups.items()]


def _some(names: list[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _narrowed(layout: Layout, recipe: Recipe, models: Mapping[ModelRef, Facts]) -> list[str]:
    """Tensors that 16-bit models keep in float32 for a reason (a router's bias, Mamba's A_log), and `dtype` casts."""
    sizes: Counter[str] = Counter()
    for info in models[recipe.donor].shape:
        sizes[info.dtype] += info.numel
    if sizes.most_common(1)[0][0] in _WIDE:
        return []
    narrowed = [
        slot.tensor
        for slot in layout.slots
        if slot.dtype in ("bfloat16", "float16")
        and all(models[i.model].shape.tensors[i.tensor].dtype in _WIDE for _, i in slot.sources)
    ]
    if not narrowed:
        return []
    return [f"kept in float32 by the models, written as {recipe.out_dtype or recipe.dtype}: {_some(narrowed)}"]
