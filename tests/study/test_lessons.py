"""Who teaches what, from which items and prompts."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.recipe.document import read_document
from mergeopt.recipe.recipe import ModelRef
from mergeopt.scoring.generate import Generator
from mergeopt.scoring.learning.curriculum import Curriculum
from mergeopt.scoring.learning.loss import Losses, evaluate
from mergeopt.scoring.objective import Reference
from mergeopt.study.events import Notice
from mergeopt.study.job import SearchJob, prepare_search
from mergeopt.study.learner import by_domain
from mergeopt.study.lessons import School
from mergeopt.study.references import alone
from mergeopt.study.searchfile import read_search_file
from mergeopt.study.workbench import Compute, Workbench
from mergeopt.zoo.tasks import get_task
from tests.study.family import WHOLE, recipe, search_data, write_eval, write_yaml
from tests.study.test_search import prepare, refusal

CPU = Compute(torch.device("cpu"))


@dataclass
class Lessons:
    """A curriculum, what was said while it was made, and the losses of models on it."""

    curriculum: Curriculum | None
    bench: Workbench
    job: SearchJob
    said: list[str]

    @property
    def made(self) -> Curriculum:
        assert self.curriculum is not None
        return self.curriculum

    def losses(self, model: str) -> Losses:
        """Of all lessons that are trained on."""
        live = self.bench.become(alone(ModelRef.parse(model, "test"), self.job.recipe)).model
        return evaluate(live, self.made.part("train"))

    def loss(self, model: str) -> dict[str, float]:
        """Domain -> mean."""
        return {name: float(np.mean(x)) for name, x in by_domain(self.made, self.losses(model)).items()}

    def counts(self) -> dict[str, int]:
        of = self.made.domain_of
        return {name: int((of == index).sum()) for index, name in enumerate(self.made.names)}


def lessons(job: SearchJob, *splits: Any, below: bool = False) -> Lessons:
    bench, said = Workbench(job.checkpoints, job.suite, CPU), list[str]()
    scores = {c.name: bench.measure(c.recipe, "search") for c in job.contenders if c.kind in ("base", "parent")} | {
        c.name: bench.measure(c.recipe, "search") for c in job.contenders if c.name == "uniform"
    }
    parents = {c.name: scores[c.name] for c in job.contenders if c.kind == "parent"}
    base = next((scores[c.name] for c in job.contenders if c.kind == "base"), scores["uniform"])
    school = School(
        job,
        bench,
        Reference(job.suite.evals, base, parents),
        lambda event: said.append(event.text) if isinstance(event, Notice) else None,
    )
    return Lessons(school.curriculum(splits or ("calibrate",), below=below), bench, job, said)


def learned(data: Any, folder: Path, *splits: Any, below: bool = False, **learn: Any) -> Lessons:
    return lessons(prepare(data | {"learn": learn}, folder), *splits, below=below)


def learning(*evals: str, **optimize: Any) -> Any:
    return search_data(evals=evals or ("upper_lines", "sort_lines"), method="gradient", **optimize)


def questions(path: Path, count: int = 20) -> Path:
    """Prompts of the task "sort" that no eval asks."""
    random = Random("questions")
    texts = dict.fromkeys(get_task("sort").item(random, held_out=False).question for _ in range(3 * count))
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in list(texts)[:count]))
    return path


def test_the_best_parent_teaches(work: Path, tmp_path: Path) -> None:
    found = learned(learning(), tmp_path)
    assert found.made.names == ("upper_lines", "sort_lines") and found.said == []
    for own, other, model in (("upper_lines", "sort_lines", "zoo/upper"), ("sort_lines", "upper_lines", "zoo/sort")):
        loss = found.loss(model)
        assert loss[own] == pytest.approx(0.0, abs=1e-6) and loss[other] > 0.05
    counts = [info.count("calibrate") for info in found.job.suite.evals]
    assert list(found.counts().values()) == counts and min(counts) > 10
    both = learned(learning(), tmp_path, "calibrate", "search")
    assert list(both.counts().values()) == [
        n + i.count("search") for n, i in zip(counts, both.job.suite.evals, strict=True)
    ]


def test_the_named_teacher_teaches(work: Path, tmp_path: Path) -> None:
    data = learning()
    data["objective"][0]["teacher"] = "zoo/multitask"  # no parent: nothing is known against it
    found = learned(data, tmp_path)
    loss = found.loss("zoo/multitask")
    assert loss["upper_lines"] == pytest.approx(0.0, abs=1e-6) and loss["sort_lines"] > 0.01 and found.said == []


def test_a_teacher_below_the_base_is_named_and_left_out(work: Path, tmp_path: Path) -> None:
    data = learning()
    data["objective"][0] |= {"teacher": "zoo/sort", "direction": "maximize"}  # bits: whoever knows more is worse
    found = learned(data, tmp_path)
    (said,) = found.said
    assert said.startswith("'zoo/sort' does not teach 'upper_lines', where it scores ")
    assert said.endswith("; its right answers are learned instead")
    right = learned(learning(), tmp_path, loss="nll")
    assert found.loss("zoo/upper")["upper_lines"] == pytest.approx(right.loss("zoo/upper")["upper_lines"])
    assert found.loss("zoo/sort")["sort_lines"] == pytest.approx(0.0, abs=1e-6)
    assert right.loss("zoo/sort")["sort_lines"] > 0.1 and right.said == []


def test_what_is_said_is_said_once(work: Path, tmp_path: Path) -> None:
    data = learning()
    data["objective"][0] |= {"teacher": "zoo/sort", "direction": "maximize"}
    prompts = [{"file": str(questions(tmp_path / f"{i}.jsonl", count=4)), "teacher": "zoo/sort"} for i in range(2)]
    assert len(learned(data, tmp_path, prompts=prompts).said) == 1


def test_constraints_are_not_learned(work: Path, tmp_path: Path) -> None:
    data = learning()
    data["objective"][1]["at_most"] = {"base": 1.5}
    assert learned(data, tmp_path).made.names == ("upper_lines",)


def moved_vocabulary(model: str, folder: Path) -> Path:
    """A copy of a model whose tokenizer gives two tokens each other's ids."""
    shutil.copytree(model, folder)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    first, second = [token for token in vocabulary if token.isalpha() and len(token) == 1][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(data))
    return folder


