"""A diagnosis as tables and lines for a terminal of 80 columns."""

import itertools
from collections.abc import Iterator, Sequence
from math import isnan
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mergeopt.diagnose.diagnosis import Diagnosis
from mergeopt.diagnose.evidence import Evidence
from mergeopt.diagnose.seen import Pair, Smoke
from mergeopt.diagnose.subjects import PARTS, Place
from mergeopt.diagnose.sums import Sums, added
from mergeopt.diagnose.verdict import WORDS, Word
from mergeopt.recipe.recipe import ModelRef

COLOURS = {"good": "green", "tune": "yellow", "risky": "bold yellow", "no": "bold red"}
RANGES = 3  # of the layers, in the table of places
MOST = 8  # lines of reasons, and of findings


def diagnosis_text(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    """What to print, piece by piece."""
    evidence = diagnosis.evidence
    yield Text(_head(evidence))
    if evidence.subjects.common:
        yield _models(evidence)
        if evidence.subjects.base is not None:
            yield _places(evidence)
    if evidence.behaviour is not None:
        yield _own(evidence)
    if diagnosis.verdicts:
        yield _pairs(diagnosis)
        yield from _reasons(diagnosis)
    yield from _findings(evidence)
    yield Text("\nwhat to do", style="bold")
    for line in diagnosis.advice:
        yield _item(line)


def _head(evidence: Evidence) -> str:
    subjects = evidence.subjects
    base = f"base {subjects.base}" if subjects.base else f"no base; compared with {subjects.reference}"
    everything = len(subjects.shape(subjects.reference).tensors)
    compared = f"{len(subjects.common)} of {everything} tensors, {evidence.whole.numel / 1e6:,.1f}M numbers each"
    return f"{base}   {len(subjects.models)} models   {compared}"


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=name == "score", overflow="fold")
    return table


def _models(evidence: Evidence) -> Table:
    sample, subjects = evidence.sample, evidence.subjects
    columns = ["model", "|τ|/|W₀|", "cos W,W₀", "unchanged", "stable rank*", "units in place*"]
    table = _table(*columns, *(["experts*"] if sample.experts else []))
    listed = [ref for ref in (*subjects.models, *subjects.candidates) if ref != subjects.reference]
    for ref in listed:
        k, units = evidence.column(ref), sample.units.get(ref)
        name = evidence.names[ref] + (" (base?)" if ref in subjects.candidates else "")
        row = [escape(name), f"{evidence.body.ratio(k):.3g}", f"{evidence.body.alike(k):.3f}"]
        row += [f"{evidence.whole.unchanged(k):.0%}", _number(sample.stable_rank[ref], "{:.0f}")]
        row += ["" if units is None else f"{units.matched:.0%}"]
        table.add_row(*row, *([f"{sample.experts[ref]:.0%}"] if sample.experts else []))
    layers = ", ".join(map(str, sample.layers))
    table.caption = f"inside layers, without embeddings and head; * sampled: matrices of layers {layers}"
    table.caption_justify = "left"
    return table


def _places(evidence: Evidence) -> Table:
    """Parts by ranges of layers: how far deltas go, and how their signs agree."""
    subjects = evidence.subjects
    pairs = [pair for pair in subjects.pairs if evidence.comparable(pair)]
    table = _table("where", "|τ|/|W₀|", "cosine", "sign conflict", "worst pair")
    for name, sums in _ranges(evidence):
        ratios = [sums.ratio(evidence.column(ref)) for ref in subjects.models]
        cosines = [c for pair in pairs if not isnan(c := sums.cosine(*evidence.columns(pair)))]
        conflicts = {pair: c for pair in pairs if not isnan(c := sums.conflict(*evidence.columns(pair)))}
        worst = max(conflicts, key=lambda pair: conflicts[pair], default=None)
        table.add_row(
            name,
            f"{min(ratios):.2g}–{max(ratios):.2g}" if len(ratios) > 1 else f"{ratios[0]:.2g}",
            _number(fmean(cosines), "{:+.2f}") if cosines else "",
            "" if worst is None else f"{fmean(conflicts.values()):.0%}, at most {conflicts[worst]:.0%}",
            "" if worst is None else escape(_pair_name(evidence, worst)),
        )
    return table


