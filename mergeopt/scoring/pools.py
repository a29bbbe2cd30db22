"""Which documents of a task go to which split, by the rules that keep a search honest.

Items are searched on where the task has data for it (train, then validation); a test split of its own is kept for the
report. Known benchmarks give no test items to a search unless the user insists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergeopt.errors import InputError
from mergeopt.scoring.splits import Shares, check_sizes, content_hash, cut, limited, shuffled
from mergeopt.scoring.tasks import Doc, EvalTask


@dataclass(frozen=True, slots=True)
class Division:
    """How items are divided: shares, the seed of their order, and whether anything learns from calibrate."""

    shares: Shares
    seed: int = 0
    calibrate_used: bool = False


@dataclass(frozen=True, slots=True)
class Pools:
    """Documents and their content hashes per split, in the split's fixed order; few-shot examples if they are ours to
    choose; remarks for the user."""

    docs: Mapping[str, Sequence[Doc]]
    hashes: Mapping[str, tuple[str, ...]]
    fewshot: Sequence[Doc] | None = None
    notices: tuple[str, ...] = ()


def whole(docs: Sequence[Doc], *, limit: float | None) -> Pools:
    """One split "all": the first documents in their own order."""
    docs = docs[: limited(len(docs), limit)]
    return Pools({"all": docs}, {"all": tuple(map(content_hash, docs))})


def divide(task: EvalTask, rule: Division, *, allow_benchmark: bool) -> Pools:
    """Divides a task's documents among calibrate, search, select and report.

    Raises:
        InputError: No usable source of items, too few of them, or a benchmark's test split as the source.
    """
    source = source_split(task, allow_benchmark=allow_benchmark)
    test = task.split_of("test")
    report = task.docs(test) if test is not None and test != source else None
    kept = frozenset(map(content_hash, report or ()))
    everything = task.docs(source)
    hashed = [(doc, digest) for doc in everything if (digest := content_hash(doc)) not in kept]
    notices = []
    if len(hashed) < len(everything):
        twice = len(everything) - len(hashed)
        notices.append(f"{task.name}: {twice} items of {source} also stand in {test}; they are only reported on")
    shots = _fewshot_count(task, source, test if report is not None else None, len(hashed))
    pools = split_docs(hashed, rule, name=task.name, limit=task.entry.limit, report=report, fewshot=shots)
    return Pools(pools.docs, pools.hashes, pools.fewshot, (*notices, *pools.notices))


def split_docs(
    hashed: Sequence[tuple[Doc, str]],
    rule: Division,
    *,
    name: str,
    limit: float | None = None,
    report: Sequence[Doc] | None = None,
    fewshot: int = 0,
) -> Pools:
    """Cuts a pool of documents by share, after setting `fewshot` of them aside; `report` is a pool of its own."""
    docs, hashes = [doc for doc, _ in hashed], [digest for _, digest in hashed]
    order = shuffled(hashes, seed=rule.seed)
    while 0 < fewshot < len(order) and hashes[order[fewshot]] == hashes[order[fewshot - 1]]:
        fewshot += 1  # equal documents stay on one side
    examples, order = order[:fewshot], order[fewshot:]
    order = order[: limited(len(order), limit)]
    shares = rule.shares.of_pool(calibrate_used=rule.calibrate_used, own_report=report is not None)
    parts = cut(order, hashes, shares)
    found = {split: [docs[i] for i in part] for split, part in parts.items()}
    digests = {split: tuple(hashes[i] for i in part) for split, part in parts.items()}
    if report is not None:
        report_hashes = list(map(content_hash, report))
        chosen = shuffled(report_hashes, seed=rule.seed)[: limited(len(report), limit)]
        found["report"] = [report[i] for i in chosen]
        digests["report"] = tuple(report_hashes[i] for i in chosen)
    needed = {split: len(part) for split, part in found.items() if part or shares.get(split)}
    notices = tuple(check_sizes(name, needed))
    return Pools(found, digests, [docs[i] for i in examples] if examples else None, notices)


def source_split(task: EvalTask, *, allow_benchmark: bool) -> str:
    """The dataset split that items come from.

    Raises:
        InputError: The task lacks the split that was asked for, or only has a test split that must not be searched on.
    """
    asked = task.entry.source
    if asked is not None:
        split = task.split_of(asked)
        if split is None:
            raise InputError(f"the eval declares no {asked} split", where=task.where, remedy="leave `source` out")
        roles = {asked}
    else:
        role = next((role for role in ("train", "validation", "test") if task.split_of(role) is not None), None)
        split = task.split_of(role) if role else None
        if role is None or split is None:
            raise InputError("the eval declares no split of its data", where=task.where)
        roles = {role}
    if (roles == {"test"} or split == task.split_of("test")) and not task.local and not allow_benchmark:
        raise InputError(
            f"searching on the test split of {task.name} would make its score worthless",
            where=task.where,
            remedy="set `source: train` or `validation` if it has one, give local data, or pass --allow-benchmark",
        )
    return split


def _fewshot_count(task: EvalTask, source: str, report: str | None, size: int) -> int:
    """How many documents of the source to set aside as few-shot examples; none where the task has its own."""
    shots = task.num_fewshot
    if shots == 0 or task.fewshot_split() not in (source, report):
        return 0
    wanted = max(shots + 1, min(4 * shots, size // 10))  # lm-eval may draw one more than it uses
    if wanted >= size:
        raise InputError(f"{size} items are too few for {shots}-shot prompts", where=task.where)
    return wanted
