"""Weights from the weights alone: what they are by definition, and that the recipe says just that."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.errors import InputError
from mergeopt.merge import closed_form
from mergeopt.merge.closed_form import Overlaps, Part, layer_weights, norm_weights, overlaps
from mergeopt.merge.plan import make_plan
from mergeopt.merge.sources import facts, open_models
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.recipe import ModelRef, Recipe, Slice
from mergeopt.recipe.write import recipe_data, to_yaml
from tests.conftest import Weights, llama_weights, write_model
from tests.merge.conftest import recipe_of

TWO = """
    merge_method: task_arithmetic
    base_model: base
    models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]
"""


def tuned(base: Weights, seed: int, size: float = 0.1) -> Weights:
    """A fine-tune whose deltas are of low rank, and no two tensors of the same size."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for number, (name, t) in enumerate(base.items()):
        if t.dim() == 2:
            delta = torch.randn(t.shape[0], 2, generator=random) @ torch.randn(2, t.shape[1], generator=random)
        else:
            delta = torch.randn(t.shape, generator=random)
        found[name] = t + size * (1 + number / len(base)) * delta.to(t.dtype)
    return found


def family(folder: Path, base: Weights, **sizes: float) -> dict[ModelRef, Checkpoint]:
    write_model(folder / "base", base)
    for seed, (name, size) in enumerate(sizes.items(), 1):
        write_model(folder / name, tuned(base, seed, size))
    return open_models([ModelRef(name) for name in ("base", *sizes)], folder)


def resolved(recipe: Recipe, found: Overlaps, checkpoints: Mapping[ModelRef, Checkpoint]) -> dict[str, list[float]]:
    """Weights by output tensor, of the recipe written as YAML and read again."""
    sources = zip(recipe.slices[0].sources, layer_weights(found), strict=True)
    written = replace(recipe, slices=(Slice(tuple(replace(s, parameters={"weight": w}) for s, w in sources)),))
    again = recipe_of(to_yaml(recipe_data(written)))
    plan = make_plan(again, facts(checkpoints), SCHEMAS[again.method])
    return {job.tensor: list(job.coefficients["weight"]) for job in plan.jobs}


def by_definition(deltas: list[Weights], names: list[str]) -> tuple[Tensor, Tensor]:
    """The least squares as a regression: stacked inputs τ_i / ‖τ_i‖, targets what source i does to them."""
    columns: list[list[Tensor]] = [[] for _ in deltas]
    targets = []
    for name in names:
        for own in (d[name].double() for d in deltas):
            inputs = own.T / own.norm()
            targets.append((own @ inputs).flatten())
            for column, d in zip(columns, deltas, strict=True):
                column.append((d[name].double() @ inputs).flatten())
    x = torch.stack([torch.cat(column) for column in columns], 1)
    return x, torch.cat(targets)


def test_metagpt_is_the_share_of_the_squared_norm(tmp_path: Path) -> None:
    base = llama_weights()
    models = family(tmp_path, base, a=0.1, b=0.2)
    found = norm_weights(overlaps(recipe_of(TWO), models))
    norms = [
        sum(float((t - base[name]).double().square().sum()) for name, t in tuned(base, seed, size).items())
        for seed, size in ((1, 0.1), (2, 0.2))
    ]
    assert found == pytest.approx([n / sum(norms) for n in norms], rel=1e-3)
    assert found[1] > 3 * found[0]


def test_least_squares_solve_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "RIDGE", 1e-9)
    base = llama_weights()
    models = family(tmp_path, base, a=0.1, b=0.2)
    weights = resolved(recipe_of(TWO), overlaps(recipe_of(TWO), models), models)
    deltas = [{n: t - base[n] for n, t in tuned(base, s, size).items()} for s, size in ((1, 0.1), (2, 0.2))]
    for layer in (0, 1):
        names = [n for n, t in base.items() if f"layers.{layer}." in n and t.dim() == 2]
        x, y = by_definition(deltas, names)
        wanted = torch.linalg.lstsq(x, y[:, None]).solution[:, 0].tolist()
        assert weights[names[0]] == pytest.approx(wanted, abs=1e-3)
    x, y = by_definition(deltas, ["lm_head.weight"])
    assert weights["lm_head.weight"] == pytest.approx(
        torch.linalg.lstsq(x, y[:, None]).solution[:, 0].tolist(), abs=1e-3
    )
    flipped = [{"e": d["model.embed_tokens.weight"].T} for d in deltas]  # an embedding's input is the row's number
    x, y = by_definition(flipped, ["e"])
    assert weights["model.embed_tokens.weight"] == pytest.approx(
        torch.linalg.lstsq(x, y[:, None]).solution[:, 0].tolist(), abs=1e-3
    )


@pytest.mark.parametrize("layers", [1, 2, 7, 12])
def test_the_recipe_says_just_these_weights(tmp_path: Path, layers: int) -> None:
    """Every tensor of a layer gets the layer's weights, also 1-D ones and with 1 before 10; outer ones their own."""
    models = family(tmp_path, llama_weights(layers), a=0.1, b=0.15)
    found = overlaps(recipe_of(TWO), models)
    weights = resolved(recipe_of(TWO), found, models)
    seen = {}
    for name, pair in weights.items():
        info = models[ModelRef("base")].shape.tensors[name]
        part = Part(info.stack, info.layer) if info.layer is not None else Part(name, None)
        a, b = found.normal[part]
        if a.any():
            ridge = closed_form.RIDGE * a.trace() / 2
            wanted = torch.linalg.solve(a + ridge * torch.eye(2, dtype=a.dtype), b + ridge / 2).tolist()
            assert pair == pytest.approx(wanted, rel=1e-3)
        assert pair == pytest.approx([float(f"{w:.4g}") for w in pair], abs=1e-12)
        assert seen.setdefault(part, pair) == pytest.approx(pair, abs=1e-12)
    assert len({tuple(pair) for pair in seen.values()}) == layers + 3


