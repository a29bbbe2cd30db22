"""Coefficients below the tensor: one number per row, per column or per singular component of a source's delta.

With δ_k = x_k − base (− the first source, for methods without a base) and U_k σ_k V_kᵀ its SVD, a refinement adds to
what the recipe says::

    W = method(…) + Σ_k (rows_k[i] + columns_k[j]) · δ_k[i, j] + Σ_k U_k diag(s_k σ_k) V_kᵀ

Rows are the first axis, columns the last, the SVD is of [first, rest]; a 1-D tensor has `rows` alone, element by
element. The numbers lie in a safetensors file that the recipe names; mergekit has no place for them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from mergeopt.checkpoint.header import StoredTensor, encode_header, read_header
from mergeopt.checkpoint.reader import byte_view
from mergeopt.checkpoint.staging import Staging
from mergeopt.errors import InputError, did_you_mean
from mergeopt.merge.layout import Input
from mergeopt.merge.plan import Job, Plan
from mergeopt.methods.chunks import Chunk

SIDECAR = "recipe.refinement"  # beside the recipe; without a suffix by which loaders would take it for weights
KINDS = {
    "rows": ("rows",),
    "columns": ("columns",),
    "rows+columns": ("rows", "columns"),
    "singular": ("singular",),
}
AXES = ("rows", "columns", "singular")
_FORMAT = {"mergeopt_refinement": "1"}


class Key(NamedTuple):
    """Which delta is refined, and along which axis."""

    model: str  # as the recipe writes it
    tensor: str  # of the output
    axis: str


@dataclass(frozen=True, slots=True)
class Scaled:
    """How the elements of one source's delta are scaled: float32 [rows], [columns] or neither."""

    source: int
    rows: Tensor | None
    columns: Tensor | None


@dataclass(frozen=True, eq=False)
class Refinement:
    """The numbers: key → float32 [length], on the CPU."""

    values: Mapping[Key, Tensor]

    @classmethod
    def read(cls, path: Path, plan: Plan) -> "Refinement":
        """Reads the refinement of a plan.

        Raises:
            InputError: no such file, truncated, of another format, or an entry that does not fit the plan.
        """
        if not path.is_file():
            raise InputError(
                f"no such file: {path}", where="refinement", remedy="give its path from the recipe's folder"
            )
        stored = read_header(path)
        jobs = {job.tensor: job for job in plan.jobs}
        values = {}
        with safe_open(path, framework="pt") as file:
            if not _FORMAT.items() <= (file.metadata() or {}).items():
                remedy = "give the file that was written with the recipe, or use a newer mergeopt"
                raise InputError("is not a refinement of format 1", where=str(path), remedy=remedy)
            for name, entry in stored.items():
                key = _key(name, path)
                where = f"{path} {key.axis} of {key.model!r} in {key.tensor!r}"
                _check_place(key, jobs, where)
                _check_size(entry, length(jobs[key.tensor].shape, key.axis), where)
                values[key] = file.get_tensor(name).clone()  # may be a view of the file
                if not bool(torch.isfinite(values[key]).all()):
                    raise InputError("holds NaN or infinity", where=where, remedy="learn it again")
        return cls(values)

    def encoded(self) -> bytes:
        """The file's bytes: the same for the same numbers."""
        values = {json.dumps([key.tensor, key.model, key.axis]): value for key, value in self.values.items()}
        names = sorted(values)
        head, _ = encode_header([(name, "float32", (values[name].numel(),)) for name in names], _FORMAT)
        return head + b"".join(byte_view(values[name].contiguous()) for name in names)

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            MergeoptError: disk full, no permission.
        """
        data = self.encoded()
        staging = Staging(path.parent, needed=len(data))
        try:
            staging.create(path.name, len(data), data)
            staging.publish([path.name], replaces=())
        except BaseException:
            staging.discard()
            raise

    def scaled(self, job: Job) -> list[Scaled]:
        """The row and column numbers of a job, by source."""
        found = []
        for index, item in deltas(job):
            rows, columns = (self.values.get(Key(str(item.model), job.tensor, axis)) for axis in ("rows", "columns"))
            if rows is not None or columns is not None:
                found.append(Scaled(index, rows, columns))
        return found

    def singular(self, job: Job) -> dict[int, Tensor]:
        """The numbers of a job's singular components, by source."""
        keys = {index: Key(str(item.model), job.tensor, "singular") for index, item in deltas(job)}
        return {index: self.values[key] for index, key in keys.items() if key in self.values}

    def fingerprint(self, job: Job) -> tuple[Any, ...]:
        """Equal for equal numbers, empty where the job is not refined."""
        keys = dict.fromkeys(Key(str(item.model), job.tensor, axis) for _, item in deltas(job) for axis in AXES)
        held = [key for key in keys if key in self.values]
        return tuple((key, xxhash.xxh3_128_digest(self.values[key].numpy().data)) for key in held)


