"""The card of a search: how the recipe was found, and what it scores beside what needs no search."""

import re
from dataclasses import replace
from typing import Any

from mergeopt.merge.folder import PORTABILITY, portability
from mergeopt.merge.lock import versions
from mergeopt.merge.refinement import SIDECAR
from mergeopt.recipe.write import recipe_data
from mergeopt.report.card.front import card
from mergeopt.report.card.markdown import markdown_text
from mergeopt.report.card.naming import Names, last_part
from mergeopt.report.html.png import FIGURE
from mergeopt.report.table import result_markdown, verdict
from mergeopt.scoring.base import SPLITS
from mergeopt.study.job import SearchJob
from mergeopt.study.result import Importance, Result
from mergeopt.study.search import Found


def model_card(found: Found, job: SearchJob, name: str = "Merged model") -> str:
    """README.md of OUT: front matter, the merge under mergekit's headings, the search, the honest table.

    Args:
        found: What the search found.
        job: What was searched.
        name: What the model is called.
    """
    recipe = found.winner.recipe
    if found.prepared.refinement is not None:
        recipe = replace(recipe, refinement=SIDECAR)
    steps = job.steps.below(recipe)  # of a chain, before the last
    names = Names.of(job.checkpoints, job.steps.chain(recipe, job.near).models if steps else recipe.named)
    result = _public(found.result, Names.of(job.checkpoints, job.checkpoints))
    again = [text for text in result.notices if text.startswith("the report items were read")]
    search = [
        "### Search",
        "",
        _paragraph(found.result, job),
        "",
        result_markdown(result, {}),
        "",
        f"![The winner beside parents and fixed recipes]({FIGURE})",
        "",
        *(f"* {markdown_text(line)}" for line in [*verdict(result, {}), *again]),
        "",
    ]
    return card(
        name,
        ("its coefficients learned with mergeopt" if result.learned else "compared with others by mergeopt")
        + (f", a chain of {len(steps) + 1} merges." if steps else "."),
        recipe,
        names,
        configuration=[*({"name": step.name} | recipe_data(step.recipe) for step in steps), recipe_data(recipe)],
        portability=_portability(found, job),
        sections=search,
        more={"model-index": model_index(name, found.result, job)},
    )


def _portability(found: Found, job: SearchJob) -> str:
    """Of a chain that of the step that mergekit is furthest from."""
    views = [job.steps.views[step.name] for step in job.steps.below(found.winner.recipe)]
    return max((portability(each) for each in [*(v.prepared for v in views), found.prepared]), key=PORTABILITY.index)


def model_index(name: str, result: Result, job: SearchJob) -> list[dict[str, Any]]:
    """The winner's scores on the report items, in the form the Hub reads."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    infos = {info.name: info for info in job.suite.evals}
    entries = [
        EvalResult(
            task_type="text-generation",
            dataset_type=re.sub(r"[^\w.-]+", "-", eval_).strip("-") or "eval",
            dataset_name=f"{eval_} (report items)",
            metric_type=infos[eval_].metric.partition(",")[0],
            metric_value=round(cell.value, 4),
            metric_name=f"{infos[eval_].metric} of {result.items[eval_]['report']} items, ± {cell.stderr:.4f}",
        )
        for eval_, cell in result.row(result.winner).evals.items()
    ]
    found: list[dict[str, Any]] = eval_results_to_model_index(name, entries)
    return found


def _paragraph(result: Result, job: SearchJob) -> str:
    options, tools = job.file.optimize, versions()
    items = {split: [count for counts in result.items.values() if (count := counts.get(split))] for split in SPLITS}
    shares = ", ".join(f"{_some(counts)} {split}" for split, counts in items.items() if counts)
    return (
        f"{result.trials} trials and {result.steps} gradient steps with `{options.method}`, seed {options.seed}, on "
        f"{', '.join(map(markdown_text, result.items))}; items of each: {shares}. Candidates were scored on the search "
        "items and the winner chosen on the select items; the table is from report items that nothing before had seen. "
        f"Objective: 0 is the {'base' if job.recipe.base else 'uniform average'}, 1 the best parent on each eval "
        "(its plain score where those two cannot be told apart). "
        f"lm-eval {tools['lm_eval']}, transformers {tools['transformers']}, torch {tools['torch']}."
    )


def _some(counts: list[int]) -> str:
    """``300``, or ``30 to 300``"""
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _public(result: Result, names: Names) -> Result:
    """The result with every name as others know it."""
    called: dict[str, str] = {}
    for row in result.rows:
        plain = last_part(row.name) if row.kind in ("compare", "start") else row.name
        label = names.models.get(row.name, plain)
        called[row.name] = label if label not in called.values() else f"{label} ({len(called)})"
    return replace(
        result,
        winner=called[result.winner],
        rival=None if result.rival is None else called[result.rival],
        rows=tuple(replace(row, name=called[row.name]) for row in result.rows),
        importance=tuple(Importance(names.within(each.name), each.share, each.signal) for each in result.importance),
    )
