"""Learning below the tensor: numbers for rows, columns or singular components, added to a learned recipe.

They are too many to be trials: Adam goes down the same smooth loss as the gradient before it, on the calibrate and the
search items, which have done their other work by then, and on the prompts. What is measured and kept is a running
average of the numbers (Polyak & Juditsky 1992), not the last step's. The state of every check is kept beside the study,
so that a killed run goes on from there, to the same numbers.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mergeopt.errors import MergeoptError
from mergeopt.merge.gradient import contracting
from mergeopt.merge.refinement import Key, Refinement, empty
from mergeopt.merge.refinement_gradient import RefinementGradient
from mergeopt.recipe.recipe import Recipe
from mergeopt.scoring.learning.curriculum import Curriculum
from mergeopt.scoring.learning.loss import backward, evaluate
from mergeopt.study.events import Listener, Notice, StepDone
from mergeopt.study.workbench import FAILURES, Workbench

STEP = 0.05  # of Adam, in coefficients: a delta counts between 0 and 1
WARM_UP = 10  # steps
CHECK = 40  # steps between measurements of the held-out loss
PATIENCE = 5  # measurements without a gain
HORIZON = 50  # steps that the averaged numbers look back: they lie where the steps' noise is gone
RETREATS = 4


@dataclass(frozen=True, slots=True)
class Spent:
    """What a refinement cost: gradients, tokens (a backward pass counts two), and seconds of this process."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """Where the descent is: numbers and Adam's moments by name, the best numbers so far, and what has happened."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Refiner:
    """Learns the refinement of one recipe.

    Args:
        bench: Of candidates.
        curriculum: What is learned.
        kind: What gets a number; see `mergeopt.merge.refinement`.
        steps: Gradients, at most.
        size: Lessons per step.
        path: Of the state; may exist.
        listener: Told of steps and retreats.
        note: Told of every held-out loss, with the number of its step, once in a run's life.
    """

    def __init__(
        self,
        bench: Workbench,
        curriculum: Curriculum,
        *,
        kind: str,
        steps: int,
        size: int,
        path: Path,
        listener: Listener,
        note: Callable[[int, float], None],
    ) -> None:
        self._bench, self._curriculum, self._kind, self._steps, self._size = bench, curriculum, kind, steps, size
        self._path, self._listener, self._note = path, listener, note
        self._held_out = curriculum.part("held_out")
        self.spent = Spent()

    def held_out(self, recipe: Recipe) -> float:
        """The held-out loss of a recipe as it is; infinite where it fails."""
        try:
            return evaluate(self._bench.become(recipe).model, self._held_out).mean
        except FAILURES:
            return math.inf

    def run(self, recipe: Recipe, identity: str) -> Refinement | None:
        """The numbers of the least held-out loss; None where none is lower than the recipe's own.

        Args:
            recipe: What is refined.
            identity: Of recipe, lessons and settings: a state of another is not gone on with.
        """
        begun = time.perf_counter()
        descent = _Descent(empty(self._bench.plan(recipe), self._kind), self._steps)
        kept = _read(self._path, identity)
        if kept is None:
            descent.best_loss = self.held_out(recipe)
            self._note(0, descent.best_loss)
        else:
            descent.restore(kept)
        while not descent.done:
            self._step(recipe, descent)
            if descent.taken % CHECK == 0 or descent.taken == self._steps:
                self._check(recipe, descent)
                _write(self._path, identity, descent.state())
        self.spent = Spent(descent.taken, descent.tokens, time.perf_counter() - begun)
        return Refinement(descent.best) if descent.best is not None else None

    def _step(self, recipe: Recipe, descent: "_Descent") -> None:
        try:
            bench = self._bench.become(recipe, descent.refinement)
            gradient = RefinementGradient(bench.live, bench.plan, self._kind)
            with contracting(bench.live, bench.plan.jobs, gradient):
                losses = backward(bench.model, self._curriculum.minibatch(descent.taken, self._size))
        except FAILURES as error:
            self._retreat(descent, str(error))
            return
        descent.tokens += 3 * losses.tokens  # a backward pass counts two
        if descent.diverges(losses.mean):
            self._retreat(descent, "the loss doubled")
            return
        descent.step(gradient.values())
        self._listener(StepDone(descent.taken, -losses.mean, True, 0.0))

    def _check(self, recipe: Recipe, descent: "_Descent") -> None:
        try:
            losses = evaluate(self._bench.become(recipe, descent.average).model, self._held_out)
        except FAILURES as error:
            self._retreat(descent, str(error))
            return
        descent.tokens += losses.tokens
        descent.judge(losses.mean)
        self._note(descent.taken, losses.mean)
        self._listener(StepDone(descent.taken, -losses.mean, False, 0.0))

    def _retreat(self, descent: "_Descent", why: str) -> None:
        descent.retreat()
        self._listener(Notice(f"below the tensor, step {descent.taken}: {why}; back with half the step"))


