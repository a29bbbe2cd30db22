"""What a search found, in values: the table of contenders on the report split, and the winner.

`result.json` is this, and every table and report is drawn from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, nan
from typing import Any

from mergeopt.errors import InputError
from mergeopt.optimizers import Branches
from mergeopt.scoring.base import Scores
from mergeopt.scoring.objective import Reference, objective, paired
from mergeopt.scoring.statistics import PairedDifference, enough_evidence, interval, mean_stderr
from mergeopt.space.dimension import Dimension
from mergeopt.study.references import Contender, Kind

FORMAT = 1
ACCEPT = 0.8
"""Probability of being better, on the select items, that a learned merge must reach to be returned. It is compared with
the best of a dozen known recipes by these same items, luck included, so this is stricter than it reads."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One contender on one eval of the report split; an interval at 95 %."""

    value: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on the report split. `objective`: 0 is the base, 1 the best parent, averaged over evals."""

    name: str
    kind: Kind
    objective: float
    violation: float
    evals: Mapping[str, Cell]
    against: PairedDifference | None  # the winner minus this one, in the objective, paired


@dataclass(frozen=True, slots=True)
class Importance:
    """A dimension's share in the Fisher of the coefficients, in units of its range, and its mean gradient at the
    solution in standard errors: above 2, more steps or other bounds would move it."""

    name: str
    share: float
    signal: float


@dataclass(frozen=True)
class Result:
    """The outcome of a search.

    `learned`: the winner came from the search; else the best of what was known before is returned. `rival` is the best
    other eligible contender on the report split, and `gain` the winner minus it. Seconds and tokens are of the search.
    """

    winner: str
    learned: bool
    rows: tuple[Row, ...]
    rival: str | None
    gain: PairedDifference | None
    trials: int
    failed: int
    steps: int  # of the gradient, below the tensor too
    seconds: float
    tokens: int
    items: Mapping[str, Mapping[str, int]]  # eval -> split -> count
    search_value: float | None  # what the winner's score on the search items claimed
    importance: tuple[Importance, ...]  # of the best branch, the most important first
    notices: tuple[str, ...]

    def row(self, name: str) -> Row:
        """The row of one contender."""
        return next(row for row in self.rows if row.name == name)

    def data(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> "Result":
        """From `data`, as ``result.json`` has it.

        Raises:
            InputError: not the data of a result, or of a newer format.
        """
        if data.get("format") != FORMAT:
            problem = f"is of format {data.get('format')!r}, not {FORMAT}"
            raise InputError(problem, where=where, remedy="use the mergeopt that wrote it, or a newer one")
        try:
            fields = {name: data[name] for name in cls.__dataclass_fields__}
            fields["rows"] = tuple(_row(row) for row in data["rows"])
            fields["gain"] = _difference(data["gain"])
            fields["importance"] = tuple(Importance(**one) for one in data["importance"])
            fields["notices"] = tuple(data["notices"])
            return cls(**fields)
        except (KeyError, TypeError) as fault:
            raise InputError(f"is not a whole result: {fault}", where=where, remedy="search again") from None


def _row(data: Mapping[str, Any]) -> Row:
    cells = {name: Cell(**cell) for name, cell in data["evals"].items()}
    return Row(**{**data, "evals": cells, "against": _difference(data["against"])})


def _difference(data: Mapping[str, Any] | None) -> PairedDifference | None:
    """As it was before JSON, which has no infinity: an interval without ends has none."""
    if data is None:
        return None
    ends: dict[str, Any] = {"stderr": nan, "low": -inf, "high": inf, "df": 0.0}
    fields: dict[str, Any] = {key: ends.get(key) if value is None else value for key, value in data.items()}
    return PairedDifference(**fields)


def choose(
    finalists: Sequence[tuple[Contender, Scores]], known: Sequence[tuple[Contender, Scores]], reference: Reference
) -> Contender:
    """The winner on the select split.

    The best finalist, if with probability `ACCEPT` it beats the best of what was known before; else that. Feasible
    before infeasible, then less violation, then value.
    """

    def standing(pair: tuple[Contender, Scores]) -> tuple[float, float]:
        found = objective(pair[1], reference)
        return -found.violation, found.value

    best_known = max(known, key=standing)
    if not finalists:
        return best_known[0]
    best = max(finalists, key=standing)
    violations = objective(best[1], reference).violation, objective(best_known[1], reference).violation
    if violations[0] != violations[1]:
        return best[0] if violations[0] < violations[1] else best_known[0]
    better = enough_evidence(paired(best[1], best_known[1], reference), probability=ACCEPT)
    return best[0] if better else best_known[0]


def report_rows(scored: Sequence[tuple[Contender, Scores]], winner: Contender, reference: Reference) -> tuple[Row, ...]:
    """The table: every contender on the report split, and the winner's paired difference to it."""
    won = next(scores for contender, scores in scored if contender.name == winner.name)
    rows = []
    for contender, scores in scored:
        found = objective(scores, reference)
        cells = {}
        for score in scores:
            low, high = interval(score.items)
            cells[score.name] = Cell(score.value, mean_stderr(score.items)[1], low, high)
        against = None if contender.name == winner.name else paired(won, scores, reference)
        rows.append(Row(contender.name, contender.kind, found.value, found.violation, cells, against))
    return tuple(rows)


def rival_of(rows: Sequence[Row], winner: Contender) -> Row | None:
    """The best feasible contender beside the winner that a user could have had without searching.

    Chosen on the report items themselves, so the gain over it is an understatement.
    """
    others = [row for row in rows if row.name != winner.name and row.kind in ("base", "parent", "fixed", "start")]
    return max(others, key=lambda row: (-row.violation, row.objective), default=None)


def importance_of(optimizer: Branches, branches: Sequence[Sequence[Dimension]]) -> tuple[Importance, ...]:
    """Which dimensions of the best branch matter, by the gradient's Fisher."""
    found = optimizer.importance()
    if found is None:
        return ()
    branch, measured = found
    total = float(measured.fisher.sum()) or 1.0
    entries = zip(branches[branch], measured.fisher.tolist(), measured.signal.tolist(), strict=True)
    each = [Importance(dimension.name, fisher / total, signal) for dimension, fisher, signal in entries]
    return tuple(sorted(each, key=lambda one: -one.share))
