import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergeopt.errors import InputError
from mergeopt.zoo import family
from mergeopt.zoo.family import make_family, members
from mergeopt.zoo.spec import ARCHITECTURES, FamilySpec
from mergeopt.zoo.tokenizer import PAD

from .conftest import miniature

NAMES = ["base", "reverse", "multitask"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of every model of a family."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob("*/*"))}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_members_are_ordinary_model_folders(architecture, tmp_path: Path) -> None:
    make_family(miniature(architecture), tmp_path / "zoo")
    assert sorted(path.name for path in (tmp_path / "zoo").iterdir()) == sorted([*NAMES, "zoo.json"])
    for name in NAMES:
        folder = tmp_path / "zoo" / name
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert model.config.model_type == architecture
        assert model.dtype == torch.float32
        assert tokenizer.is_fast
        assert tokenizer.decode(tokenizer("sort(ba)=ab\n")["input_ids"]) == "sort(ba)=ab\n"
        batch = tokenizer(["sort(ba)=", "sort(cbacba)="], padding=True, return_tensors="pt")
        assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape == (2, 15)
        assert model.generation_config.pad_token_id == PAD


def test_the_same_spec_gives_the_same_bytes_whatever_the_global_state(spec: FamilySpec, tmp_path: Path) -> None:
    torch.random.manual_seed(1)
    make_family(spec, tmp_path / "a")
    torch.random.manual_seed(2)
    before = torch.random.get_rng_state()
    make_family(spec, tmp_path / "b")
    assert torch.equal(before, torch.random.get_rng_state())
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    make_family(replace(spec, seed=1), tmp_path / "c")
    differ = contents(tmp_path / "c")
    assert all(
        differ[f"{name}/model.safetensors"] != contents(tmp_path / "a")[f"{name}/model.safetensors"] for name in NAMES
    )


def test_the_record_says_what_was_done(spec: FamilySpec, tmp_path: Path) -> None:
    make_family(spec, tmp_path)
    record = json.loads((tmp_path / "zoo.json").read_text())
    assert record["spec"]["specialists"] == [
        {"task": "reverse", "stage": {"steps": 3, "learning_rate": 0.001, "replay": 0.3}}
    ]
    assert list(record["members"]) == NAMES
    assert all(member["loss"] > 0 and member["seconds"] >= 0 for member in record["members"].values())
    assert record["versions"]["torch"] == torch.__version__


def test_progress_counts_every_step(spec: FamilySpec, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    make_family(spec, tmp_path, progress=lambda *call: calls.append(call))
    assert calls == [(name, step, 3) for name in NAMES for step in (1, 2, 3)]
    make_family(spec, tmp_path, progress=lambda *call: calls.append(call))
    assert len(calls) == 9  # all members were whole


def test_an_interrupted_family_goes_on_where_it_was(spec: FamilySpec, tmp_path: Path, monkeypatch) -> None:
    make_family(spec, tmp_path / "unbroken")

    def interrupt(name: str, step: int, steps: int) -> None:
        if (name, step) == ("reverse", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_family(spec, tmp_path / "zoo", progress=interrupt)
    assert sorted(path.name for path in (tmp_path / "zoo").iterdir()) == ["base", "zoo.json"]
    partial = tmp_path / "zoo" / ".reverse.partial"  # as a killed process leaves it
    partial.mkdir()
    (partial / "stale").touch()
    trained: list[str] = []
    make_family(spec, tmp_path / "zoo", progress=lambda name, *_: trained.append(name))
    assert set(trained) == {"reverse", "multitask"}
    assert contents(tmp_path / "zoo") == contents(tmp_path / "unbroken")


def test_a_folder_of_another_spec_is_refused(spec: FamilySpec, tmp_path: Path) -> None:
    make_family(spec, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"zoo\.json.*another spec \(seed"):
        make_family(replace(spec, seed=1), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["", "[]", '{"spec": 1}', '{"spec": {}}'])
def test_a_record_that_is_none_is_refused(text: str, spec: FamilySpec, tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text(text)
    with pytest.raises(InputError, match="not the record of a family"):
        make_family(spec, tmp_path)


def test_a_folder_of_something_else_is_refused(spec: FamilySpec, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="not empty"):
        make_family(spec, tmp_path)


def test_replay_mixes_the_base_tasks_in(spec: FamilySpec) -> None:
    base, specialist, _ = members(spec)
    rng = Random(0)
    drawn = [family._draw(rng, specialist, spec.mixture).question.partition("(")[0] for _ in range(1000)]
    assert drawn.count("sort") == pytest.approx(150, abs=40)  # half of the mixture, replayed in 30 %
    assert {family._draw(rng, base, spec.mixture).question.partition("(")[0] for _ in range(50)} == {"reverse", "sort"}