class _Descent:
    """Adam over a refinement's numbers: warm-up, cosine decay, and the best by held-out loss."""

    def __init__(self, values: Mapping[Key, Tensor], steps: int) -> None:
        self._values = {key: value.clone() for key, value in values.items()}
        self._mean = dict(self._values)
        self._first = {key: torch.zeros_like(value) for key, value in values.items()}
        self._second = {key: torch.zeros_like(value) for key, value in values.items()}
        self._steps, self.taken, self.tokens = steps, 0, 0
        self._moves, self._size, self._stale, self._retreats = 0, STEP, 0, 0
        self._losses: list[float] = []
        self.best: dict[Key, Tensor] | None = None
        self.best_loss = math.inf

    @property
    def refinement(self) -> Refinement:
        return Refinement(dict(self._values))

    @property
    def average(self) -> Refinement:
        """What is measured: the exponential average of the last `HORIZON` steps' numbers."""
        return Refinement(dict(self._mean))

    @property
    def done(self) -> bool:
        return self.taken >= self._steps or self._stale >= PATIENCE or self._retreats > RETREATS

    def step(self, gradients: Mapping[Key, Tensor]) -> None:
        """Kingma & Ba 2015."""
        decay = 0.05 + 0.95 * (1 + math.cos(math.pi * self.taken / self._steps)) / 2
        self.taken, self._moves = self.taken + 1, self._moves + 1
        size = self._size * decay * min(1.0, self._moves / WARM_UP)
        for key, gradient in gradients.items():
            g, first, second = gradient.float(), self._first[key], self._second[key]
            first.lerp_(g, 0.1)
            second.lerp_(g * g, 0.01)
            scale = (second / (1 - 0.99**self._moves)).sqrt_().add_(1e-12)
            # a new tensor: the last one may be written into the model still
            self._values[key] = self._values[key] - size / (1 - 0.9**self._moves) * first / scale
            self._mean[key] = self._mean[key].lerp(self._values[key], max(1 / HORIZON, 1 / self._moves))

    def diverges(self, loss: float) -> bool:
        """Are two mini-batches' losses in a row twice the start's? One alone may be a hard mini-batch."""
        self._losses = [*self._losses[:1], *self._losses[1:][-1:], loss]
        return len(self._losses) == 3 and min(self._losses[1:]) > 2 * self._losses[0]

    def judge(self, loss: float) -> None:
        """What the held-out loss says of the average."""
        self._stale += 1
        if loss < self.best_loss:
            self.best, self.best_loss, self._stale = dict(self._mean), loss, 0

    def retreat(self) -> None:
        """Back to the best numbers, with half the step and without momentum; the failed step counts."""
        self._retreats, self._size, self._moves, self.taken = self._retreats + 1, self._size / 2, 0, self.taken + 1
        best = self.best or {key: torch.zeros_like(value) for key, value in self._values.items()}
        self._values, self._mean, self._losses = dict(best), dict(best), self._losses[:1]
        for key in self._values:
            self._first[key].zero_()
            self._second[key].zero_()

    def state(self) -> State:
        tensors = {
            json.dumps([name, *key]): value
            for name, group in self._groups(self.best or {}).items()
            for key, value in group.items()
        }
        facts = {
            "taken": self.taken, "tokens": self.tokens, "moves": self._moves, "size": self._size, "stale": self._stale,
            "retreats": self._retreats, "losses": self._losses, "best_loss": self.best_loss,
        }  # fmt: skip
        return State(tensors, facts)

    def _groups(self, best: dict[Key, Tensor]) -> dict[str, dict[Key, Tensor]]:
        """All numbers of a state, by what they are."""
        return {"value": self._values, "mean": self._mean, "first": self._first, "second": self._second, "best": best}

    def restore(self, state: State) -> None:
        best: dict[Key, Tensor] = {}
        groups = self._groups(best)
        for name, tensor in state.tensors.items():
            group, *key = json.loads(name)
            groups[group][Key(*key)] = tensor
        facts = state.facts
        self.taken, self.tokens = facts["taken"], facts["tokens"]
        self._moves, self._size = facts["moves"], facts["size"]
        self._stale, self._retreats, self._losses = facts["stale"], facts["retreats"], list(facts["losses"])
        self.best, self.best_loss = best or None, facts["best_loss"]


def _read(path: Path, identity: str) -> State | None:
    """The state of a killed run; None where there is none, or one of something else."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("identity") != identity:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    return State(tensors, json.loads(metadata["facts"]))


def _write(path: Path, identity: str, state: State) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        metadata = {"identity": identity, "facts": json.dumps(state.facts)}
        save_file({name: tensor.clone() for name, tensor in state.tensors.items()}, temporary, metadata=metadata)
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise MergeoptError(f"{path}: cannot be written ({error})") from error
