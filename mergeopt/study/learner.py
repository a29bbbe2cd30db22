"""Measures steps: the gradient of a smooth loss in the point, and held-out losses.

One step is plan → write in place → forward and backward over a mini-batch → contraction in the hooks → chain rule. The
mini-batch is addressed by the request's number, so that a resumed study sees the same one.
"""

from typing import Any

import numpy as np

from mergeopt.merge.gradient import CoefficientGradient, contracting
from mergeopt.methods import SCHEMAS
from mergeopt.optimizers.base import Request
from mergeopt.scoring.learning.curriculum import Curriculum
from mergeopt.scoring.learning.loss import Losses, backward, evaluate
from mergeopt.study.chain import Chain
from mergeopt.study.job import SearchJob
from mergeopt.study.loop import Measured
from mergeopt.study.workbench import FAILURES, Bench, Workbench

BACKWARD = 2  # a backward pass costs this many forward ones


class Learner:
    """Answers requests on the calibrate split.

    Args:
        job: The search.
        bench: Of candidates.
        curriculum: What is learned.
        size: Lessons per gradient.
        pull: Weight of the squared distance to the init, in shares of the ranges.
    """

    def __init__(self, job: SearchJob, bench: Workbench, curriculum: Curriculum, *, size: int, pull: float) -> None:
        self._job, self._bench, self._curriculum, self._size, self._pull = job, bench, curriculum, size, pull
        self._chains: dict[int, Chain] = {}
        self._held_out: Any = None

    def measure(self, request: Request) -> Measured:
        """Minus the loss, with its gradient or with the held-out losses of each domain."""
        try:
            bench = self._bench.become(self._job.recipe_at(request.branch, request.point))
            return self._gradient(request, bench) if "gradient" in request.wants else self._losses(bench)
        except FAILURES:
            return Measured()

    def _gradient(self, request: Request, bench: Bench) -> Measured:
        chain = self._chain(request.branch, bench)
        coefficients = CoefficientGradient(bench.live, bench.plan, chain.wanted)
        jobs = [job for job in bench.plan.jobs if job.tensor in chain.wanted]
        with contracting(bench.live, jobs, coefficients):
            losses = backward(bench.model, self._curriculum.minibatch(request.number, self._size))
        away, width = self._pulled(request)
        value = -losses.mean - self._pull * float(away @ away)
        gradient = -chain(coefficients.values()) - 2 * self._pull * away / width
        return Measured(value=value, gradient=tuple(gradient.tolist()), tokens=losses.tokens * (1 + BACKWARD))

    def _pulled(self, request: Request) -> tuple[Any, Any]:
        """The way from the init in shares of the ranges, [d], and the ranges."""
        dimensions = self._job.space.branches[request.branch].dimensions
        width = np.array([d.high - d.low for d in dimensions])
        return (np.array(request.point) - np.array([d.init for d in dimensions])) / width, width

    def _losses(self, bench: Bench) -> Measured:
        losses = self.held_out(bench)
        items = by_domain(self._curriculum, losses)
        return Measured(value=-losses.mean, items=items, tokens=losses.tokens)

    def held_out(self, bench: Bench) -> Losses:
        """The held-out losses of what the bench's model holds."""
        if self._held_out is None:
            self._held_out = self._curriculum.part("held_out")
        return evaluate(bench.model, self._held_out)

    def _chain(self, branch: int, bench: Bench) -> Chain:
        if branch not in self._chains:
            made = self._job.space.branches[branch]
            layout = self._bench.layout(self._job.recipe_at(branch, made.init))
            self._chains[branch] = Chain(made, layout, SCHEMAS[bench.plan.method])
        return self._chains[branch]


def by_domain(curriculum: Curriculum, losses: Losses) -> dict[str, tuple[float, ...]]:
    """Domain → the loss of each of its lessons."""
    of = curriculum.domain_of[losses.lessons]
    return {name: tuple(losses.values[of == i].tolist()) for i, name in enumerate(curriculum.names)}
