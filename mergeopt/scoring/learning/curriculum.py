"""All lessons of a study by domain, a part of them held out, and the mini-batch of every step.

A mini-batch is a pure function of seed and step: a resumed or repeated run sees the same lessons in the same order. It
takes as many lessons of each domain as of any other; how much a domain counts is its weight's matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import numpy as np
import torch

from mergeopt.errors import InputError
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.learning.lessons import Lesson
from mergeopt.scoring.learning.loss import Kind, LessonBatch, Targets
from mergeopt.scoring.learning.packing import PackedLessons, PaddedLessons, Positions
from mergeopt.scoring.splits import cut, shuffled

HELD_OUT_MINIMUM = 8  # lessons per domain: fewer say nothing about a domain
Part = Literal["train", "held_out"]
PARTS: tuple[Part, ...] = ("train", "held_out")


@dataclass(frozen=True, slots=True)
class Domain:
    """Lessons that are learned with one loss: an eval's, a list of prompts', or what must be retained.

    `targets` are the teacher's distributions at the lessons' answer tokens, for "kl". Loss weights are relative.
    """

    name: str
    lessons: Sequence[Lesson]
    kind: Kind
    weight: float = 1.0
    targets: Targets | None = None

    def __post_init__(self) -> None:
        if not self.lessons:
            raise InputError("there is nothing to learn from", where=self.name, remedy="give items or prompts")
        answers = sum(len(lesson.answer) for lesson in self.lessons)
        if self.kind == "kl" and (self.targets is None or len(self.targets.ids) != answers):
            raise ValueError(f"{self.name}: a teacher's distributions at {answers} answer tokens are needed")


class Curriculum:
    """Domains divided into a train and a held-out part, by content hash.

    Args:
        domains: With different names.
        seed: Of the division and of the mini-batches.
        held_out: Share kept away from training; at least 8 lessons of each domain where that leaves as many to train.
        batching: Padded tokens per forward pass.
        device: Where the model's inputs go.
    """

    def __init__(
        self, domains: Sequence[Domain], *, seed: int, held_out: float, batching: Batching, device: torch.device
    ) -> None:
        self.names = tuple(domain.name for domain in domains)
        if len(set(self.names)) < len(self.names):
            raise InputError(f"two domains of one name among {', '.join(self.names)}", remedy="name them apart")
        self._domains, self._seed, self._batching, self._device = domains, seed, batching, device
        self._packed = PackedLessons([lesson for domain in domains for lesson in domain.lessons])
        sizes = [len(domain.lessons) for domain in domains]
        self.domain_of: Positions = np.repeat(np.arange(len(domains)), sizes)  # of each lesson
        starts = np.cumsum(sizes) - sizes
        answers = [int(self._packed.answers[self.domain_of == d].sum()) for d in range(len(domains))]
        self._first_answer: list[int] = (np.cumsum(answers) - answers).tolist()
        divided = [_divide(domain, seed, held_out) for domain in domains]
        self._parts = {part: [start + d[part] for start, d in zip(starts, divided, strict=True)] for part in PARTS}
        self._lanes: dict[tuple[Kind, int], list[int]] = {}  # domains that can share a forward pass
        for number, domain in enumerate(domains):
            k = domain.targets.ids.shape[1] if domain.targets is not None else 0
            self._lanes.setdefault((domain.kind, k), []).append(number)

    @property
    def answer_tokens(self) -> int:
        """How many tokens of answers there are to train on: what a loss has to go by."""
        return sum(int(self._packed.answers[lessons].sum()) for lessons in self._parts["train"])

    def minibatch(self, step: int, size: int) -> list[LessonBatch]:
        """`size` lessons of each domain to train on in one step, or all it has, in padded passes.

        Each domain goes through all its lessons before it repeats one, in another order every time.
        """
        return self._batches([self._draw(number, step, size) for number in range(len(self._domains))])

    def part(self, name: Part) -> list[LessonBatch]:
        """All lessons of a part, weighted like a mini-batch; no batches where nothing is held out."""
        return self._batches(self._parts[name])

    def _draw(self, domain: int, step: int, share: int) -> Positions:
        pool = self._parts["train"][domain]
        share = min(share, len(pool))
        epochs, places = np.divmod(np.arange(step * share, (step + 1) * share), len(pool))
        orders = {epoch: self._order(domain, epoch, len(pool)) for epoch in np.unique(epochs).tolist()}
        chosen = [orders[epoch][place] for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)]
        taken: Positions = pool[np.asarray(chosen)]
        return taken

    def _order(self, domain: int, epoch: int, size: int) -> Positions:
        name = int.from_bytes(sha256(self.names[domain].encode()).digest()[:8], "little")
        return np.random.default_rng([self._seed, epoch, name]).permutation(size)

    def _batches(self, chosen: Sequence[Positions]) -> list[LessonBatch]:
        """Passes over the chosen lessons of each domain, every domain weighted by its share in those that have any."""
        if not any(map(len, chosen)):
            return []
        weights = np.array([d.weight if len(c) else 0.0 for d, c in zip(self._domains, chosen, strict=True)])
        weights /= weights.sum() * np.array([max(1, len(lessons)) for lessons in chosen])
        batches = []
        for (kind, k), domains in self._lanes.items():
            lessons = np.concatenate([chosen[domain] for domain in domains])
            for padded in self._packed.batches(lessons, self._batching, self._device):
                weight = torch.tensor(weights[self.domain_of[padded.lessons]], dtype=torch.float32, device=self._device)
                batches.append(LessonBatch(padded, kind, weight, self._targets(padded, domains, k) if k else None))
        return batches

    def _targets(self, padded: PaddedLessons, domains: Sequence[int], k: int) -> Targets:
        """The rows of several teachers' files that belong to the answer tokens of one pass."""
        rows = len(padded.answer)
        made = Targets(torch.empty(rows, k, dtype=torch.int32), torch.empty(rows, k), torch.empty(rows))
        answers = padded.answer.cpu().numpy()
        owner = np.searchsorted(self._first_answer, answers, side="right") - 1
        for domain in domains:
            (here,) = np.nonzero(owner == domain)
            teacher = self._domains[domain].targets
            assert teacher is not None
            at = torch.from_numpy(answers[here] - self._first_answer[domain])
            made.ids[here], made.top[here], made.tail[here] = teacher.ids[at], teacher.top[at], teacher.tail[at]
        return made.to(self._device)


def _divide(domain: Domain, seed: int, held_out: float) -> dict[Part, Positions]:
    """Positions within a domain, by content hash: equal items never stand on both sides."""
    keys = [lesson.key for lesson in domain.lessons]
    order = shuffled(keys, seed=seed)
    wanted = max(round(held_out * len(keys)), HELD_OUT_MINIMUM) if held_out else 0
    held = min(wanted, len(keys) // 2)
    parts = cut(order, keys, {"train": len(keys) - held, "held_out": held})
    return {part: np.asarray(parts[part], dtype=np.int64) for part in PARTS}
