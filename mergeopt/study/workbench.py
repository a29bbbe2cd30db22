"""Everything a candidate needs, resident: sources, evals, and one live model that becomes each candidate in turn.

Measuring a recipe is plan → write in place → score. Nothing is loaded, tokenised or written to disk per candidate.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mergeopt.errors import InputError
from mergeopt.merge.folder import merged_config
from mergeopt.merge.layout import Input, Layout, lay_out
from mergeopt.merge.live import LiveModel, NotFiniteError, bind, skeleton
from mergeopt.merge.plan import Plan, fill
from mergeopt.merge.refinement import Refinement
from mergeopt.merge.sources import Checkpoints, FileSource, ResidentSource, TensorSource, facts, resident_bytes
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.recipe import ModelRef, Recipe
from mergeopt.scoring.base import NonFiniteError, Scores, Split
from mergeopt.scoring.encoding import Encoder
from mergeopt.scoring.resident import ResidentScorer
from mergeopt.scoring.suite import Suite

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SILENT = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "use_cache",
)  # change nothing


@dataclass(frozen=True)
class Compute:
    """Where and how candidates run."""

    device: torch.device
    dtype: torch.dtype | None = None  # of the live model; None: the recipe's, on a CPU float32
    batch_size: int | None = None

    @classmethod
    def parse(cls, device: str, dtype: str, batch_size: str) -> "Compute":
        """From command-line words.

        Raises:
            InputError: no such device, dtype or size.
        """
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            place = torch.device(name)
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            if len(reason) > 100:  # torch lists all it knows
                reason = "unknown"
            raise InputError(f"no device {device!r}: {reason}", remedy="use cpu, cuda or auto") from None
        if dtype != "auto" and dtype not in DTYPES:
            raise InputError(f"unknown dtype {dtype!r}", remedy=f"use auto, {', '.join(DTYPES)}")
        if batch_size != "auto" and not (batch_size.isdigit() and int(batch_size)):
            raise InputError(f"batch size {batch_size!r} is not a number", remedy="use auto or e.g. 32")
        return cls(place, DTYPES.get(dtype), None if batch_size == "auto" else int(batch_size))


@dataclass(frozen=True, slots=True)
class Bench:
    """A live model, its scorer, and the plan it holds."""

    live: LiveModel
    scorer: ResidentScorer
    plan: Plan

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.live.model


class Workbench:
    """Measures recipes over a fixed set of models and evals."""

    def __init__(
        self, checkpoints: Checkpoints, suite: Suite, compute: Compute, *, speaker: ModelRef | None = None
    ) -> None:
        """`speaker`: whose generation settings all candidates have; each its donor's where None."""
        self._checkpoints, self._suite, self._compute, self._speaker = checkpoints, suite, compute, speaker
        self.device, self.batch_size = compute.device, compute.batch_size
        self._facts = facts(checkpoints)
        self._source = _source(checkpoints, compute.device)
        self._layouts: dict[Any, Layout] = {}
        self._benches: dict[Any, Bench] = {}

    def plan(self, recipe: Recipe) -> Plan:
        """The recipe's plan; the layout is made once per structure.

        Raises:
            InputError: the models do not fit together so.
        """
        schema = SCHEMAS[recipe.method]
        structure = _structure(recipe)
        if structure not in self._layouts:
            self._layouts[structure] = lay_out(recipe, self._facts, schema)
        return fill(self._layouts[structure], recipe, schema)

    def layout(self, recipe: Recipe) -> Layout:
        """Which tensors go into which, for this recipe's structure."""
        self.plan(recipe)
        return self._layouts[_structure(recipe)]

    def measure(
        self,
        recipe: Recipe,
        split: Split,
        *,
        forced: frozenset[str] = frozenset(),
        refinement: Refinement | None = None,
    ) -> Scores:
        """Makes the live model the recipe's merge, refined if asked to, and scores it.

        Raises:
            NotFiniteError, NonFiniteError: the weights or the outputs hold NaN or infinity.
        """
        return self.become(recipe, refinement).scorer.score(split, forced=forced)

    def forcing_agrees(self, recipe: Recipe, split: Split) -> dict[str, bool]:
        """Per generating eval: does one teacher-forced pass tell the same as generating, for this recipe?"""
        return self.become(recipe).scorer.forcing_agrees(split)

    def become(self, recipe: Recipe, refinement: Refinement | None = None) -> "Bench":
        """Makes the live model the recipe's merge.

        Raises:
            NotFiniteError: the weights hold NaN or infinity.
        """
        plan = self.plan(recipe)
        bench = self._bench(recipe, plan)
        bench.live.write(plan, refinement)
        return replace(bench, plan=plan)

    def encoder(self, recipe: Recipe) -> Encoder:
        """How texts become tokens for a model of this structure."""
        return self._bench(recipe, self.plan(recipe)).scorer.encoder

    def dtype_of(self, recipe: Recipe) -> torch.dtype:
        """What candidates of this structure compute in."""
        return self._dtype(self._config(recipe, self.plan(recipe)))

    def _config(self, recipe: Recipe, plan: Plan) -> dict[str, Any]:
        return merged_config(plan, self._checkpoints[recipe.donor])

    def _bench(self, recipe: Recipe, plan: Plan) -> "Bench":
        """The live model for this config: stacks of another depth, or another rope, need one of their own."""
        config = self._config(recipe, plan)
        said = {name: value for name, value in config.items() if name not in SILENT}
        key = (json.dumps(said, sort_keys=True), self._dtype(config), tuple(job.tensor for job in plan.jobs))
        if key not in self._benches:
            folder = self._checkpoints[self._speaker or recipe.donor].folder
            model = skeleton(folder, config, self._compute.device, self._dtype(config))
            views = bind(model, [job.tensor for job in plan.jobs])
            scorer = ResidentScorer(self._suite, model, batch_size=self._compute.batch_size)
            self._benches[key] = Bench(LiveModel(model, views, self._source), scorer, plan)
        return self._benches[key]

    def _dtype(self, config: Mapping[str, Any]) -> torch.dtype:
        if self._compute.dtype is not None:
            return self._compute.dtype
        if self._compute.device.type == "cpu":
            return torch.float32  # half precision is slower than float32 on most CPUs; weights are still rounded to it
        return DTYPES.get(str(config.get("dtype")), torch.float32)


def _structure(recipe: Recipe) -> Any:
    """Recipes that are equal in this have one layout."""
    return (
        recipe.method, recipe.base, recipe.dtype, recipe.out_dtype,
        tuple((p.module, p.base, tuple((s.model, s.layer_range) for s in p.sources)) for p in recipe.slices),
    )  # fmt: skip


def _source(checkpoints: Checkpoints, device: torch.device) -> TensorSource:
    """All models in memory if they fit beside the live one, else read from their files for every candidate."""
    if resident_bytes(checkpoints) < 0.6 * _free_bytes(device):
        items = [Input(ref, name) for ref, checkpoint in checkpoints.items() for name in checkpoint.tensors]
        return ResidentSource.load(items, checkpoints, device)
    return FileSource({ref: checkpoint.reader() for ref, checkpoint in checkpoints.items()}, checkpoints)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8 << 30  # not Linux: assume little
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


FAILURES = (NotFiniteError, NonFiniteError)
