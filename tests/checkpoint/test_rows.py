"""Rows of a view are the rows they are said to be, in whatever pieces they are read."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergeopt.checkpoint import rows as rows_module
from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.header import item_size
from mergeopt.checkpoint.rows import RowView, rows_shape
from tests.conftest import write_model

WIDTH, ROWS = 5, (7, 9, 6)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    folder = tmp_path_factory.mktemp("rows")
    random = torch.Generator().manual_seed(0)
    for k, count in enumerate(ROWS):
        dtype = torch.bfloat16 if k == 2 else torch.float32
        weights = {"e": torch.randn(count, WIDTH, generator=random).to(dtype), "norm": torch.ones(3)}
        write_model(folder / str(k), weights)
    return [Checkpoint.open(folder / str(k)) for k in range(len(ROWS))]


def view_of(models: list[Checkpoint], own: list[int], lent: list[list[int]], real: list[bool]) -> RowView:
    inner, *lenders = models
    shape, stored = (len(own), WIDTH), inner.tensors["e"]
    tensors = dict(inner.tensors) | {
        "e": replace(stored, shape=shape, nbytes=len(own) * WIDTH * item_size(stored.dtype))
    }
    return RowView(
        inner.folder, "view", inner.config, tensors, inner.files, inner=inner,
        own=np.array(own, dtype=np.int32), lent=np.array(lent, dtype=np.int32).reshape(len(lenders), len(own)),
        real=np.array(real), lenders=tuple(lenders), names={"e": ("e", ("e",) * len(lenders))},
        stored={"e": "float32"},
    )  # fmt: skip


def by_hand(models: list[Checkpoint], own: list[int], lent: list[list[int]], real: list[bool]) -> Tensor:
    weights = []
    for model in models:
        with model.reader() as reader:
            weights.append(reader.tensor("e").float())
    made = torch.zeros(len(own), WIDTH)
    for i, row in enumerate(own):
        given = [weights[k + 1][lent[k][i]] for k in range(len(lent)) if lent[k][i] >= 0]
        made[i] = weights[0][row] if row >= 0 else sum(given) / len(given) if given else 0
    made[[not r for r in real]] = made[real].double().mean(dim=0).float()
    return made


@st.composite
def maps(draw: st.DrawFn) -> tuple[list[int], list[list[int]], list[bool]]:
    n = draw(st.integers(1, 12))
    rows = [draw(st.lists(st.integers(-1, count - 1), min_size=n, max_size=n)) for count in ROWS]
    if draw(st.booleans()):  # rows that lie together are read together
        rows[0] = [min(i, ROWS[0] - 1) for i in range(n)]
    real = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    return rows[0], rows[1:], real


@given(maps(), st.integers(1, 3 * WIDTH))
@settings(max_examples=120, deadline=None)
def test_any_rows_in_any_pieces(models: list[Checkpoint], mapping, step: int):
    view, expected = view_of(models, *mapping), by_hand(models, *mapping)
    with view.reader() as reader:
        assert torch.allclose(reader.tensor("e"), expected, atol=1e-6)
        found = torch.empty(expected.numel())
        for start in range(0, found.numel(), step):
            reader.read_into("e", start, found[start : start + step])
        assert torch.equal(found.view_as(expected), reader.tensor("e"))
        assert torch.equal(reader.tensor("norm"), torch.ones(3))


def test_many_threads_read_one_view(models: list[Checkpoint], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows_module, "_BLOCK", 2 * WIDTH)
    mapping = ([0, 1, -1, -1, 6, -1], [[-1, -1, 8, 3, -1, -1], [-1, -1, 5, -1, -1, -1]], [True] * 5 + [False])
    view, expected = view_of(models, *mapping), by_hand(models, *mapping)
    with view.reader() as reader, ThreadPoolExecutor(4) as pool:
        for found in pool.map(reader.tensor, ["e"] * 40):
            assert torch.allclose(found, expected, atol=1e-6)


def test_a_read_must_fit(models: list[Checkpoint]):
    view = view_of(models, [0, 1], [[-1, -1], [-1, -1]], [True, True])
    with view.reader() as reader:
        for start, out in ((8, torch.empty(4)), (0, torch.empty(4).double()), (-1, torch.empty(1))):
            with pytest.raises(ValueError, match="out must be 1-D float32 within 10 elements"):
                reader.read_into("e", start, out)


@pytest.mark.parametrize(
    "shape, rows, expected",
    [
        ((7, 5), 7, (9, 5)),
        ((7,), 7, (9,)),
        ((1, 7), 7, (1, 9)),
        ((5, 7), 7, None),
        ((1, 1), 1, None),
        ((7, 0), 7, None),
    ],
)
def test_which_shapes_have_rows(shape: tuple[int, ...], rows: int, expected: tuple[int, ...] | None):
    assert rows_shape(shape, rows, 9) == expected


def test_a_view_is_the_folder_it_shows(models: list[Checkpoint], tmp_path: Path):
    view = view_of(models, [0], [[-1], [-1]], [True])
    assert (view.folder, view.files) == (models[0].folder, models[0].files)
    assert view.shape.tensors["e"].shape == (1, WIDTH) and view.nbytes == 4 * (WIDTH + 3)
