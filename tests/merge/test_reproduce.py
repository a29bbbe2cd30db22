"""A folder is what its recipe gives, or it is said which tensor or file is not, and who changed it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergeopt.errors import InputError
from mergeopt.merge.folder import merge_to_folder
from mergeopt.merge.reproduce import Blame, Comparison, reproduce
from tests.conftest import llama_weights, read_weights, write_model
from tests.merge.conftest import prepared

DARE = """
merge_method: dare_ties
base_model: base
seed: 4
models:
  - {model: a, parameters: {weight: [0.2, 0.8], density: 0.6}}
  - {model: b, parameters: {weight: 0.5, density: 0.3}}
"""
NORM = "model.norm.weight"


@contextmanager
def no_bar(words: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


def compared(folder: Path, **moved: Path) -> Comparison:
    return reproduce(folder, moved, no_bar)


def edit(file: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


@pytest.fixture
def out(models: Path) -> Path:
    """A merge of `a` and `b`, with a tokenizer file and a chat template."""
    (models / "base/tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    (models / "base/additional_chat_templates").mkdir()
    (models / "base/additional_chat_templates/tool.jinja").write_text("{{ y }}")
    merge_to_folder(prepared(DARE), models / "out")
    return models / "out"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_a_fresh_merge_is_reproduced_and_nothing_is_written(out: Path) -> None:
    before = sorted(path for path in out.parent.rglob("*"))
    assert compared(out) == Comparison(21, 3, (), ())
    assert sorted(path for path in out.parent.rglob("*")) == before


def test_shards_make_no_difference(models: Path) -> None:
    merge_to_folder(prepared(DARE), models / "out", max_shard_bytes=5000)
    assert compared(models / "out").differences == ()


def test_a_changed_weight_is_the_folders_fault(out: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[NORM][3:5] = torch.nextafter(weights[NORM][3:5], torch.tensor(9.0))

    change_weights(out, change)
    (found,) = compared(out).differences
    assert (found.name, found.blame, found.locked == found.made) == (NORM, Blame.FOLDER, True)
    assert found.distance is not None and (found.distance.different, found.distance.ulp) == (2, 1)


def test_the_same_bytes_in_another_shape_are_another_tensor(out: Path) -> None:
    change_weights(out, lambda weights: weights.update({NORM: weights[NORM].view(4, 4)}))
    (found,) = compared(out).differences
    assert (found.name, found.blame, found.held) == (NORM, Blame.FOLDER, "float32 [4, 4]")


def test_tensors_added_and_removed(out: Path) -> None:
    change_weights(out, lambda weights: weights.update({"extra": weights.pop(NORM)}))
    found = {each.name: (each.blame, each.held is None) for each in compared(out).differences}
    assert found == {NORM: (Blame.FOLDER, True), "extra": (Blame.FOLDER, False)}


def test_another_recipe_gives_something_else(out: Path) -> None:
    recipe = out / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("seed: 4", "seed: 5"))
    found = compared(out)
    assert {each.blame for each in found.differences} == {Blame.MERGE}
    assert "recipe.yaml was changed after the merge" in found.notices
    assert all(each.distance is not None and each.distance.different for each in found.differences)


def test_a_changed_lock_file_is_told_from_a_changed_folder(out: Path) -> None:
    edit(out / "recipe.lock.json", lambda lock: lock["outputs"].update({NORM: "xxh3-128:" + "0" * 32}))
    (found,) = compared(out).differences
    assert (found.name, found.blame) == (NORM, Blame.LOCK)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "additional_chat_templates/tool.jinja"])
def test_a_changed_file_beside_the_weights_is_named(out: Path, name: str) -> None:
    (out / name).write_text((out / name).read_text() + " ")
    (found,) = compared(out).differences
    assert (found.name, found.tensor, found.blame) == (name, False, Blame.FOLDER)


def test_a_chat_template_put_into_the_folder_is_named(out: Path) -> None:
    (out / "chat_template.jinja").write_text("{{ mine }}")
    (found,) = compared(out).differences
    assert (found.name, found.locked, found.blame) == ("chat_template.jinja", None, Blame.FOLDER)


def test_a_changed_tokenizer_of_the_donor_is_told(out: Path) -> None:
    (out.parent / "base/tokenizer_config.json").write_text("{}")
    (found,) = compared(out).differences
    assert (found.name, found.blame) == ("tokenizer_config.json", Blame.MERGE)


def test_changed_inputs_are_named_and_nothing_is_compared(out: Path) -> None:
    change_weights(out.parent / "b", lambda weights: weights[NORM].add_(1))
    with pytest.raises(InputError, match=r"^\S+/b/model.safetensors is not the file that was merged") as caught:
        compared(out)
    assert "/a/" not in str(caught.value)
    change_weights(out.parent / "a", lambda weights: weights[NORM].add_(1))
    with pytest.raises(InputError, match=r"a/model.safetensors, \S+b/model.safetensors are not the files"):
        compared(out)


def test_a_model_in_other_files_is_refused(out: Path) -> None:
    write_model(out.parent / "sharded", read_weights(out.parent / "b"), shards=2)
    with pytest.raises(InputError, match=r"sharded: holds model-00001-of-00002.* what was merged were model.safetens"):
        compared(out, b=out.parent / "sharded")


def test_the_folder_may_have_moved(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert compared(out).differences == ()  # the models stand beside the folder
    moved = shutil.move(out, elsewhere / "moved")
    for name in "ab":
        shutil.move(tmp_path / name, tmp_path / f"{name}-now")
    with pytest.raises(InputError, match=r"recipe.yaml: a is not on disk|no such folder"):
        compared(moved)
    assert compared(moved, a=tmp_path / "a-now", b=tmp_path / "b-now").differences == ()
    with pytest.raises(InputError, match=r"--models bas: the recipe names no such model; did you mean 'base'"):
        compared(moved, bas=tmp_path / "base")


def test_recipe_and_lock_file_alone_can_be_checked(out: Path) -> None:
    alone = out.parent / "alone"
    alone.mkdir()
    for name in ("recipe.yaml", "recipe.lock.json"):
        shutil.copy(out / name, alone)
    found = compared(alone)
    assert found.differences == () and "holds no weights" in found.notices[0]
    edit(alone / "recipe.lock.json", lambda lock: lock["outputs"].update({NORM: "xxh3-128:" + "0" * 32}))
    (different,) = compared(alone).differences
    assert (different.blame, different.held) == (Blame.MERGE, None)


def test_a_lock_file_from_before_side_files_were_noted(out: Path) -> None:
    def age(lock: dict[str, Any]) -> None:
        for key in ("side_files", "recipe", "machine"):
            del lock[key]

    edit(out / "recipe.lock.json", age)
    found = compared(out)
    assert (found.tensors, found.files, found.differences) == (21, 0, ())
    assert "older mergeopt" in found.notices[0]


def test_a_hash_of_the_hub_is_checked_by_reading(out: Path) -> None:
    import hashlib

    file = out.parent / "a/model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    edit(out / "recipe.lock.json", lambda lock: lock["inputs"]["a"].update({file.name: f"sha256:{digest}"}))
    assert compared(out).differences == ()
    change_weights(file.parent, lambda weights: weights[NORM].add_(1))
    blob = out.parent / "blobs" / digest  # named as if it were the file that was merged
    blob.parent.mkdir()
    file.rename(blob)
    snapshot = out.parent / "snapshots" / "1"
    snapshot.parent.mkdir()
    file.parent.rename(snapshot)
    (snapshot / file.name).symlink_to(blob)
    with pytest.raises(InputError, match="is not the file that was merged"):
        compared(out, a=snapshot)


def test_the_merge_made_again_may_be_kept(out: Path) -> None:
    again = out.parent / "again"
    assert reproduce(out, {}, no_bar, out=again).differences == ()
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert (again / "recipe.lock.json").read_text() == (out / "recipe.lock.json").read_text()
    with pytest.raises(InputError, match="is the folder to compare with"):
        reproduce(out, {}, no_bar, out=out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lock: lock.update(format=2), "is of format 2, not 1; use the mergeopt that wrote it"),
        (lambda lock: lock.update(inputs=[]), "has no table of inputs"),
        (lambda lock: lock.update(outputs={"x": "md5:1"}), "outputs: not a table of hashes"),
        (lambda lock: lock["inputs"].update(a=3), "inputs of 'a': not a table of hashes"),
        (lambda lock: lock["inputs"].pop("a"), "the recipe reads 'a', of which recipe.lock.json knows nothing"),
        (lambda lock: lock.update(seed=True), "seed is True, not int"),
        (lambda lock: lock.update(recipe=7), "recipe: not a table of hashes"),
        (lambda lock: lock.update(versions=7), "versions is 7, not dict"),
    ],
)
def test_a_damaged_lock_file(out: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    edit(out / "recipe.lock.json", change)
    with pytest.raises(InputError, match=words):
        compared(out)


def test_what_is_no_merged_folder(models: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        compared(models / "nowhere")
    with pytest.raises(InputError, match=r"a: no recipe.lock.json: not made by"):
        compared(models / "a")


def test_integers_and_nan_have_no_ulp(models: Path) -> None:
    for name in "ab":
        write_model(models / f"{name}i", {**llama_weights(), "model.flag": torch.tensor([True, False])})
    text = "merge_method: linear\nmodels: [{model: ai}, {model: bi}]\nparameters: {weight: 1}\n"
    merge_to_folder(prepared(text), models / "out")

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["model.flag"][0] = False
        weights[NORM][0] = torch.nan

    change_weights(models / "out", change)
    found = {each.name: each.distance for each in compared(models / "out").differences}
    assert {name: (d.different, d.ulp) for name, d in found.items() if d} == {"model.flag": (1, None), NORM: (1, None)}
