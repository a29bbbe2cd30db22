"""Models seen through one vocabulary: which tensors have a row per token, and where each row comes from.

A model that has a token keeps its own row. One that lacks it takes the row that a rule names, else that of the only
model that has it, else the base's, else the mean over the models that have it, and zero where none has
(mergekit 0.1.5). With these views the models merge as if they had always shared the vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.header import StoredTensor, item_size
from mergeopt.checkpoint.layout import text_config
from mergeopt.checkpoint.rows import RowView, rows_shape
from mergeopt.errors import InputError, did_you_mean
from mergeopt.merge.layout import FLOATS
from mergeopt.merge.names import is_embedding, is_head
from mergeopt.recipe.recipe import ModelRef, ModelToken, TokenRule

_POSITIONS = ("position", "wpe", "pos_emb")
_WORDS = ("head", "embed", "vocab", "logits", "predictions", "decoder", "wte")

Names = Mapping[ModelRef, Mapping[str, str]]  # vocabulary tensor → what it is called in this model
Ids = Mapping[str, int]


@dataclass(frozen=True)
class Rows:
    """Where the rows of the output's vocabulary come from.

    `own`: per model int32 [rows], its row or −1. `lent`: int32 [models, rows], for models without one: the rows whose
    mean it is, in the order of `models`. `real`: bool [rows], whether a row stands for a token.
    """

    models: tuple[ModelRef, ...]
    own: Mapping[ModelRef, NDArray[np.int32]]
    lent: NDArray[np.int32]
    real: NDArray[np.bool_]

    @property
    def size(self) -> int:
        return len(self.real)

    @property
    def orphans(self) -> NDArray[np.intp]:
        """Ids of tokens that have no row anywhere."""
        known = (np.stack([*self.own.values(), *self.lent]) >= 0).any(axis=0)
        found: NDArray[np.intp] = np.flatnonzero(~known & self.real)
        return found


def row_count(model: Checkpoint) -> int:
    """How many tokens a model has rows for.

    Raises:
        InputError: no embedding matrix by a known name, and no vocab_size in the config.
    """
    embedding = model.shape.embedding
    if embedding is not None:
        return embedding.shape[0]
    stated = text_config(model.config).get("vocab_size")
    if type(stated) is int and stated > 0:
        return stated
    raise InputError("its embedding matrix is not found: config.json has no vocab_size", where=str(model.folder))


def vocabulary_tensors(model: Checkpoint) -> tuple[str, ...]:
    """The tensors with a row per token: embeddings, heads, and their biases, in any architecture.

    Outer tensors whose first axis is as long as the vocabulary; where another size in the config is the same number,
    only those whose names say so.
    """
    rows = row_count(model)
    sizes = [value for key, value in text_config(model.config).items() if type(value) is int and "vocab" not in key]
    embedding = model.shape.embedding
    ambiguous = rows in sizes or (embedding is not None and rows in embedding.shape[1:])

    def speaks(name: str) -> bool:
        if is_embedding(name) or is_head(name):
            return True
        words = name.lower()
        return not any(w in words for w in _POSITIONS) and (not ambiguous or any(w in words for w in _WORDS))

    return tuple(
        info.name
        for info in model.shape.outer
        if info.dtype in FLOATS and rows_shape(info.shape, rows, rows) and speaks(info.name)
    )


def find_rows(
    ids: Ids,
    size: int,
    models: Mapping[ModelRef, tuple[Ids, int]],
    *,
    base: ModelRef | None,
    among: Sequence[ModelRef],
    rules: Sequence[TokenRule],
) -> Rows:
    """The rows of every model in the new vocabulary.

    Args:
        ids: The output's tokens.
        size: Its number of rows, padding included.
        models: Each model's own tokens, and how many rows it has.
        base: Whose rows stand in for a token that several models have.
        among: The models that lend rows without being asked.
        rules: Of the recipe.

    Raises:
        InputError: a rule names a token that its model does not have.
    """
    real = np.zeros(size, dtype=np.bool_)
    real[list(ids.values())] = True
    own = {}
    for ref, (theirs, rows) in models.items():
        own[ref] = np.full(size, -1, dtype=np.int32)
        for token, index in ids.items():
            row = theirs.get(token, -1)
            if row < rows:  # an id beyond the matrix: the model does not have the token
                own[ref][index] = row
    order = tuple(models)
    lent = np.stack([own[ref] if ref in among else np.full(size, -1, dtype=np.int32) for ref in order])
    if base is not None:
        lent = np.where((own[base] >= 0) & (np.arange(len(order)) != order.index(base))[:, None], np.int32(-1), lent)
    forced = []
    for rule in rules:
        place = ids[rule.token]
        if rule.source is not None:
            lent[:, place] = -1
        if isinstance(rule.source, ModelToken):
            lent[order.index(rule.source.model), place] = _named_row(rule, rule.source, models)
        forced += [place] if rule.force else []
    for rows_ in own.values():
        rows_[forced] = -1
    return Rows(order, own, lent, real)


def views(rows: Rows, checkpoints: Mapping[ModelRef, Checkpoint], names: Names) -> dict[ModelRef, Checkpoint]:
    """Every model seen through the vocabulary; those that it leaves as they are stay themselves.

    Args:
        rows: From `find_rows`.
        checkpoints: The models.
        names: From `vocabulary_names`.
    """
    return {
        ref: _view(ref, rows, checkpoints, names) if ref in rows.own else checkpoint
        for ref, checkpoint in checkpoints.items()
    }


def vocabulary_names(checkpoints: Mapping[ModelRef, Checkpoint], tied: Mapping[ModelRef, bool]) -> Names:
    """What every vocabulary tensor is called in each model; the embedding matrix stands for a tied head."""
    found: dict[ModelRef, dict[str, str]] = {ref: {} for ref in checkpoints}
    for ref, checkpoint in checkpoints.items():
        found[ref] = {name: name for name in vocabulary_tensors(checkpoint)}
    every = dict.fromkeys(name for names in found.values() for name in names)
    for ref, checkpoint in checkpoints.items():
        embedding = checkpoint.shape.embedding
        if embedding is not None and tied[ref]:
            found[ref] |= {name: embedding.name for name in every if is_head(name) and name not in found[ref]}
    return found


def _view(ref: ModelRef, rows: Rows, checkpoints: Mapping[ModelRef, Checkpoint], names: Names) -> Checkpoint:
    model, own = checkpoints[ref], rows.own[ref]
    lent = np.where(own >= 0, -1, rows.lent)
    used = [k for k in range(len(rows.models)) if bool((lent[k] >= 0).any())]
    lenders = [rows.models[k] for k in used]
    means = bool(((lent >= 0).sum(axis=0) > 1).any() or not rows.real.all())
    before = row_count(model)
    tensors, places, kept = dict(model.tensors), {}, {}
    for name, mine in names[ref].items():
        for lender in lenders:
            if name not in names[lender]:
                raise InputError(
                    f"{str(lender)!r} lends rows to {str(ref)!r}, but has no tensor {name!r}",
                    remedy="merge models of one architecture",
                )
        stored = [model.tensors[mine], *(checkpoints[m].tensors[names[m][name]] for m in lenders)]
        _check_width(name, before, stored, [ref, *lenders], checkpoints)
        shape = rows_shape(stored[0].shape, before, rows.size)
        assert shape is not None
        dtype = _joined([tensor.dtype for tensor in stored], means=means)
        nbytes = prod(shape) * item_size(dtype)
        tensors[name] = replace(stored[0], name=name, dtype=dtype, shape=shape, nbytes=nbytes)
        places[name] = (mine, tuple(names[m][name] for m in lenders))
        said = [model.shape.tensors[mine], *(checkpoints[m].shape.tensors[names[m][name]] for m in lenders)]
        kept[name] = _joined([info.dtype for info in said], means=False)
    if before == rows.size and np.array_equal(own, np.arange(before)) and len(tensors) == len(model.tensors):
        return model
    return RowView(
        model.folder,
        model.name,
        _resized(model.config, rows.size),
        tensors,
        model.files,
        model.stamps,
        model.notices,
        inner=model,
        own=own,
        lent=np.ascontiguousarray(lent[used]),
        real=rows.real,
        lenders=tuple(checkpoints[m] for m in lenders),
        names=places,
        stored=kept,
    )


def _named_row(rule: TokenRule, source: ModelToken, models: Mapping[ModelRef, tuple[Ids, int]]) -> int:
    ids, rows = models[source.model]
    row = source.token if isinstance(source.token, int) else ids.get(source.token)
    if row is None or row >= rows:
        spelled = f"id {row}" if isinstance(source.token, int) else repr(source.token)
        why = "has no such token" if row is None else f"has {rows} rows"
        remedy = did_you_mean(source.token, set(ids)) if isinstance(source.token, str) else None
        raise InputError(
            f"the rule for {rule.token!r} takes {spelled} of {str(source.model)!r}, which {why}", remedy=remedy
        )
    return row


def _check_width(
    name: str,
    before: int,
    stored: Sequence[StoredTensor],
    refs: Sequence[ModelRef],
    checkpoints: Mapping[ModelRef, Checkpoint],
) -> None:
    """Rows that are lent must be as long as the model's own."""
    width = stored[0].numel // before
    for ref, tensor in zip(refs[1:], stored[1:], strict=True):
        if tensor.numel // row_count(checkpoints[ref]) != width:
            raise InputError(
                f"tensor {name!r} is {list(stored[0].shape)} in {str(refs[0])!r} and {list(tensor.shape)} "
                f"in {str(ref)!r}",
                remedy="merge models of one architecture",
            )


def _joined(dtypes: Sequence[str], *, means: bool) -> str:
    """What the rows of several models fit into, and their means."""
    if "float64" in dtypes:
        return "float64"
    return dtypes[0] if len(set(dtypes)) == 1 and not means else "float32"


def _resized(config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The config with its vocabulary's size, wherever it says it."""
    result = dict(config)
    language = text_config(config)
    if language is not config:
        result["text_config"] = {**language, "vocab_size": size}
    if language is config or "vocab_size" in config:
        result["vocab_size"] = size
    return result
