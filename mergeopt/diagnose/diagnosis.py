"""Will these models merge? Weights, config and tokenizer always; behaviour where evals are given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mergeopt.diagnose.advice import advise
from mergeopt.diagnose.evidence import Evidence
from mergeopt.diagnose.hygiene import findings
from mergeopt.diagnose.sample import take_sample
from mergeopt.diagnose.seen import Behaviour, Pair
from mergeopt.diagnose.subjects import Subjects
from mergeopt.diagnose.verdict import Verdict, judge
from mergeopt.diagnose.weights import read_sums
from mergeopt.errors import InputError
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.splits import Shares

if TYPE_CHECKING:
    from mergeopt.study.workbench import Compute

Progress = Callable[[str, int], None]  # (what, so much more of it)


@dataclass(frozen=True)
class Data:
    """Evals to ask, their items divided as a search would divide them: report items are never looked at."""

    entries: Sequence[ObjectiveEntry]
    compute: "Compute"
    near: Path | None = None
    shares: Shares | None = None
    seed: int = 0
    trust_eval_code: bool = False
    allow_benchmark: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """The evidence, a verdict per pair, what to do, and what could not be measured."""

    evidence: Evidence
    verdicts: Mapping[Pair, Verdict]
    advice: tuple[str, ...]
    notices: tuple[str, ...]


def diagnose(subjects: Subjects, data: Data | None = None, progress: Progress | None = None) -> Diagnosis:
    """Reads all weights once, a sample once more, and with data scores models, pairs and swapped blocks.

    Args:
        subjects: Whom.
        data: What to ask them.
        progress: Told ("bytes", n) while weights are read and ("models", n) while they are scored.

    Raises:
        InputError: an eval that cannot be used. Models that cannot be merged are a verdict, not an error.
        MergeoptError: a file that cannot be read.
    """
    sums = read_sums(subjects, (lambda n: progress("bytes", n)) if progress else None)
    sample, found = take_sample(subjects), findings(subjects)
    evidence = Evidence(subjects, sums, sample, found, None)
    notices: tuple[str, ...] = ()
    if data is not None:
        behaviour, notices = _observed(evidence, data, progress)
        evidence = replace(evidence, behaviour=behaviour)
    verdicts = {pair: judge(evidence, pair) for pair in subjects.pairs}
    return Diagnosis(evidence, verdicts, advise(evidence, verdicts), notices)


def _observed(evidence: Evidence, data: Data, progress: Progress | None) -> tuple[Behaviour | None, tuple[str, ...]]:
    from mergeopt.diagnose.behaviour import observe  # transformers and lm-eval take seconds that weights do not need
    from mergeopt.scoring.suite import Suite
    from mergeopt.study.evals import with_files
    from mergeopt.study.tokenizer import load_tokenizer
    from mergeopt.study.workbench import FAILURES, Workbench

    subjects = evidence.subjects
    suite = Suite.build(
        with_files(data.entries, data.near),
        tokenizer=load_tokenizer(subjects.checkpoints[subjects.reference].folder),
        near=data.near,
        shares=data.shares,
        seed=data.seed,
        trust_eval_code=data.trust_eval_code,
        allow_benchmark=data.allow_benchmark,
    )
    wanted = {ref: subjects.checkpoints[ref] for ref in (*subjects.models, subjects.reference)}
    try:
        told = (lambda n: progress("models", n)) if progress else None
        return observe(subjects, suite, Workbench(wanted, suite, data.compute), evidence.norm_scaled, told), ()
    except InputError as error:
        return None, (f"not measured with data: {error}",)
    except FAILURES as error:
        return None, (f"not measured with data: a mixture is broken: {error}",)