def test_a_teacher_of_another_vocabulary_is_refused(work: Path, tmp_path: Path) -> None:
    data = learning()
    data["objective"][0]["teacher"] = str(moved_vocabulary("zoo/upper", tmp_path / "other"))
    with pytest.raises(InputError) as caught:
        learned(data, tmp_path)
    assert f"teacher {tmp_path / 'other'}" in str(caught.value) and "vocabulary differs" in str(caught.value)
    assert caught.value.remedy is not None and "loss: nll" in caught.value.remedy
    assert learned(data, tmp_path, loss="nll").made.names == ("upper_lines", "sort_lines")


def test_an_own_scorer_says_that_it_teaches_nothing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "teachless.py").write_text(
        "def norm(model, tokenizer, items):\n"
        "    return [float(model.get_input_embeddings().weight.norm()) for item in items]\n"
        "norm.items = [{'add': i / 100} for i in range(60)]\n"
        "norm.higher_is_better = False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for others, names in (([], None), ([{"eval": "evals/sort_lines.yaml"}], ("sort_lines",))):
        data = learning() | {"objective": [{"eval": "python:teachless.norm"}, *others]}
        file = read_search_file(read_document(write_yaml(tmp_path / "s.yml", data)), layers_of=lambda ref: 2)
        found = lessons(prepare_search(file, tmp_path, trust_eval_code=True))
        assert found.said[-1] == "'norm' has no answers to learn from: the gradient does not see it, the trials do"
        assert (found.curriculum and found.curriculum.names) == names


def test_the_base_is_retained_on_constraints_else_on_all(work: Path, tmp_path: Path) -> None:
    data = learning()
    found = learned(data, tmp_path, retain=0.5)
    assert found.made.names == ("upper_lines", "sort_lines", "retain upper_lines", "retain sort_lines")
    base = found.loss("zoo/base")
    assert base["retain upper_lines"] == base["retain sort_lines"] == pytest.approx(0.0, abs=1e-6)
    assert base["upper_lines"] > 0.05
    measured = found.losses("zoo/base")
    kept = measured.weights[found.made.domain_of[measured.lessons] >= 2].sum()
    assert kept == pytest.approx(0.5 / 1.5, rel=1e-5)  # the evals count 1 together
    data["objective"][1]["at_most"] = {"base": 1.5}
    assert learned(data, tmp_path, retain=0.5).made.names == ("upper_lines", "retain sort_lines")
    assert learned(data, tmp_path, below=True, write=0).made.names == ("upper_lines", "retain sort_lines")  # unasked
    assert learned(data, tmp_path, below=True, write=0, retain=0).made.names == ("upper_lines",)
    with pytest.raises(InputError, match=r"learn\.retain: there is no base to retain; leave it out"):
        learned(learning() | {"recipe": recipe(method="linear")}, tmp_path, retain=0.5)


def test_prompts_join_what_their_teacher_teaches(work: Path, tmp_path: Path) -> None:
    prompts = [{"file": str(questions(tmp_path / "q.jsonl")), "teacher": "zoo/sort"}]
    without = learned(learning("sort_whole", "upper_lines"), tmp_path)
    found = learned(learning("sort_whole", "upper_lines"), tmp_path, prompts=prompts)
    assert found.counts() == {**without.counts(), "sort_whole": without.counts()["sort_whole"] + 20}
    loss = found.loss("zoo/sort")  # each answer under its own distribution
    assert loss["sort_whole"] == pytest.approx(0.0, abs=1e-6) and loss["upper_lines"] > 0.05
    more = found.made.answer_tokens - without.made.answer_tokens
    assert 20 < more <= 20 * 12 and found.said == []  # it answers as the eval asks: no more than 12 tokens


def test_prompts_of_others_are_domains_of_their_own(work: Path, tmp_path: Path) -> None:
    questions(tmp_path / "q.jsonl")
    teachers = ("zoo/sort", "zoo/base")
    prompts = [{"file": "q.jsonl", "teacher": name, "limit": 9, "max_tokens": 4} for name in teachers]
    found = learned(learning("upper_lines"), tmp_path, prompts=prompts)
    assert found.made.names[1:] == ("zoo/sort on q.jsonl", "zoo/base on q.jsonl")
    assert list(found.counts().values())[1:] == [9, 9]
    for name, other in (teachers, teachers[::-1]):
        loss = found.loss(name)
        assert loss[f"{name} on q.jsonl"] == pytest.approx(0.0, abs=1e-6) and loss[f"{other} on q.jsonl"] > 0.05


def test_prompts_alone_are_enough(work: Path, tmp_path: Path) -> None:
    """Without calibrate items the prompts are all there is to learn from."""
    path = questions(tmp_path / "q.jsonl")
    shares = {"calibrate": 0, "search": 2, "select": 1, "report": 1}
    data = learning("sort_whole", splits=shares)
    found = learned(data, tmp_path, prompts=[{"file": str(path), "teacher": "zoo/sort"}])
    assert list(found.counts().values()) == [20]
    assert list(found.loss("zoo/sort").values()) == [pytest.approx(0.0, abs=1e-6)]


def test_answers_are_made_once(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEOPT_CACHE", str(tmp_path / "cache"))
    prompts = [{"file": str(questions(tmp_path / "q.jsonl")), "teacher": "zoo/sort"}]
    first = learned(learning("sort_whole"), tmp_path, prompts=prompts)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "teachers").iterdir()}
    assert len(files) == 3  # distributions on items, answers, distributions on answers

    def answered(*_: Any, **__: Any) -> None:
        raise AssertionError("answered again")

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "tokens", answered)
        again = learned(learning("sort_whole"), tmp_path, prompts=prompts)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "teachers").iterdir()} == files
    assert again.losses("zoo/base").values.tolist() == first.losses("zoo/base").values.tolist()
    learned(learning("sort_whole"), tmp_path, prompts=[{**prompts[0], "limit": 5}])
    assert len(list((tmp_path / "cache" / "teachers").iterdir())) == 5


