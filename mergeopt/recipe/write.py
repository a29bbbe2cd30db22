"""A `Recipe` as mergekit YAML."""

from typing import Any

import yaml

from mergeopt.errors import InputError
from mergeopt.recipe.recipe import ModelRef, ModelToken, Recipe, Source, TokenizerRequest, TokenRule
from mergeopt.recipe.settings import plain


class _Dumper(yaml.SafeDumper):
    """Block style, short number lists on one line."""


def _short_lists(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flow = all(isinstance(item, int | float | str) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _short_lists)


def to_yaml(data: Any) -> str:
    """Plain data as YAML text, keys in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data in mergekit's format; reading it back gives an equal recipe."""
    data: dict[str, Any] = {"merge_method": recipe.method}
    if recipe.base is not None:
        data["base_model"] = _model(recipe.base)
    if recipe.modules:
        data["modules"] = {name: _module(recipe.of_module(name)) for name in recipe.modules}
    else:
        data |= _parts(recipe)
    data |= _parameters(recipe.parameters)
    data |= {} if recipe.tokenizer is None else _tokenizer(recipe.tokenizer)
    for key in ("dtype", "out_dtype", "chat_template", "refinement"):
        if getattr(recipe, key) is not None:
            data[key] = getattr(recipe, key)
    if recipe.seed:
        data["seed"] = recipe.seed
    return data


def _parts(recipe: Recipe) -> dict[str, Any]:
    if recipe.whole_models:
        return {"models": [_source(source) for source in recipe.slices[0].sources]}
    slices = [
        {"sources": [_source(source) for source in part.sources]}
        | ({"base_model": _model(part.base)} if part.base else {})
        | _parameters(part.parameters)
        for part in recipe.slices
    ]
    return {"slices": slices}


def _module(recipe: Recipe) -> dict[str, Any]:
    part = recipe.slices[0]
    if not recipe.whole_models:
        return _parts(recipe)
    return _parts(recipe) | ({"base_model": _model(part.base)} if part.base else {}) | _parameters(part.parameters)


def _model(ref: ModelRef) -> Any:
    """Text where reading it back gives the same reference, else a mapping."""
    if _reads_back(ref):
        return str(ref)
    mapping = {"model": _named(ref.path, ref.revision)}
    if ref.lora is not None:
        mapping["lora"] = _named(ref.lora, ref.lora_revision)
    return mapping | ({"override_architecture": ref.architecture} if ref.architecture else {})


def _named(path: str, revision: str | None) -> dict[str, Any]:
    return {"path": path} | ({"revision": revision} if revision else {})


def _reads_back(ref: ModelRef) -> bool:
    """Whether the short form says it all."""
    try:
        return ModelRef.parse(str(ref), "") == ref
    except InputError:
        return False


def _source(source: Source) -> dict[str, Any]:
    data: dict[str, Any] = {"model": _model(source.model)}
    if source.layer_range is not None:
        data["layer_range"] = list(source.layer_range)
    return data | _parameters(source.parameters)


def _parameters(settings: Any) -> dict[str, Any]:
    return {"parameters": {key: plain(setting) for key, setting in settings.items()}} if settings else {}


def _tokenizer(request: TokenizerRequest) -> dict[str, Any]:
    """`tokenizer_source` where that says all, else `tokenizer`."""
    if request == TokenizerRequest(request.source):
        return {"tokenizer_source": _unlike_a_word(request.source)}
    data: dict[str, Any] = {"source": _unlike_a_word(request.source)}
    if request.rules:
        data["tokens"] = {rule.token: _rule(rule) for rule in request.rules}
    if request.pad_to_multiple_of is not None:
        data["pad_to_multiple_of"] = request.pad_to_multiple_of
    if request.among:
        data["among"] = [_model(ref) for ref in request.among]
    if request.base is not None:
        data["base_model"] = _model(request.base)
    return {"tokenizer": data}


def _unlike_a_word(source: ModelRef | str) -> Any:
    """A model that is called as one of the words is spelled as a mapping."""
    if isinstance(source, str):
        return source
    plain_ = _model(source)
    words = plain_ in ("union", "base") or (isinstance(plain_, str) and plain_.startswith("model:"))
    return {"model": {"path": source.path}} if words else plain_


def _rule(rule: TokenRule) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if rule.source == "zero":
        data["source"] = {"kind": "zero"}
    elif isinstance(rule.source, ModelToken):
        model, token = _model(rule.source.model), rule.source.token
        spelled = {"token": token} if isinstance(token, str) else {"token_id": token}
        data["source"] = model if token == rule.token else {"kind": "model_token", "model": model} | spelled
    return data | ({"force": True} if rule.force else {})
