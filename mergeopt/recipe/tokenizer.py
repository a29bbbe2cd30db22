"""`tokenizer:` and `tokenizer_source:`, read: which tokens the output knows, whence their rows."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from mergeopt.errors import InputError, did_you_mean
from mergeopt.recipe.document import Document, Route
from mergeopt.recipe.format import RecipeFile, TokenizerPart, TokenPart
from mergeopt.recipe.recipe import ModelRef, ModelToken, TokenizerRequest, TokenRule

_OLD_SPELLING = "model:"  # mergekit's until July 2024
_KINDS = {"model_token": ("model", "token", "token_id"), "zero": ()}

Said = Iterator[tuple[Route, str]]  # what was said in vain, and where


def tokenizer_request(file: RecipeFile, document: Document) -> TokenizerRequest | None:
    """What a recipe file asks of the output's vocabulary; None where it asks nothing.

    Raises:
        InputError: both spellings, a source that is no model, a rule that cannot be followed.
    """
    if file.tokenizer is None:
        if file.tokenizer_source is None:
            return None
        return TokenizerRequest(_source(file.tokenizer_source, document.where(("tokenizer_source",))))
    if file.tokenizer_source is not None:
        where = document.where(("tokenizer",))
        raise InputError("both tokenizer and tokenizer_source", where=where, remedy="give one")
    part = file.tokenizer
    if part.base_model is not None and not part.among:
        where = document.where(("tokenizer", "base_model"))
        raise InputError("base_model without among", where=where, remedy="list the models whose tokens count")
    source: ModelRef | Literal["union", "base"] = "union"
    if part.source is not None:
        source = _source(part.source, document.where(("tokenizer", "source")))
    return TokenizerRequest(
        source,
        tuple(_rule(token, rule, document) for token, rule in part.tokens.items()),
        part.pad_to_multiple_of,
        tuple(_model(model, document, "among", i) for i, model in enumerate(part.among)),
        None if part.base_model is None else _model(part.base_model, document, "base_model"),
    )


def said_in_vain(file: RecipeFile) -> Said:
    """Keys of `tokenizer` that nobody reads."""
    if isinstance(file.tokenizer_source, str) and file.tokenizer_source.startswith(_OLD_SPELLING):
        yield ("tokenizer_source",), f"{_OLD_SPELLING!r} is not needed before the model (it was until July 2024)"
    if file.tokenizer is None:
        return
    for key in file.tokenizer.model_extra or {}:
        hint = did_you_mean(key, tuple(TokenizerPart.model_fields))
        yield ("tokenizer", key), f"unknown key {key!r} has no effect; {hint}"
    for token, rule in file.tokenizer.tokens.items():
        route: Route = ("tokenizer", "tokens", token)
        for key in rule.model_extra or {}:
            hint = did_you_mean(key, tuple(TokenPart.model_fields))
            yield (*route, key), f"unknown key {key!r} has no effect; {hint}"
        if isinstance(rule.source, dict) and (kind := rule.source.get("kind")) in _KINDS:
            for key in rule.source.keys() - {"kind", *_KINDS[kind]}:
                belongs = "it belongs beside source:" if key == "force" else did_you_mean(key, _KINDS[kind])
                yield (*route, "source", key), f"{key!r} has no effect here; {belongs or ''}".rstrip("; ")
        if rule.force and rule.source is None:
            yield (*route, "force"), "without a source every model takes the row that models without the token take"


def _model(given: Any, document: Document, *route: str | int) -> ModelRef:
    return ModelRef.parse(given, document.where(("tokenizer", *route)))


def _source(given: Any, where: str) -> ModelRef | Literal["union", "base"]:
    if given in ("union", "base"):
        return "union" if given == "union" else "base"
    if isinstance(given, str):
        given = given.removeprefix(_OLD_SPELLING)
    return ModelRef.parse(given, where)


def _rule(token: str, part: TokenPart, document: Document) -> TokenRule:
    route: Route = ("tokenizer", "tokens", token, "source")
    if part.source is None:
        return TokenRule(token, None, part.force)
    where = document.where(route)
    kind = part.source.get("kind") if isinstance(part.source, dict) else None
    if kind is None:
        return TokenRule(token, ModelToken(ModelRef.parse(part.source, where), token), part.force)
    if kind == "zero":
        return TokenRule(token, "zero", part.force)
    if kind != "model_token":
        remedy = did_you_mean(str(kind), tuple(_KINDS))
        raise InputError(f"unknown kind {kind!r}", where=where, remedy=remedy)
    assert isinstance(part.source, Mapping)
    return TokenRule(token, _model_token(part.source, where), part.force)


def _model_token(source: Mapping[str, Any], where: str) -> ModelToken:
    given = [source[key] for key in ("token", "token_id") if source.get(key) is not None]
    if len(given) != 1 or source.get("model") is None:
        problem = "model_token takes a model and either a token or a token_id"
        raise InputError(problem, where=where, remedy="write {kind: model_token, model: ..., token: ...}")
    (token,) = given
    wanted = str if source.get("token") is not None else int
    if type(token) is not wanted or (isinstance(token, int) and token < 0):
        raise InputError(
            f"{token!r} is not {'text' if wanted is str else 'an id'}",
            where=where,
            remedy="quote it" if wanted is str else "ids count from 0",
        )
    return ModelToken(ModelRef.parse(source["model"], where), token)