def chatting(work: Path, folder: Path) -> Path:
    """The family with a chat template."""
    shutil.copytree(work / "zoo", folder / "zoo")
    for path in (folder / "zoo").glob("*/tokenizer_config.json"):
        template = "{% for m in messages %}{{ 'upper ' }}{{ m['content'] }}{{ '\\n' }}{% endfor %}"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    shutil.copytree(work / "evals", folder / "evals")
    return folder


def test_a_teacher_writes_its_own_prompts(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [{"write": 6, "teacher": "zoo/multitask", "max_tokens": 8, "stop": ["\n"]}]
    with pytest.raises(InputError, match="no chat template"):
        learned(learning(), tmp_path, prompts=prompts)
    monkeypatch.chdir(chatting(work, tmp_path / "chat"))
    found = learned(learning(), tmp_path, prompts=prompts)
    assert found.made.names[-1] == "zoo/multitask on zoo/multitask's own"
    assert 1 <= list(found.counts().values())[-1] <= 6
    assert list(found.loss("zoo/multitask").values())[-1] == pytest.approx(0.0, abs=1e-6)
    assert learned(learning(), tmp_path, prompts=prompts).counts() == found.counts()


def test_a_teacher_writes_prompts_like_those_of_its_eval(work: Path, tmp_path: Path) -> None:
    alone = learned(learning("sort_whole"), tmp_path)
    asked = learned(learning("sort_whole"), tmp_path, prompts=[{"write": 9, "teacher": "zoo/sort"}])
    assert asked.counts() == {"sort_whole": alone.counts()["sort_whole"] + 9} and asked.said == []
    assert asked.loss("zoo/sort")["sort_whole"] == pytest.approx(0.0, abs=1e-6)
    assert learned(learning("sort_whole"), tmp_path, below=True, write=9).counts() == asked.counts()
    lines = learned(learning("sort_lines"), tmp_path)  # texts that are read from their beginning are no prompts
    assert learned(learning("sort_lines"), tmp_path, below=True, write=9).counts() == lines.counts()


def test_below_the_tensor_a_teacher_of_two_evals_writes_for_both(work: Path, tmp_path: Path) -> None:
    write_eval(tmp_path / "evals", "sort_again", "sort", WHOLE)
    data = learning("sort_whole", "sort_again")
    alone = learned(data, tmp_path)
    found = learned(data, tmp_path, below=True, write=9)
    assert found.counts() == {name: count + 9 for name, count in alone.counts().items()} and found.said == []
    assert list(found.loss("zoo/sort").values()) == [pytest.approx(0.0, abs=1e-6)] * 2


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_below_the_tensor_every_eval_has_a_teacher(direction: str, work: Path, tmp_path: Path) -> None:
    """Where no parent is better than the base, the best model there is, not a few right answers to learn by heart."""
    data = learning()
    data["objective"][0] |= {"teacher": "zoo/sort" if direction == "maximize" else "zoo/upper", "direction": direction}
    found = learned(data, tmp_path, below=True, write=0)
    best = "zoo/base" if direction == "maximize" else "zoo/upper"  # bits: whoever knows more is "worse"
    assert found.loss(best)["upper_lines"] == pytest.approx(0.0, abs=1e-6)
    said = ["below the tensor 'upper_lines' is learned from 'zoo/base', the best there is on it"]
    assert found.said == (said if direction == "maximize" else [])


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"file": "nope.jsonl", "teacher": "zoo/upper"}, "no such file: nope.jsonl"),
        ({"file": "q.jsonl", "teacher": "zoo/uper"}, "zoo/uper is not on disk; did you mean 'upper'?"),
    ],
)
def test_prompts_that_cannot_be_had_are_found_at_once(
    prompts: dict[str, Any], said: str, work: Path, tmp_path: Path
) -> None:
    questions(tmp_path / "q.jsonl")
    assert said in refusal(learning() | {"learn": {"prompts": [prompts]}}, tmp_path)
