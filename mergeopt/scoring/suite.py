"""A suite: the evals of an objective with their items divided, ready to be asked of any model.

It holds no model. Items are rendered into requests when a split is first used, so the report split costs nothing until
it is read.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mergeopt.errors import InputError
from mergeopt.scoring.base import EvalInfo, Split
from mergeopt.scoring.custom import PREFIX, CustomEval
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.pools import Division, Pools, divide, split_docs, whole
from mergeopt.scoring.splits import Shares, content_hash
from mergeopt.scoring.task_file import close_names
from mergeopt.scoring.task_loader import TaskLoader
from mergeopt.scoring.tasks import EvalTask, Item

AnyEval = EvalTask | CustomEval


class Suite:
    """Evals with divided items. Make one with `Suite.build` (for a search) or `Suite.whole` (as lm-eval evaluates)."""

    def __init__(
        self, parts: Sequence[tuple[AnyEval, Pools]], tokenizer: PreTrainedTokenizerBase, *, whole: bool
    ) -> None:
        self.tokenizer = tokenizer
        self._whole = whole
        self._parts: dict[str, tuple[AnyEval, Pools]] = {}
        for eval_, pools in parts:
            self._parts[self._free_name(eval_)] = (eval_, pools)
        self._rendered: dict[tuple[str, Split], list[Item]] = {}
        self.evals = tuple(
            EvalInfo(name, eval_.metric_key, eval_.higher_is_better, eval_.entry, pools.hashes)
            for name, (eval_, pools) in self._parts.items()
        )
        self.notices = tuple(n for part, pools in self._parts.values() for n in (*part.notices, *pools.notices))

    @classmethod
    def build(
        cls,
        entries: Sequence[ObjectiveEntry],
        *,
        tokenizer: PreTrainedTokenizerBase,
        near: Path | None = None,
        shares: Shares | None = None,
        seed: int = 0,
        calibrate_used: bool = False,
        trust_eval_code: bool = False,
        allow_benchmark: bool = False,
    ) -> "Suite":
        """The evals of an objective, their items divided into calibrate, search, select and report.

        Args:
            entries: The objective.
            tokenizer: For chat templates; the models' own.
            near: Folder of the search file: eval paths are looked up in the working folder, then here.
            shares: How items are divided.
            seed: Of the division.
            calibrate_used: Whether anything learns from the calibrate split; otherwise its items join search.
            trust_eval_code: Allow ``!function`` of local files and ``python:`` scorers.
            allow_benchmark: Allow searching on the test split of a known benchmark.

        Raises:
            InputError: Anything wrong with an entry, its file, its data or its size.
        """
        rule = Division(shares or Shares(), seed, calibrate_used)

        def pools(eval_: AnyEval) -> Pools:
            if isinstance(eval_, EvalTask):
                return divide(eval_, rule, allow_benchmark=allow_benchmark)
            hashed = [(doc, content_hash(doc)) for doc in eval_.docs()]
            return split_docs(hashed, rule, name=eval_.name, limit=eval_.entry.limit)

        return cls(_load(entries, near, trust_eval_code, pools), tokenizer, whole=False)

    @classmethod
    def whole(
        cls,
        entries: Sequence[ObjectiveEntry],
        *,
        tokenizer: PreTrainedTokenizerBase,
        near: Path | None = None,
        trust_eval_code: bool = False,
    ) -> "Suite":
        """The evals as lm-eval itself would run them: one split "all", its documents, its order, its examples."""

        def pools(eval_: AnyEval) -> Pools:
            docs = eval_.eval_docs() if isinstance(eval_, EvalTask) else eval_.docs()
            return whole(docs, limit=eval_.entry.limit)

        return cls(_load(entries, near, trust_eval_code, pools), tokenizer, whole=True)

    def part(self, name: str) -> AnyEval:
        """The eval of this name."""
        return self._parts[name][0]

    def docs(self, name: str, split: Split) -> Sequence[Mapping[str, Any]]:
        """The documents of one eval in `split`, in order.

        Raises:
            InputError: The suite has no such split.
        """
        pools = self._parts[name][1]
        if split not in pools.docs:
            raise InputError(f"there are no {split} items", where=name, remedy=f"there are: {', '.join(pools.docs)}")
        return pools.docs[split]

    def items(self, name: str, split: Split) -> list[Item]:
        """The rendered items of one lm-eval task in `split`, in order."""
        if (name, split) not in self._rendered:
            (task, pools), docs = self._parts[name], self.docs(name, split)
            assert isinstance(task, EvalTask)
            if pools.fewshot is not None:
                task.use_fewshot_pool(pools.fewshot)
            self._rendered[name, split] = task.items(
                docs, pools.hashes[split], self.tokenizer, fewshot_by_content=not self._whole
            )
        return self._rendered[name, split]

    def _free_name(self, eval_: AnyEval) -> str:
        name = eval_.name if eval_.name not in self._parts else f"{eval_.name}:{eval_.metric_key}"
        if name in self._parts:
            raise InputError(f"eval {eval_.name!r} stands twice in the objective with the same metric")
        return name


def _load(
    entries: Sequence[ObjectiveEntry], near: Path | None, trust_code: bool, pools: Callable[[AnyEval], Pools]
) -> list[tuple[AnyEval, Pools]]:
    if not entries:
        raise InputError("the objective is empty", remedy="name at least one eval under `objective`")
    loader = TaskLoader(trust_code=trust_code)
    evals: list[AnyEval] = [
        CustomEval(entry, trust_code=trust_code)
        if entry.eval.startswith(PREFIX)
        else loader.load(entry, find_task_file(entry.eval, near))
        for entry in entries
    ]
    return [(eval_, pools(eval_)) for eval_ in evals]


def find_task_file(name: str, near: Path | None) -> Path | None:
    """The task file that an entry means: in the working folder, then in `near`. None where `name` is a task's name.

    Raises:
        InputError: There is no such file, or two different ones.
    """
    given = Path(name).expanduser()
    if given.suffix not in (".yaml", ".yml") and len(given.parts) == 1:
        return None
    found = {path.resolve() for folder in (Path.cwd(), near or Path.cwd()) if (path := folder / given).is_file()}
    if len(found) > 1:
        both = " and ".join(map(str, sorted(found)))
        raise InputError(f"eval {name} is ambiguous: {both}", remedy="give a path that is only one of them")
    if not found:
        raise InputError(f"no such eval file: {name}", remedy=close_names((near or Path.cwd()) / given))
    return found.pop()
