"""One number for (setting, tensor, depth): mergekit's language of scalars, gradients and filters.

A setting in YAML is a scalar, a list (a *gradient*, interpolated over depth) or a list of ``{filter, value}``
entries, of which the first whose filter is a substring of the tensor's name wins. Inside it is always a tuple of
entries. Depth is 0 at the first layer of a slice, 1 at the last; a slice of one layer counts as depth 1, and tensors
of no layer as depth 0.
"""

from dataclasses import dataclass
from math import floor, isfinite
from typing import Any

from mergeopt.errors import InputError, did_you_mean

Scalar = float | int | bool | str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """`values` over depth (one value is a constant) for tensors whose name contains `filter`; None matches all."""

    filter: str | None
    values: tuple[Scalar, ...]

    def matches(self, tensor: str) -> bool:
        return self.filter is None or self.filter == "*" or self.filter in tensor


Setting = tuple[Entry, ...]


def depth_of(layer: int | None, layers: int) -> float:
    """Depth of layer `layer` of a slice of `layers` layers; None is a tensor of no layer."""
    if layer is None:
        return 0.0
    return 1.0 if layers == 1 else layer / (layers - 1)


def interpolate(values: tuple[Scalar, ...], depth: float) -> Scalar:
    """Piecewise linear in depth for numbers; the value at or below for words and booleans.

    Values v_0..v_{n-1} stand at depths i/(n-1): s = depth·(n-1), i = ⌊s⌋, f = s − i, result (1−f)·v_i + f·v_{i+1}.
    """
    if len(values) == 1:
        return values[0]
    place = depth * (len(values) - 1)
    low = min(floor(place), len(values) - 1)
    a, b = values[low], values[min(low + 1, len(values) - 1)]
    if isinstance(a, bool | str) or isinstance(b, bool | str) or a is None or b is None:
        return a
    fraction = place - low
    return a if fraction == 0 else (1 - fraction) * a + fraction * b


def resolve(setting: Setting, tensor: str, depth: float) -> Scalar:
    """The setting's value for one tensor; None where no entry matches (then the next scope is asked)."""
    for entry in setting:
        if entry.values and entry.matches(tensor):
            return interpolate(entry.values, depth)
    return None


def parse_setting(data: Any, kind: str, where: str) -> Setting:
    """A YAML value as a setting of `kind` "float", "int", "bool" or "str".

    Raises:
        InputError: a value of the wrong kind, an unknown key beside filter and value.
    """
    if isinstance(data, dict):
        data = [data]
    if isinstance(data, list) and any(isinstance(item, dict) for item in data):
        return tuple(_entry(item, kind, f"{where}[{i}]") for i, item in enumerate(data))
    return (Entry(None, _values(data, kind, where)),)


def plain(setting: Setting) -> Any:
    """The setting as YAML data, the shortest form that means the same."""

    def values(entry: Entry) -> Any:
        return entry.values[0] if len(entry.values) == 1 else list(entry.values)

    if len(setting) == 1 and setting[0].filter is None:
        return values(setting[0])
    return [({"filter": e.filter} if e.filter is not None else {}) | {"value": values(e)} for e in setting]


def _entry(item: Any, kind: str, where: str) -> Entry:
    if not isinstance(item, dict):
        raise InputError(
            f"{item!r} stands among filter entries",
            where=where,
            remedy="write {value: " + str(item) + "} for the fallback",
        )
    for key in item:
        if key not in ("filter", "value"):
            raise InputError(f"unknown key {key!r}", where=where, remedy=did_you_mean(key, ("filter", "value")))
    if "value" not in item:
        raise InputError("has no value", where=where, remedy="write {filter: mlp, value: 0.5}")
    name = item.get("filter")
    if name is not None and not isinstance(name, str):
        raise InputError(f"filter must be text, not {name!r}", where=where, remedy="quote it")
    return Entry(name, _values(item["value"], kind, f"{where}.value"))


def _values(data: Any, kind: str, where: str) -> tuple[Scalar, ...]:
    if isinstance(data, list):
        return tuple(_scalar(item, kind, f"{where}[{i}]") for i, item in enumerate(data))
    return () if data is None else (_scalar(data, kind, where),)


def _scalar(data: Any, kind: str, where: str) -> Scalar:
    value = _coerced(data, kind)
    if value is None:
        hint = _number_hint(data) if isinstance(data, str) else None
        want = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}[kind]
        raise InputError(f"{data!r} is not {want}", where=where, remedy=hint)
    return value


def _number_hint(text: str) -> str | None:
    if any(c in text for c in "`'\""):
        return "remove the stray character"
    for character, meant in (
        (",", "write a decimal point"),
        ("/", "write the quotient"),
        ("%", "write a fraction of 1"),
    ):
        if character in text and any(c.isdigit() for c in text):
            return meant
    return "fill in the template" if "{" in text or text.startswith("$") else None


def _coerced(data: Any, kind: str) -> Scalar:
    """`data` as `kind`, or None: YAML reads 1e-5 as text, and people write 1.0 or "false" for booleans."""
    if kind == "str":
        return data if isinstance(data, str) else None
    if kind == "bool":
        words = {
            "true": True,
            "false": False,
            "1": True,
            "0": False,
            "1.0": True,
            "0.0": False,
            "yes": True,
            "no": False,
        }
        return words.get(str(data).strip().lower())
    if isinstance(data, str):
        try:
            data = float(data)
        except ValueError:
            return None
    if not isinstance(data, int | float) or not isfinite(data):
        return None
    if kind == "int":
        return int(data) if data == int(data) else None
    return float(data)
