"""Down the gradient in few directions first, in more as far as held-out lessons pay for them.

Adam goes down one level at a time from the best point so far. A finer level follows where the one before lowered the
held-out loss by more than two standard errors, or where the last gradients clearly point somewhere along the finer
directions. The best point by held-out loss stays, whatever happens after it.
"""

from collections.abc import Sequence

import numpy as np

from mergeopt.optimizers.base import Outcome
from mergeopt.optimizers.cube import Cube, Vector
from mergeopt.optimizers.descent import Descent, Directions, signal
from mergeopt.optimizers.heldout import HeldOut
from mergeopt.optimizers.ranking import failed
from mergeopt.optimizers.search import Point
from mergeopt.space.levels import Level

_CHECK = 20  # steps between measurements of the held-out loss; as many gradients say whether there is a signal
_CLEAR = 2.0  # standard errors
_RETREATS = 4


def loss_gradient(outcome: Outcome, cube: Cube) -> Vector | None:
    """The gradient of the loss, minus the value, by unit coordinates, shape (d,); None where it is not finite."""
    gradient = -np.array(outcome.gradient or (), dtype=np.float64)
    if failed(outcome) or not gradient.size or not np.isfinite(gradient).all():
        return None
    return gradient * cube.slopes(outcome.point)


class Growth:
    """The descent through all levels, by outcomes alone.

    Args:
        levels: Directions in the unit cube, coarse to fine.
        cube: Of the branch.
        start: Where it begins, measured.
        steps: Gradients in all; half of them, and what the others leave, are the finest level's.
    """

    def __init__(self, levels: Sequence[Level], cube: Cube, start: HeldOut, steps: int) -> None:
        self._names = [level.name for level in levels]
        self._directions = [Directions(level) for level in levels]
        self._cube, self._steps, self._left = cube, steps, steps
        self.best = start
        self.remarks: tuple[str, ...] = ()
        self.accepted: list[Point] = []  # the best point after each level that paid
        self.measuring = False  # is the next outcome to be the held-out losses, or a gradient?
        self.done = not levels or steps < 1
        if not self.done:
            self._open(0)

    @property
    def x(self) -> Vector:
        """The point to measure next, in the unit cube."""
        return self._descent.average if self.measuring else self._descent.x

    @property
    def level(self) -> str:
        """The name of the level that it goes down now."""
        return self._names[self._level]

    def learn(self, outcome: Outcome) -> None:
        """What the last point gave."""
        if self.measuring:
            self.measuring = False
            self._learn_losses(HeldOut.of(outcome))
        else:
            self._left -= 1
            self._learn_gradient(outcome)

    def _open(self, level: int) -> None:
        coarser = len(self._directions) - 1 - level  # levels before the finest, this one among them
        steps = (self._left - self._steps // 2) // coarser if coarser else self._left
        self._level, self._opened = level, self.best
        self._descent = Descent(self._directions[level], self._cube.inside(self.best.point), max(1, steps))
        self._gradients: list[Vector] = []
        self._losses: list[float] = []
        self._last, self._rises = self.best.mean, 0

    def _learn_gradient(self, outcome: Outcome) -> None:
        gradient = loss_gradient(outcome, self._cube)
        if gradient is None or outcome.value is None:
            self._retreat("the loss or its gradient was not finite")
            return
        self._losses.append(-outcome.value)
        worst = max(self._losses[0], self.best.mean)
        if min(self._losses[-2:]) > worst + abs(worst):  # one alone may be a hard mini-batch
            self._retreat("the loss doubled")
            return
        self._gradients = [*self._gradients[1 - _CHECK :], self._descent.step(gradient)]
        self.measuring = self._descent.over or self._descent.taken % _CHECK == 0

    def _learn_losses(self, measured: HeldOut | None) -> None:
        if measured is None:
            self._retreat("the held-out loss was not finite")
            return
        self._rises = self._rises + 1 if measured.mean > self._last else 0
        self._last = measured.mean
        if measured.mean < self.best.mean:
            self.best = measured
        if self._rises == 2 or (self._rises and not self._points_somewhere(self._level)):
            self._rises = 0
            self._descent.hurry()
        if self._descent.over:
            self._close()

    def _points_somewhere(self, level: int) -> bool:
        """Is the mean of the last gradients more than noise along the directions of a level?"""
        return len(self._gradients) > 2 and signal(self._directions[level].along(np.array(self._gradients))) > _CLEAR

    def _retreat(self, why: str) -> None:
        where = f"level {self._names[self._level]}, step {self._descent.taken}"
        self.remarks += (f"{where}: {why}; back to the best point with half the step",)
        self.done = len(self.remarks) > _RETREATS
        self._descent.restart(self._cube.inside(self.best.point), size=0.5)
        if self._descent.over and not self.done:
            self._close()

    def _close(self) -> None:
        paid = self.best.gain_over(self._opened) > _CLEAR
        if paid:
            self.accepted.append(self.best.point)
        finer = range(self._level + 1, len(self._directions))
        following = next((level for level in finer if paid or self._points_somewhere(level)), None)
        self.done = following is None or self._left < 1
        if following is not None and not self.done:
            self._open(following)