def _ranges(evidence: Evidence) -> Iterator[tuple[str, Sums]]:
    layers, columns = evidence.subjects.layers, len(evidence.weights.columns)
    count = min(RANGES, layers)
    cuts = [layers * i // count for i in range(count + 1)] if count else []
    for part in PARTS:
        found = {place: sums for place, sums in evidence.weights.places.items() if place.part == part}
        if not found:
            continue
        if part not in ("attention", "mlp"):
            yield part, added(found.values(), columns)
            continue
        for first, end in itertools.pairwise(cuts):
            inside = [found[Place(part, layer)] for layer in range(first, end) if Place(part, layer) in found]
            if inside:
                span = f"{first}" if end - first == 1 else f"{first}–{end - 1}"
                yield f"{part} {span}", added(inside, columns)


def _own(evidence: Evidence) -> Table:
    behaviour, subjects = evidence.behaviour, evidence.subjects
    assert behaviour is not None
    table = _table("model", "own evals", "score", "gain", "alone", "KL‖base", "ends", "repeats")
    for ref in subjects.models:
        own = behaviour.own[ref]
        table.add_row(
            escape(evidence.names[ref]),
            escape(", ".join(own.evals)) or "none",
            _scores(evidence, ref, own.evals),
            _number(own.gain, "{:.2f}"),
            _number(own.alone, "{:.0%}"),
            _number(own.divergence, "{:.2f}"),
            *_smoked(behaviour.smokes.get(ref)),
        )
    table.caption = "gain: nats saved; alone: share kept at half the delta; ends, repeats: of 20 answers"
    table.caption_justify = "left"
    owned = tuple(behaviour.owners)
    if len(subjects.models) > 1:
        table.add_row("uniform", "", _scores(evidence, None, owned), "", "", "", *_smoked(behaviour.smokes.get(None)))
    return table


def _scores(evidence: Evidence, ref: ModelRef | None, evals: Sequence[str]) -> str:
    """Mean score, from that of the base (of a merge: from that of each eval's owner)."""
    behaviour, base = evidence.behaviour, evidence.subjects.base
    assert behaviour is not None
    if not evals:
        return ""
    mine = fmean(behaviour.scores[ref][name] for name in evals)
    if ref is None:
        owners = fmean(behaviour.scores[behaviour.owners[name]][name] for name in evals)
        return f"{mine:.3f} of {owners:.3f}"
    return f"{mine:.3f}" if base is None else f"{fmean(behaviour.scores[base][n] for n in evals):.3f} → {mine:.3f}"


def _smoked(found: Smoke | None) -> tuple[str, str]:
    return ("", "") if found is None else (f"{found.ended:.0%}", f"{found.repeated:.0%}")


def _pairs(diagnosis: Diagnosis) -> Table:
    evidence = diagnosis.evidence
    behaviour = evidence.behaviour
    columns = (
        ["cos", "signs", "support", "subspace*"] if behaviour is None else ["cos", "signs", "CKA", "barrier", "keep"]
    )
    table = _table("pair", *columns, "verdict")
    for pair, verdict in diagnosis.verdicts.items():
        cells = ["", ""]
        if evidence.comparable(pair) and evidence.subjects.common:
            i, j = evidence.columns(pair)
            cells = [_number(evidence.body.cosine(i, j), "{:+.2f}"), _number(evidence.body.conflict(i, j), "{:.0%}")]
        if behaviour is not None:
            path = behaviour.paths[pair]
            kept = " / ".join(_number(share, "{:.0%}") or "–" for share in path.kept)
            cells += [_number(path.similarity, "{:.2f}"), f"{path.barrier:+.2f}", kept]
        elif evidence.comparable(pair) and evidence.subjects.common:
            i, j = evidence.columns(pair)
            cells += [_number(evidence.body.support(i, j), "{:.0%}"), _number(evidence.sample.overlap[pair], "{:.2f}")]
        else:
            cells += ["", ""]
        name = escape(_pair_name(evidence, pair))
        table.add_row(name, *cells, f"[{COLOURS[verdict.word]}]{verdict.word}[/]")
    return table


def _reasons(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    """Why, for every pair that is not simply good, the gravest first; pairs with the same reasons together."""
    groups: dict[tuple[Word, tuple[str, ...]], list[Pair]] = {}
    for pair, verdict in diagnosis.verdicts.items():
        if verdict.word != "good":
            groups.setdefault((verdict.word, verdict.reasons), []).append(pair)
    ordered = sorted(groups.items(), key=lambda each: -WORDS.index(each[0][0]))
    for (word, reasons), pairs in ordered[:MOST]:
        names = ", ".join(_pair_name(diagnosis.evidence, pair) for pair in pairs)
        yield _item(f"{names}: {word}: {'; '.join(reasons)}")
    if len(ordered) > MOST:
        yield _item(f"and {len(ordered) - MOST} more (--json)")


def _findings(evidence: Evidence) -> Iterator[RenderableType]:
    if not evidence.findings:
        return
    yield Text("\nbeside the weights", style="bold")
    for finding in evidence.findings[:MOST]:
        yield _item(f"{evidence.names[finding.model]}: {finding.text}")
    if len(evidence.findings) > MOST:
        yield _item(f"and {len(evidence.findings) - MOST} more (--json)")


def _item(text: str) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    line.add_row("•", Text(text))
    return line


def _pair_name(evidence: Evidence, pair: Pair) -> str:
    return "–".join(evidence.names[ref] for ref in pair)


def _number(value: float, form: str) -> str:
    return "" if isnan(value) else form.format(value)