def empty(plan: Plan, kind: str) -> dict[Key, Tensor]:
    """Zeros for every number of a kind: what a search over them starts from.

    Args:
        plan: Any plan of the recipe to refine.
        kind: "rows", "columns", "rows+columns" or "singular". 1-D tensors have `rows` in each.
    """
    return {
        Key(str(item.model), job.tensor, axis): torch.zeros(length(job.shape, axis))
        for job in plan.jobs
        if job.shape and not job.verbatim
        for _, item in deltas(job)
        for axis in (KINDS[kind] if len(job.shape) > 1 else ("rows",))
    }


def deltas(job: Job) -> Iterator[tuple[int, Input]]:
    """The inputs that have a delta, with their index among the job's."""
    inputs = enumerate(job.inputs)
    if job.base is None:
        next(inputs)
    return inputs


def delta(chunk: Chunk, source: int) -> Tensor:
    """δ of one source in a chunk: a new tensor [b]."""
    return chunk.sources[source] - (chunk.sources[0] if chunk.base is None else chunk.base)


def length(shape: tuple[int, ...], axis: str) -> int:
    """How many numbers an axis has."""
    return {"rows": shape[0], "columns": shape[-1], "singular": min(shape[0], prod(shape[1:]))}[axis]


def width(shape: tuple[int, ...]) -> int:
    """Elements of a line: what lies along the last axis; one where there are rows alone."""
    return shape[-1] if len(shape) > 1 else 1


def row_of_line(shape: tuple[int, ...], first: int, last: int, device: torch.device) -> Tensor:
    """For lines [first, last) the row that each belongs to: [last − first]."""
    return torch.arange(first, last, device=device) // prod(shape[1:-1])


def rescaled(merged: Tensor, chunk: Chunk, job: Job, terms: list[Scaled]) -> Tensor:
    """`merged` [b] with the row and column terms added, in its own precision.

    Each element takes one addition, one multiplication and one addition per source, each rounded by itself, so it does
    not depend on where a chunk begins.
    """
    for term in terms:
        change = delta(chunk, term.source)
        merged = merged + change.mul_(_factors(term, job.shape, chunk.start, change))
    return merged


def _factors(term: Scaled, shape: tuple[int, ...], start: int, like: Tensor) -> Tensor:
    """rows[i] + columns[j] for the elements of a chunk: [b]. Needs the room of a chunk and two lines."""
    across, stop = width(shape), start + like.numel()
    first, last = start // across, -(-stop // across)
    table = None
    if term.rows is not None:
        rows = term.rows.to(like)[row_of_line(shape, first, last, like.device)]
        table = rows.unsqueeze(1).expand(-1, across)
    if term.columns is not None:
        columns = term.columns.to(like).expand(last - first, -1)
        table = columns if table is None else table + columns
    assert table is not None
    return table.reshape(-1)[start - first * across : stop - first * across]


def _key(name: str, path: Path) -> Key:
    try:
        tensor, model, axis = json.loads(name)
    except (ValueError, TypeError):
        tensor = model = axis = None
    if not (isinstance(tensor, str) and isinstance(model, str) and axis in AXES):
        problem = f"{name!r} is not [tensor, model, axis]"
        raise InputError(problem, where=str(path), remedy=f"an axis is one of {', '.join(AXES)}")
    return Key(model, tensor, axis)


def _check_place(key: Key, jobs: Mapping[str, Job], where: str) -> None:
    job = jobs.get(key.tensor)
    if job is None:
        remedy = did_you_mean(key.tensor, tuple(jobs)) or "`mergeopt explain` lists them"
        raise InputError("the merge has no such tensor", where=where, remedy=remedy)
    if job.verbatim or (len(job.shape) < 2 and key.axis != "rows") or not job.shape:
        has = "is copied" if job.verbatim or not job.shape else "has one axis: rows"
        raise InputError(f"a tensor of {job.dtype} {list(job.shape)} {has}", where=where, remedy="leave the entry out")
    models = {str(item.model) for _, item in deltas(job)}
    if key.model not in models:
        raise InputError("the recipe takes no delta of this model", where=where, remedy=did_you_mean(key.model, models))


def _check_size(entry: StoredTensor, wanted: int, where: str) -> None:
    if entry.dtype != "float32" or entry.shape != (wanted,):
        problem = f"is {entry.dtype} {list(entry.shape)}, not float32 [{wanted}]"
        raise InputError(problem, where=where, remedy="is it the refinement of another recipe?")