def test_two_equal_sources_share(tmp_path: Path) -> None:
    base = llama_weights()
    write_model(tmp_path / "base", base)
    for name in "ab":
        write_model(tmp_path / name, tuned(base, 1))
    models = open_models([ModelRef(name) for name in ("base", "a", "b")], tmp_path)
    weights = resolved(recipe_of(TWO), overlaps(recipe_of(TWO), models), models)
    assert {tuple(pair) for pair in weights.values()} == {(0.5, 0.5)}


def test_sources_that_share_nothing_are_added(tmp_path: Path) -> None:
    """Deltas in separate columns do not touch one another's inputs."""
    base = {name: t for name, t in llama_weights().items() if "embed" not in name}
    write_model(tmp_path / "base", base)
    for name, columns in (("a", slice(0, 8)), ("b", slice(8, 16))):
        changed = {n: t.clone() for n, t in base.items()}
        for t in changed.values():
            t[..., columns] += 0.1
        write_model(tmp_path / name, changed)
    models = open_models([ModelRef(name) for name in ("base", "a", "b")], tmp_path)
    for pair in resolved(recipe_of(TWO), overlaps(recipe_of(TWO), models), models).values():
        assert pair == pytest.approx([1, 1], abs=1e-2)


def test_a_tied_head_and_its_embeddings_share(tmp_path: Path) -> None:
    base = llama_weights(head=False)
    models = family(tmp_path, base, a=0.1)
    for ref in models:
        assert "lm_head.weight" not in models[ref].tensors
    untied = tuned(base, 2) | {"lm_head.weight": llama_weights()["lm_head.weight"]}
    write_model(tmp_path / "b", untied)
    for name in ("base", "a"):
        (tmp_path / name / "config.json").write_text(
            (tmp_path / name / "config.json")
            .read_text()
            .replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
        )
    models = open_models([ModelRef(name) for name in ("base", "a", "b")], tmp_path)
    weights = resolved(recipe_of(TWO), overlaps(recipe_of(TWO), models), models)
    assert weights["lm_head.weight"] == weights["model.embed_tokens.weight"]


def test_integers_are_skipped_and_still_resolved(tmp_path: Path) -> None:
    steps = {"steps": torch.tensor([3, 4])}
    base = llama_weights()
    write_model(tmp_path / "base", base | steps)
    for seed, name in enumerate("ab", 1):
        write_model(tmp_path / name, tuned(base, seed) | steps)
    models = open_models([ModelRef(name) for name in ("base", "a", "b")], tmp_path)
    found = overlaps(recipe_of(TWO), models)
    assert not found.normal[Part("steps", None)][0].any()
    assert "steps" in resolved(recipe_of(TWO), found, models)


def test_a_large_tensor_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums of a sample are those of the whole, within what a sample can say; small tensors are read whole."""
    models = family(tmp_path, llama_weights(), a=0.1, b=0.2)
    exact = overlaps(recipe_of(TWO), models)
    monkeypatch.setattr(closed_form, "SAMPLE", 200)
    found = overlaps(recipe_of(TWO), models)
    again = overlaps(recipe_of(TWO), models)
    assert torch.equal(found.norms, again.norms) and not torch.equal(found.norms, exact.norms)
    torch.testing.assert_close(found.norms, exact.norms, rtol=0.2, atol=0)
    part = Part("model.layers", 0)
    torch.testing.assert_close(found.normal[part][0].trace(), exact.normal[part][0].trace(), rtol=0.5, atol=0)


def test_deltas_that_say_nothing_are_refused(tmp_path: Path) -> None:
    base = llama_weights()
    write_model(tmp_path / "base", base)
    broken = {name: t * float("nan") for name, t in base.items()}
    for name, weights in (("a", base), ("b", base), ("c", broken)):
        write_model(tmp_path / name, weights)
    models = open_models([ModelRef(name) for name in ("base", "a", "b", "c")], tmp_path)
    with pytest.raises(InputError, match="do not differ"):
        overlaps(recipe_of(TWO), models)
    with pytest.raises(InputError, match="finite"):
        overlaps(recipe_of(TWO.replace("{model: b", "{model: c")), models)


def test_a_source_without_matrices_of_its_own_gets_some_weight(tmp_path: Path) -> None:
    """Only norms were trained: nothing to fit, so the average."""
    base = llama_weights()
    write_model(tmp_path / "base", base)
    for name in "ab":
        write_model(tmp_path / name, {n: t + 0.1 if t.dim() == 1 else t for n, t in base.items()})
    models = open_models([ModelRef(name) for name in ("base", "a", "b")], tmp_path)
    weights = resolved(recipe_of(TWO), overlaps(recipe_of(TWO), models), models)
    assert {tuple(pair) for pair in weights.values()} == {(0.5, 0.5)}
