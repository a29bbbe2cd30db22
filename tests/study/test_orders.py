"""A search over the orders of a chain: earlier steps are made while they are read, and the best order is returned."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from mergeopt.merge.live import skeleton
from mergeopt.merge.stages import merge_stages, prepare_stages
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document, read_documents
from mergeopt.recipe.stages import read_stages
from mergeopt.recipe.write import recipe_data
from mergeopt.report.card import model_card
from mergeopt.study.workbench import Workbench
from tests.conftest import read_weights
from tests.study.family import hole, search_data
from tests.study.test_search import CPU, history, prepare, refusal, result_data, search

MODELS = ["zoo/upper", "zoo/sort", "zoo/base"]


def chained(chain: Any = None, **more: Any) -> dict[str, Any]:
    return {"merge_method": "slerp", "chain": chain or {"order": MODELS}, "parameters": {"t": 0.4}} | more


def merged(recipe: Any, out: Path) -> dict[str, torch.Tensor]:
    """What `mergeopt merge` makes of a recipe's data."""
    chain = prepare_stages(read_stages([Document(recipe, "r.yml")], SCHEMAS))
    merge_stages(chain, out, folder=out.with_name(f"{out.name}.stages"), keep=False)
    return read_weights(out)


TIES = {"merge_method": "ties", "base_model": "zoo/base", "parameters": {"weight": 1, "density": 0.5}}
CASES = {
    "slerp": chained(dtype="bfloat16"),
    "ties": chained({"order": [*MODELS[:2], "zoo/multitask"]}) | TIES,
    "dare": chained({"order": [*MODELS[:2], "zoo/multitask"]}) | TIES | {"merge_method": "dare_ties", "seed": 3},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("resident", [True, False])
def test_a_candidate_is_the_merge_of_its_chain_bit_for_bit(
    name: str, resident: bool, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = CASES[name]
    if not resident:
        monkeypatch.setattr("mergeopt.study.workbench._free_bytes", lambda device: 0)
    job = prepare(search_data(recipe, method="grid"), tmp_path)
    bench = Workbench(job.checkpoints, job.suite, CPU, speaker=job.speaker)
    orders = list(permutations(recipe["chain"]["order"]))
    assert [branch.name for branch in job.space.branches] == [f"order={' > '.join(order)}" for order in orders]
    different = set()
    for index, order in enumerate(orders):
        live = bench.become(job.recipe_at(index, ())).live
        written = merged(recipe | {"chain": list(order)}, tmp_path / f"merged-{index}")
        assert all(torch.equal(live.view(tensor), weight.float()) for tensor, weight in written.items())
        different.add(written["model.layers.1.mlp.up_proj.weight"].float().sum().item())
    assert len(different) > 2
