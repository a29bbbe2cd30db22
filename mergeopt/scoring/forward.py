"""Likelihoods under the resident model: length-sorted, right-padded batches, planned once and run for every candidate.

Requests that need the same input share one row (all one-token choices of a question cost one pass). Rows and columns to
read are index tensors made at planning, so a candidate costs its forward passes and one gather per batch.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mergeopt.scoring.base import NonFiniteError
from mergeopt.scoring.encoding import Pair

CHUNK = 1 << 26  # logits turned into log-probabilities at once


@dataclass(frozen=True, slots=True)
class Batching:
    """How many rows go through the model at once: `rows` if given, else as many as fit into `tokens`."""

    rows: int | None = None
    tokens: int = 16_384

    def split(self, order: Iterable[int], cost: Callable[[int], int]) -> list[list[int]]:
        """Batches of positions; `order` is by descending cost, so a batch costs its first element times its size."""
        batches: list[list[int]] = []
        for position in order:
            room = self.rows or max(1, self.tokens // cost(batches[-1][0])) if batches else 0
            if batches and len(batches[-1]) < room:
                batches[-1].append(position)
            else:
                batches.append([position])
        return batches


@dataclass(frozen=True, slots=True)
class LikelihoodBatch:
    """One padded forward pass. K continuation tokens of R requests are read from its logits.

    ids: [B, T] int64, right-padded. first: the first column of logits that is read.
    row, column, target: [K]: where to read, and which token. request, place: [K]: whose token it is, and which of its.
    """

    ids: Tensor
    first: int
    row: Tensor
    column: Tensor
    target: Tensor
    request: Tensor
    place: Tensor
    requests: npt.NDArray[np.int64]  # [R] positions in the plan


@dataclass(frozen=True, slots=True)
class LikelihoodPlan:
    """All batches of a list of requests; `tokens` is what goes through the model, padding not counted."""

    batches: tuple[LikelihoodBatch, ...]
    size: int
    tokens: int

    @classmethod
    def of(
        cls, pairs: Sequence[Pair], *, max_length: int, batching: Batching, device: torch.device
    ) -> "LikelihoodPlan":
        """Plans requests. A context that is too long is cut from the left, as lm-eval does.

        Args:
            pairs: Context and continuation tokens of each request, neither empty.
            max_length: The model's positions.
            batching: Rows per batch.
            device: Where the model's inputs go.
        """
        rows: dict[tuple[int, ...], list[int]] = {}
        for position, (context, continuation) in enumerate(pairs):
            rows.setdefault(tuple((context + continuation)[-(max_length + 1) :][:-1]), []).append(position)
        inputs = sorted(rows, key=lambda row: (-len(row), row))
        groups = batching.split(range(len(inputs)), lambda i: len(inputs[i]))
        batches = [_batch([inputs[i] for i in group], rows, pairs, device) for group in groups]
        return cls(tuple(batches), len(pairs), sum(map(len, inputs)))

    @torch.inference_mode()
    def run(self, model: PreTrainedModel) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Log-probability of each continuation, and whether greedy decoding would produce it.

        Log-probabilities are computed in the dtype of the logits, as lm-eval does by default.

        Raises:
            NonFiniteError: A log-probability is NaN or infinite.
        """
        logprobs, greedy = np.zeros(self.size), np.zeros(self.size, dtype=np.bool_)
        trims = "logits_to_keep" in inspect.signature(model.forward).parameters
        for batch in self.batches:
            logprobs[batch.requests], greedy[batch.requests] = _run(model, batch, trims)
        if not np.isfinite(logprobs).all():
            raise NonFiniteError("the model computed NaN or Inf")
        return logprobs, greedy


def _batch(
    inputs: Sequence[tuple[int, ...]],
    rows: dict[tuple[int, ...], list[int]],
    pairs: Sequence[Pair],
    device: torch.device,
) -> LikelihoodBatch:
    ids = np.zeros((len(inputs), max(map(len, inputs))), dtype=np.int64)
    places: list[tuple[int, int, int, int, int]] = []
    requests: list[int] = []
    for row, tokens in enumerate(inputs):
        ids[row, : len(tokens)] = tokens
        for position in rows[tokens]:
            continuation = pairs[position][1]
            start = len(tokens) - len(continuation)
            places += [(row, start + i, token, len(requests), i) for i, token in enumerate(continuation)]
            requests.append(position)
    row_, column, target, request, place = torch.tensor(places, dtype=torch.long, device=device).T.contiguous()
    first = int(column.min())
    return LikelihoodBatch(
        torch.from_numpy(ids).to(device), first, row_, column - first, target, request, place, np.asarray(requests)
    )


def _run(
    model: PreTrainedModel, batch: LikelihoodBatch, trims: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    keep = batch.ids.shape[1] - batch.first
    if trims:
        logits = model(batch.ids, logits_to_keep=keep, use_cache=False).logits  # [B, keep, V]
    else:
        logits = model(batch.ids).logits[:, batch.first :]
    indices = (batch.row, batch.column, batch.target, batch.request, batch.place)
    row, column, target, request, place = (index.to(logits.device) for index in indices)  # it may span devices
    found, hit = [], []
    step = max(1, CHUNK // logits.shape[-1])
    for at in range(0, len(target), step):
        part = slice(at, at + step)
        scores = torch.log_softmax(logits[row[part], column[part]], dim=-1)  # [K', V]
        found.append(scores.gather(1, target[part, None])[:, 0])
        hit.append(scores.argmax(-1) == target[part])
    shape = (len(batch.requests), int(place.max()) + 1)
    table = logits.new_zeros(shape)  # a sum along rows has a fixed order; index_add on a GPU has none
    table[request, place] = torch.cat(found)
    all_hit = torch.ones(shape, dtype=torch.bool, device=logits.device)
    all_hit[request, place] = torch.cat(hit)
    return table.sum(1).double().cpu().numpy(), all_hit.all(1).cpu().numpy()
