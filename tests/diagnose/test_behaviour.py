"""What is measured with data, on a family that trains in seconds, against the same numbers made another way."""

from pathlib import Path

import pytest
import torch

from mergeopt.diagnose.behaviour import GAIN, Behaviour, observe
from mergeopt.diagnose.exam import LESSONS, Exam, similarity
from mergeopt.diagnose.mixture import Mixer
from mergeopt.diagnose.smoke import repetition
from mergeopt.diagnose.subjects import Subjects, subjects
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.suite import Suite
from mergeopt.study.evals import find_eval
from mergeopt.study.tokenizer import load_tokenizer
from mergeopt.study.workbench import Compute, Workbench
from tests.diagnose.conftest import refs
from tests.study.family import recipe
from tests.study.test_references import read

CPU = Compute(torch.device("cpu"))
EVALS = ("upper_whole", "sort_whole")


def made(base: bool = True) -> tuple[Subjects, Suite, Workbench]:
    who = subjects(refs("zoo/upper", "zoo/sort"), refs("zoo/base") if base else [], None)
    entries = [ObjectiveEntry(eval=find_eval(f"evals/{name}.yaml", None)) for name in EVALS]
    suite = Suite.build(entries, tokenizer=load_tokenizer(Path("zoo/base")))
    return who, suite, Workbench(who.checkpoints, suite, CPU)


@pytest.fixture
def seen(work: Path) -> Behaviour:
    who, suite, bench = made()
    return observe(who, suite, bench, dict.fromkeys(who.models, 0.5))


def test_each_eval_is_its_specialists(seen: Behaviour) -> None:
    upper, sort = refs("zoo/upper", "zoo/sort")
    (base,) = refs("zoo/base")
    assert seen.owners == {"upper_whole": upper, "sort_whole": sort}
    own = seen.own[upper]
    assert own.evals == ("upper_whole",)
    assert own.gain == pytest.approx(seen.losses[base]["upper_whole"] - seen.losses[upper]["upper_whole"])
    assert own.gain > GAIN and own.divergence > 0
    assert set(seen.scores) == {base, upper, sort, None} == set(seen.smokes)
    assert seen.items["upper_whole"] == 45


def test_a_pair_keeps_what_its_mixture_shows(seen: Behaviour, work: Path) -> None:
    upper, sort = refs("zoo/upper", "zoo/sort")
    (base,) = refs("zoo/base")
    path = seen.paths[upper, sort]
    middle = seen.losses[None]  # of two models the uniform merge
    for ref, name, kept in zip((upper, sort), EVALS, path.kept, strict=True):
        gain = seen.losses[base][name] - seen.losses[ref][name]
        assert kept == pytest.approx(1 - (middle[name] - seen.losses[ref][name]) / gain, abs=1e-5)
    assert path.interference[0] == pytest.approx(seen.own[upper].alone - path.kept[0])
    assert seen.scaled[0.5][upper] == pytest.approx(path.kept[0], abs=1e-4)
    assert seen.norm_scaled == seen.scaled[0.5]
    assert 0 < path.similarity < 1
    if path.carried:
        assert sum(share for _, share in path.carried) == pytest.approx(1)


def test_a_mixture_is_the_recipe_of_its_shares(work: Path) -> None:
    who, suite, bench = made()
    held = Mixer(who, bench).become({who.models[0]: 0.3, who.models[1]: 0.4, who.reference: 0.3})
    exam = Exam.of(suite, held.scorer.encoder, torch.device("cpu"), None)
    mixed = exam.losses(held.model)
    arithmetic = recipe(0.3)
    arithmetic["models"][1]["parameters"]["weight"] = 0.4
    assert exam.losses(bench.become(read(arithmetic)).model) == pytest.approx(mixed, abs=1e-4)


def test_divergence_of_a_model_from_itself_is_nothing(work: Path) -> None:
    who, suite, bench = made()
    held = Mixer(who, bench).become({who.models[0]: 1})
    exam = Exam.of(suite, held.scorer.encoder, torch.device("cpu"), None)
    assert all(len(lessons) <= LESSONS for lessons in exam.lessons.values())
    targets = exam.targets(held.model, EVALS[0], held.scorer.encoder)
    assert exam.divergence(held.model, EVALS[0], targets) == pytest.approx(0, abs=1e-5)
    states = exam.states(held.model, 1)
    assert states.shape[1] == 32 and len(states) > 45


def test_without_a_base_the_other_model_is_the_measure(work: Path) -> None:
    seen = observe(*made(base=False), {})
    upper, sort = refs("zoo/upper", "zoo/sort")
    path = seen.paths[upper, sort]
    gain = seen.losses[sort]["upper_whole"] - seen.losses[upper]["upper_whole"]
    lost = seen.losses[None]["upper_whole"] - seen.losses[upper]["upper_whole"]
    assert path.kept[0] == pytest.approx(1 - lost / gain, abs=1e-5)
    assert seen.scaled == {} and seen.own[upper].alone != seen.own[upper].alone


def test_similarity() -> None:
    random = torch.Generator().manual_seed(0)
    states = torch.randn(60, 8, generator=random)
    turned = states @ torch.linalg.qr(torch.randn(8, 8, generator=random)).Q
    assert similarity(states, 3 * turned + 1) == pytest.approx(1, abs=1e-6)
    assert similarity(states, torch.randn(60, 8, generator=random)) < 0.4


def test_repetition() -> None:
    assert repetition(range(20)) == 0
    assert repetition([1, 2] * 10) == pytest.approx(1 - 2 / 17)
    assert repetition([1, 2, 3]) == 0
