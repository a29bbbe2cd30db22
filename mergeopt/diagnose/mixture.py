"""Any weighted sum of the models, written into the live model: what a path or a swapped block is scored with."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from mergeopt.diagnose.subjects import Subjects
from mergeopt.merge.plan import Job
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice, Source
from mergeopt.recipe.settings import Entry
from mergeopt.study.workbench import Bench, Workbench

Shares = Mapping[ModelRef, float]  # 1 in all


class Mixer:
    """Makes the live model Σ_k s_k W_k, with the same shares everywhere or others for each tensor.

    Args:
        subjects: The models that may be mixed, and the base.
        workbench: With their weights.

    Raises:
        InputError: the models do not fit together.
    """

    def __init__(self, subjects: Subjects, workbench: Workbench) -> None:
        refs = [*([subjects.base] if subjects.base else []), *subjects.models]
        one = {"weight": (Entry(None, (1.0,)),)}
        recipe = Recipe("linear", (Slice(tuple(Source(ref, None, one) for ref in refs)),))
        self._plan = workbench.plan(recipe)
        self._bench = workbench.become(recipe)

    def become(self, shares: Shares | Callable[[Job], Shares]) -> Bench:
        """The live model, holding this mixture; models of no share are not read.

        Raises:
            NotFiniteError: it holds NaN or infinity.
        """
        jobs = tuple(_mixed(job, shares(job) if callable(shares) else shares) for job in self._plan.jobs)
        self._bench.live.write(replace(self._plan, jobs=jobs))
        return self._bench


def _mixed(job: Job, shares: Shares) -> Job:
    inputs = tuple(item for item in job.inputs if shares.get(item.model))
    weights = tuple(float(shares[item.model]) for item in inputs)
    return replace(job, inputs=inputs, coefficients={**job.coefficients, "weight": weights})
