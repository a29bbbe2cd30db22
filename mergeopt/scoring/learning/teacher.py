"""What a teacher says: its answers to prompts, and its next-token distributions along them.

Both are made once per (teacher, prompts) and kept, because they cost a pass of the teacher while the steps that learn
from them need nothing but their tokens. Distributions are the k likeliest tokens and the rest as one number, in
float32: a token's id takes four bytes anyway, so half precision would save a quarter of the file, and cost that a model
which equals its teacher has a loss of 0.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mergeopt.scoring.base import NonFiniteError
from mergeopt.scoring.encoding import Encoder, Generation
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.generate import SAMPLING_SEED, Generator
from mergeopt.scoring.learning.distribution import answer_logits, coarse
from mergeopt.scoring.learning.lessons import Lesson
from mergeopt.scoring.learning.loss import Targets
from mergeopt.scoring.learning.packing import PackedLessons
from mergeopt.scoring.learning.prompts import Prompt
from mergeopt.scoring.learning.store import Tensors, kept
from mergeopt.scoring.resident import CPU_BATCH

TOP = 64  # of each distribution; the rest is one number
PASS = 4096  # tokens: probabilities of the whole vocabulary have to fit beside the model


@dataclass(frozen=True)
class Teacher:
    """One model that others learn from.

    Args:
        identity: Names its weights and the precision they compute in; equal identities must mean equal answers.
        load: Gives the resident model, holding this teacher's weights; called only where the cache lacks something.
        encoder: Of the tokenizer that the lessons were encoded with.
        cache: Folder of what was made before, or None to keep nothing.
        batching: How much goes through the model at once.
    """

    identity: str
    load: Callable[[], PreTrainedModel]
    encoder: Encoder
    cache: Path | None = None
    batching: Batching = field(default_factory=Batching)

    def answers(self, prompts: Sequence[Prompt], generation: Generation, *, seed: int = SAMPLING_SEED) -> list[Lesson]:
        """Its answer to each prompt as a lesson, through the stop or EOS; `seed` matters where `generation` samples.

        Raises:
            NonFiniteError: The model computed NaN or Inf.
        """

        def make() -> Tensors:
            generator = Generator(self.load(), self.encoder, self.batching)
            made = generator.tokens([list(prompt.tokens) for prompt in prompts], generation, seed=seed)
            return {"tokens": _flat(made), "lengths": torch.tensor([len(answer) for answer in made])}

        how = (generation.key, seed if not generation.greedy else None)
        found = kept(self.cache, self._digest("answers", how, [prompt.tokens for prompt in prompts]), make)
        tokens = iter(found["tokens"].tolist())
        lengths = found["lengths"].tolist()
        return [Lesson(p.tokens, tuple(islice(tokens, n)), p.key) for p, n in zip(prompts, lengths, strict=True)]

    def written(self, what: str, how: object, make: Callable[[PreTrainedModel], list[Any]]) -> list[Any]:
        """Texts or tokens that it writes, as JSON keeps them, made once for each `what` and `how`."""

        def made() -> Tensors:
            data = json.dumps(make(self.load())).encode()
            return {"json": torch.frombuffer(bytearray(data), dtype=torch.uint8)}

        found = kept(self.cache, self._digest(what, how, []), made)
        written: list[Any] = json.loads(found["json"].numpy().tobytes())
        return written

    def targets(self, lessons: Sequence[Lesson], *, top: int = TOP) -> Targets:
        """Its next-token distributions at every answer token, lesson by lesson.

        Raises:
            NonFiniteError: The model computed NaN or Inf.
        """
        tokens = [part for lesson in lessons for part in (lesson.context, lesson.answer)]
        found = kept(self.cache, self._digest("targets", (top, "float32"), tokens), lambda: self._targets(lessons, top))
        return Targets(found["ids"], found["top"], found["tail"])

    @torch.inference_mode()
    def _targets(self, lessons: Sequence[Lesson], top: int) -> Tensors:
        model, packed = self.load(), PackedLessons(lessons)
        most = CPU_BATCH if model.device.type == "cpu" else PASS
        batching = Batching(self.batching.rows, min(self.batching.tokens, most))
        vocabulary = min(top, _vocabulary(model))
        rows = packed.answer_tokens
        made = {"ids": torch.empty(rows, vocabulary, dtype=torch.int32), "top": torch.empty(rows, vocabulary)}
        made["tail"] = torch.empty(rows)
        for batch in packed.batches(np.arange(len(packed)), batching, model.device):
            logits = answer_logits(model, batch)
            ids = logits.topk(vocabulary, dim=1).indices
            log_top, tail = coarse(logits, ids)
            at = batch.answer.cpu()
            made["ids"][at], made["top"][at], made["tail"][at] = ids.int().cpu(), log_top.cpu(), tail.cpu()
        if not bool(torch.isfinite(made["top"]).all()) or bool(made["tail"].isnan().any()):
            raise NonFiniteError("the teacher computed NaN or Inf")
        return made

    def _digest(self, what: str, how: object, tokens: Sequence[Sequence[int]]) -> str:
        lengths = torch.tensor([len(part) for part in tokens])
        digest = sha256(repr((what, self.identity, how, len(tokens))).encode())
        for tensor in (lengths, _flat(tokens)):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:32]


def _flat(tokens: Iterable[Sequence[int]]) -> Tensor:
    return torch.tensor([token for part in tokens for token in part], dtype=torch.long)


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.get_output_embeddings().weight.shape[0])
