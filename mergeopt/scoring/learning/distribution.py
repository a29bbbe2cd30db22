"""A model's next-token distributions at the answers' positions: only their logits become probabilities."""

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mergeopt.scoring.learning.packing import PaddedLessons


def answer_logits(model: PreTrainedModel, batch: PaddedLessons) -> Tensor:
    """The logits that predict each answer token: [K, V] float32, differentiable in the model's weights."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits = model(batch.ids, logits_to_keep=batch.ids.shape[1] - batch.first, use_cache=False).logits
    else:
        logits = model(batch.ids).logits[:, batch.first :]
    row, column = batch.row.to(logits.device), batch.column.to(logits.device)  # the model may span devices
    chosen: Tensor = logits[row, column]
    return chosen.float()


def coarse(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of some tokens, and of all others together.

    The rest is summed by itself: 1 − Σ top loses every digit where a model is sure, and its gradient with them.

    Args:
        logits: [K, V] float32.
        ids: [K, k] int64, without repeats in a row.

    Returns:
        [K, k] and [K]; the latter is −inf where `ids` are the whole vocabulary.
    """
    top = logits.gather(1, ids)
    among = top.logsumexp(1)
    if ids.shape[1] == logits.shape[1]:
        return top - among[:, None], torch.full_like(among, -torch.inf)
    rest = logits.scatter(1, ids, -torch.inf).logsumexp(1)
    total = torch.logaddexp(among, rest)
    return top - total[:, None], rest - total
