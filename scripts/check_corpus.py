#!/usr/bin/env python3
"""What a folder of recipes comes to: planned, planned with notices, or refused; beside what mergekit makes of each.

    scripts/check_corpus.py DIR [--verbose]

DIR holds YAML files in any depth and may hold index.tsv with the columns `file` and `mergekit_0.1.5` ("plans" or the
refusal). No model is needed: every recipe is planned on a Llama of headers alone, as deep as the recipe asks for.
Exit code 1 where a file ends in a fault that is no refusal, or a refusal does not say where.
"""

import argparse
import csv
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mergeopt.checkpoint.header import StoredTensor
from mergeopt.checkpoint.layout import shape_of
from mergeopt.cli.validate import check
from mergeopt.errors import InputError, placed
from mergeopt.merge.plan import Facts, Plan, fill, lay_out, unmatched_filters
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_documents
from mergeopt.recipe.stages import Stages, read_stages

LAYERS = 32
PARTS = (
    *(f"self_attn.{x}_proj" for x in "qkvo"),
    *(f"mlp.{x}_proj" for x in ("gate", "up", "down")),
    *(f"{x}_layernorm" for x in ("input", "post_attention")),
)


@dataclass(frozen=True)
class Outcome:
    """`word` is planned, warned, refused or fault; `text` the refusal; `notices` what had no effect."""

    word: str
    text: str
    notices: tuple[str, ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--verbose", action="store_true", help="print notices and refusals of every file")
    options = parser.parse_args()
    theirs = index(options.folder)
    files = sorted(path for path in options.folder.rglob("*.y*ml"))
    outcomes = {path: outcome(path) for path in files}
    for path, found in outcomes.items():
        known = theirs.get(path.name)
        print(f"{found.word:8} {('plans' if known == 'plans' else 'refuses') if known else '-':8} {path.name}")
        if options.verbose:
            for text in (found.text, *found.notices):
                print(f"{'':18}{text}" if text else "", end="\n" if text else "")
    odd = [path for path, found in outcomes.items() if differs(found, theirs.get(path.name))]
    print(f"\n{'':10}mergekit plans  refuses  not asked")
    counts = Counter((found.word, column(theirs.get(path.name))) for path, found in outcomes.items())
    for word in ("planned", "warned", "refused", "fault"):
        print(f"{word:10}{counts[word, 'plans']:14}{counts[word, 'refuses']:9}{counts[word, '-']:11}")
    print(f"\n{len(odd)} disagree with mergekit:")
    for path in odd:
        print(f"  {path.name}: {outcomes[path].text or 'planned'}\n      mergekit: {theirs[path.name]}")
    vague = [p for p, found in outcomes.items() if found.word == "refused" and f"{p}:" not in found.text]
    for path in vague:
        print(f"says no line: {path.name}: {outcomes[path].text}")
    return int(bool(vague) or any(found.word == "fault" for found in outcomes.values()))


def index(folder: Path) -> dict[str, str]:
    """mergekit's word on each file."""
    file = folder / "index.tsv"
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["file"]: row["mergekit_0.1.5"] for row in csv.DictReader(lines, delimiter="\t")}


def column(theirs: str | None) -> str:
    return "-" if theirs is None else "plans" if theirs == "plans" else "refuses"


def differs(ours: Outcome, theirs: str | None) -> bool:
    return theirs is not None and (ours.word in ("refused", "fault")) == (theirs == "plans")


def outcome(path: Path) -> Outcome:
    """Reads and plans one file."""
    try:
        notices, what = check(path, models=False)
        if not what.startswith(("a search file", "a mergekit-evolve genome")):
            notices = [*notices, *planned(read_stages(read_documents(path), SCHEMAS))]
    except InputError as error:
        return Outcome("refused", str(error))
    except Exception:  # any other is ours to mend
        return Outcome("fault", traceback.format_exc().strip().splitlines()[-1])
    return Outcome("warned" if notices else "planned", "", tuple(notices))


def planned(stages: Stages) -> list[str]:
    """Plans every stage on headers; filters that match nothing."""
    found: list[str] = []
    shapes: dict[str, Facts] = {}
    for stage in stages.stages:
        recipe, schema = stage.recipe, SCHEMAS[stage.recipe.method]
        ends = [s.layer_range[1] for part in recipe.slices for s in part.sources if s.layer_range]
        plain = llama(max([LAYERS, *ends]))
        facts = {ref: shapes[stage.needs[ref]] if ref in stage.needs else plain for ref in recipe.models}
        with placed(stage.where):
            layout = lay_out(recipe, facts, schema)
            plan = fill(layout, recipe, schema)
        found += [f"{stage.where}: {text}" for text in unmatched_filters(layout, recipe)]
        shapes[stage.name] = facts_of(plan)
    return found


def llama(layers: int) -> Facts:
    """A Llama of so many layers, one element per tensor."""
    names = (
        *("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
        *(f"model.layers.{layer}.{part}.weight" for layer in range(layers) for part in PARTS),
    )
    return _facts((name, (1, 1)) for name in names)


def facts_of(plan: Plan) -> Facts:
    return _facts((job.tensor, job.shape) for job in plan.jobs)


def _facts(tensors: Iterator[tuple[str, tuple[int, ...]]]) -> Facts:
    stored = {name: StoredTensor(name, "bfloat16", shape, Path(), 0, 2) for name, shape in tensors}
    return Facts(shape_of(stored, {}), tied=False)


if __name__ == "__main__":
    sys.exit(main())
