"""What a study learns from by gradient: each eval's calibrate items, and prompts that a teacher answers.

An eval is taught by its `teacher`, else by the parent that is best on it: the loss is the divergence from what that
model says (KL), which needs no right answers. Where no parent beats the base the answers themselves are learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mergeopt.errors import InputError, placed
from mergeopt.files import cache_folder, find_file
from mergeopt.recipe.recipe import ModelRef
from mergeopt.scoring.base import EvalInfo, NonFiniteError, Split
from mergeopt.scoring.encoding import Encoder, Generation
from mergeopt.scoring.forward import Batching
from mergeopt.scoring.learning.curriculum import Curriculum, Domain
from mergeopt.scoring.learning.lessons import lessons_of
from mergeopt.scoring.learning.loss import Targets
from mergeopt.scoring.learning.prompts import Prompt, PromptList, as_chat, encode, of_tokens, read_prompts
from mergeopt.scoring.learning.selfmade import user_turns
from mergeopt.scoring.learning.teacher import Teacher
from mergeopt.scoring.learning.variants import FEWEST, variants
from mergeopt.scoring.learning.vocabulary import check_same_vocabulary
from mergeopt.scoring.objective import Reference
from mergeopt.scoring.tasks import EvalTask
from mergeopt.study.events import Listener, Notice
from mergeopt.study.job import SearchJob, digest, stamps
from mergeopt.study.references import alone
from mergeopt.study.searchfile import Learn, Prompts
from mergeopt.study.tokenizer import load_tokenizer
from mergeopt.study.workbench import Workbench

HELD_OUT = 0.2  # of the lessons of each domain
RETAINED = 0.1  # what staying at the base on constrained evals weighs below the tensor, beside 1 for all evals
MOST_HELD_OUT = 200  # lessons per domain, about: more only cost time
CPU_PASS, GPU_PASS = 2048, 16_384  # padded tokens that go through the model at once with their activations kept


@dataclass(frozen=True, slots=True)
class Course:
    """Who teaches an eval, if anyone."""

    info: EvalInfo
    teacher: ModelRef | None


class School:
    """Makes the curriculum of a study.

    Args:
        job: The search.
        bench: Whose live model becomes each teacher in turn.
        reference: Scores of base and parents: who may teach.
        listener: Told what is left out.
    """

    def __init__(self, job: SearchJob, bench: Workbench, reference: Reference, listener: Listener) -> None:
        self._job, self._bench, self._reference, self._listener = job, bench, reference, listener
        self._learn = job.file.learn or Learn()
        self._encoder: Encoder = bench.encoder(job.recipe)
        self._teachers: dict[ModelRef, Teacher] = {}

    def curriculum(self, splits: Sequence[Split], *, below: bool = False) -> Curriculum | None:
        """All lessons from these splits' items and from the prompts; None where there are none.

        Args:
            splits: Of the items.
            below: For the many numbers below the tensor, which would learn a few hundred right answers by heart: every
                eval has a teacher, the best model there is on it, and where the search file gives no prompts each
                teacher writes `learn.write`.

        Raises:
            InputError: a teacher of another vocabulary, prompts that cannot be read.
        """
        courses = self._courses(below)
        domains = [domain for course in courses if (domain := self._domain(course, splits)) is not None]
        domains += self._retained(splits, below)
        for prompts, owner in self._given(courses) or (self._written(courses) if below else []):
            domains = self._with_prompts(domains, prompts, owner, len(courses))
        if not domains:
            return None
        largest = max(len(domain.lessons) for domain in domains)
        device = self._bench.device
        most = CPU_PASS if device.type == "cpu" else GPU_PASS
        return Curriculum(
            domains,
            seed=self._job.file.optimize.seed,
            held_out=min(HELD_OUT, MOST_HELD_OUT / largest),
            batching=Batching(self._bench.batch_size, most),
            device=device,
        )

    def _courses(self, below: bool) -> list[Course]:
        infos = [info for info in self._job.suite.evals if not info.entry.is_constraint]
        return [Course(info, self._teacher_of(info, below)) for info in infos]

    def _teacher_of(self, info: EvalInfo, below: bool) -> ModelRef | None:
        """The model to imitate on an eval: better than the base there; `below` the tensor the base where none is."""
        if self._learn.loss == "nll":
            return None
        sign = 1 if info.higher_is_better else -1
        base = self._reference.base[info.name].value
        scores = {name: scores[info.name].value for name, scores in self._reference.parents.items()}
        name = info.entry.teacher or max(scores, key=lambda parent: sign * scores[parent])
        value = scores.get(name)
        if value is not None and sign * (value - base) <= 0:
            if not below:
                self._say(
                    f"{name!r} does not teach {info.name!r}, where it scores {value:.3f} and the base {base:.3f}; "
                    "its right answers are learned instead"
                )
                return None
            known = {**scores, str(self._job.recipe.base): base} if self._job.recipe.base else scores
            name = max(known, key=lambda model: sign * known[model])
            self._say(f"below the tensor {info.name!r} is learned from {name!r}, the best there is on it")
        return ModelRef.parse(name, f"objective {info.name} teacher")

    def _domain(self, course: Course, splits: Sequence[Split]) -> Domain | None:
        name = course.info.name
        lessons = [lesson for split in splits for lesson in lessons_of(self._job.suite, name, split, self._encoder)]
        if not lessons:
            self._say(f"{name!r} has no answers to learn from: the gradient does not see it, the trials do")
            return None
        weight = self._weight(name)
        if course.teacher is not None:
            try:
                return Domain(name, lessons, "kl", weight, self._teacher(course.teacher).targets(lessons))
            except NonFiniteError:
                self._say(f"{course.teacher} computes NaN on {name!r}: the right answers are learned instead")
        return Domain(name, lessons, "nll", weight)

    def _weight(self, name: str) -> float:
        """An eval counts as it does in the objective, where a point of its score is worth `factor`; in all 1."""
        worth = {term.name: term.weight * abs(term.factor) for term in self._reference.terms}
        return worth[name] / sum(worth.values())

    def _retained(self, splits: Sequence[Split], below: bool) -> list[Domain]:
        """What the base says on constrained evals, or on all where none is and it is asked for: to be kept."""
        evals, base, share = self._job.suite.evals, self._job.recipe.base, self._learn.retain
        infos = [info for info in evals if info.entry.is_constraint]
        if share is None:
            share = RETAINED if below and infos and base is not None else 0.0
        if not share:
            return []
        if base is None:
            raise InputError("there is no base to retain", where="learn.retain", remedy="leave it out")
        found = []
        for info in infos or evals:
            lessons = [x for split in splits for x in lessons_of(self._job.suite, info.name, split, self._encoder)]
            if lessons:
                targets = self._teacher(base).targets(lessons)
                weight = share / len(infos or evals)
                found.append(Domain(f"retain {info.name}", lessons, "kl", weight, targets))
        return found

    def _given(self, courses: Sequence[Course]) -> list[tuple[Prompts, EvalInfo | None]]:
        """The search file's prompts, each with the eval that its teacher teaches."""
        first = {course.teacher: course.info for course in reversed(courses)}
        teachers = [ModelRef.parse(prompts.teacher, "learn.prompts teacher") for prompts in self._learn.prompts]
        return [(p, first.get(teacher)) for p, teacher in zip(self._learn.prompts, teachers, strict=True)]

    def _written(self, courses: Sequence[Course]) -> list[tuple[Prompts, EvalInfo | None]]:
        """What every eval's teacher writes after the eval's prompts."""
        taught = [c for c in courses if c.teacher is not None and len(self._contexts(c.info)) >= FEWEST]
        count = self._learn.write
        return [(Prompts(teacher=str(c.teacher), write=count), c.info) for c in taught] if count else []

    def _contexts(self, info: EvalInfo) -> list[str]:
        """The prompts of an eval's items to learn from; none for texts that are read from their beginning."""
        task = self._job.suite.part(info.name)
        if not isinstance(task, EvalTask) or task.kind == "loglikelihood_rolling":
            return []
        items = self._job.suite.items(info.name, "calibrate")
        return [text for text in dict.fromkeys(item.requests[0].context for item in items) if text]

    def _with_prompts(
        self, domains: Sequence[Domain], prompts: Prompts, owner: EvalInfo | None, evals: int
    ) -> list[Domain]:
        """The prompts join their eval, their `owner`, or are a domain of their own, which counts as one of `evals`."""
        teacher = ModelRef.parse(prompts.teacher, "learn.prompts teacher")
        school = self._teacher(teacher)
        generation = self._generation(prompts, owner)
        try:
            answered = school.answers(self._prompts(prompts, school, owner, generation), generation)
            lessons = [lesson for lesson in answered if lesson.answer]  # a teacher may have nothing to say
            targets = school.targets(lessons) if lessons else None
        except NonFiniteError:
            self._say(f"{teacher} computes NaN on {prompts.where}: these prompts are left out")
            return list(domains)
        if targets is None:
            self._say(f"{teacher} has nothing to say to {prompts.where}: no prompts are learned from there")
            return list(domains)
        taught = [d for d in domains if owner is not None and d.name == owner.name]
        if not taught:
            weight = 1 / max(1, evals)  # as much as an eval
            return [*domains, Domain(f"{teacher} on {prompts.where}", lessons, "kl", weight, targets)]
        (domain,) = taught
        if domain.targets is None:  # the teacher failed on the eval's own items
            return list(domains)
        joined = replace(domain, lessons=[*domain.lessons, *lessons], targets=_joined(domain.targets, targets))
        return [joined if d is domain else d for d in domains]

    def _prompts(
        self, prompts: Prompts, school: Teacher, owner: EvalInfo | None, generation: Generation
    ) -> list[Prompt]:
        if prompts.write is None:
            near = self._job.near
            source = PromptList(
                file=find_file(prompts.file, near, "evals") if prompts.file else None,
                dataset=prompts.dataset,
                config=prompts.config,
                split=prompts.split,
                column=prompts.column,
                limit=prompts.limit,
                chat_template=prompts.chat_template,
            )
            return read_prompts(source, self._encoder, generation)
        seed, count = self._job.file.optimize.seed, prompts.write
        with placed(f"learn.prompts of {prompts.teacher}"):
            if owner is not None and len(contexts := self._contexts(owner)) >= FEWEST:
                how = (seed, count, contexts)
                made = school.written("variants", how, lambda m: variants(m, self._encoder, contexts, count, seed=seed))
                return of_tokens(made)
            turns = school.written("turns", (seed, count), lambda m: user_turns(m, self._encoder, count, seed=seed))
            return encode([as_chat(turn, self._encoder) for turn in turns], self._encoder, generation)

    def _generation(self, prompts: Prompts, owner: EvalInfo | None) -> Generation:
        """How the teacher answers: as the eval it teaches has it, or to the end."""
        settings: dict[str, object] = {"until": list(prompts.stop), "max_gen_toks": prompts.max_tokens}
        if owner is not None and not prompts.stop and not prompts.chat_template:
            task = self._job.suite.part(owner.name)
            if isinstance(task, EvalTask) and task.kind == "generate_until":
                items = self._job.suite.items(owner.name, "search")
                settings = dict(items[0].requests[0].gen_kwargs or {})
        if prompts.temperature:
            settings |= {"do_sample": True, "temperature": prompts.temperature}
        return self._encoder.generation(settings)

    def _teacher(self, ref: ModelRef) -> Teacher:
        if ref not in self._teachers:
            checkpoint = self._job.checkpoints[ref]
            with placed(f"teacher {ref}"):
                check_same_vocabulary(load_tokenizer(checkpoint.folder), self._job.suite.tokenizer)
            said = (stamps(checkpoint), str(self._bench.dtype_of(alone(ref, self._job.recipe))))
            spoken = sorted(self._job.vocabulary.files.items())  # a model in another vocabulary is another one
            identity = digest(repr((*said, spoken) if spoken else said))
            self._teachers[ref] = Teacher(
                identity,
                lambda: self._load(ref),
                self._encoder,
                cache_folder() / "teachers",
                Batching(self._bench.batch_size, CPU_PASS if self._bench.device.type == "cpu" else GPU_PASS),
            )
        return self._teachers[ref]

    def _load(self, ref: ModelRef) -> Any:
        return self._bench.become(alone(ref, self._job.recipe)).model

    def _say(self, text: str) -> None:
        self._listener(Notice(text))


def _joined(first: Targets, second: Targets) -> Targets:
    parts = zip((first.ids, first.top, first.tail), (second.ids, second.top, second.tail), strict=True)
    return Targets(*(torch.cat(pair) for pair in parts))
