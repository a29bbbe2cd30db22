"""The model card: what was merged, how it was found, and what it scores, in the form the Hub reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.merge.folder import PORTABILITY, portability
from mergeopt.merge.unmade import Unmade
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.write import recipe_data, to_yaml
from mergeopt.report.table import markdown_text, result_markdown, verdict
from mergeopt.study.job import SearchJob
from mergeopt.study.search import Found


def model_card(found: Found, job: SearchJob) -> str:
    """README.md of OUT: front matter, the merge under mergekit's headings, the search, the honest table."""
    recipe = found.winner.recipe
    whole = {ref: checkpoint for ref, checkpoint in job.checkpoints.items() if not isinstance(checkpoint, Unmade)}
    names = {str(ref): _whole_name(ref, checkpoint) for ref, checkpoint in whole.items()}
    steps = job.steps.below(recipe)
    models = job.steps.chain(recipe, job.near).models if steps else recipe.models
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "mergekit", "mergeopt"],
    }
    parts = {part: folder for ref in models for part, folder in _parts(ref, whole[ref])}
    hub = [part.path for part, folder in parts.items() if is_from_hub(part, folder)]
    if hub:
        front |= {"base_model": list(dict.fromkeys(hub)), "base_model_relation": "merge"}
    merged = "\n".join(f"* {markdown_text(names[str(ref)])}" for ref in models)
    again = [text for text in found.result.notices if text.startswith("the report items were read")]
    public = {part.path: card_name(part, folder) for part, folder in parts.items()} | names
    base = None if recipe.base is None else names.get(str(recipe.base))
    lines = [
        "---",
        to_yaml(front).rstrip(),
        "---",
        "# Merged model",
        "",
        "A merge of pre-trained language models, "
        + ("its coefficients learned with mergeopt." if found.result.learned else "compared with others by mergeopt."),
        "",
        "## Merge Details",
        "### Merge Method",
        "",
        f"`{recipe.method}`"
        + (f", the last of a chain of {len(steps) + 1} merges" if steps else "")
        + (f", base {markdown_text(base)}" if base else ""),
        "",
        "### Models Merged",
        "",
        merged,
        "",
        "### Search",
        "",
        f"{found.result.trials} trials and {found.result.steps} gradient steps with `{job.file.optimize.method}`, "
        f"seed {job.file.optimize.seed}. "
        "Candidates were scored on the search items and the winner chosen on the select items; the table is from "
        "report items that nothing before had seen. "
        f"Objective: 0 is the {'base' if job.recipe.base else 'uniform average'}, 1 the best parent on each eval "
        "(its plain score where those two cannot be told apart).",
        "",
        result_markdown(found.result, names),
        "",
        *(f"* {markdown_text(line)}" for line in [*verdict(found.result, names), *again]),
        "",
        "### Configuration",
        "",
        "```yaml",
        "---\n".join(
            to_yaml(_public(data, public))
            for data in [*({"name": s.name} | recipe_data(s.recipe) for s in steps), recipe_data(recipe)]
        ).rstrip(),
        "```",
        "",
        "Made again with `mergeopt merge recipe.yaml OUT`; `recipe.lock.json` has the hash of every tensor. "
        f"With mergekit: {_portability(found, job)}.",
        "",
    ]
    return "\n".join(lines)


def _portability(found: Found, job: SearchJob) -> str:
    """Of a chain that of the step that mergekit is furthest from."""
    views = [job.steps.views[step.name] for step in job.steps.below(found.winner.recipe)]
    return max((portability(each) for each in [*(v.prepared for v in views), found.prepared]), key=PORTABILITY.index)


def is_from_hub(ref: ModelRef, folder: Path) -> bool:
    """Does the model lie in the Hub's cache, under the name the recipe calls it by?"""
    return f"models--{ref.path.replace('/', '--')}" in folder.parts


def card_name(ref: ModelRef, folder: Path) -> str:
    """The Hub id, or `local:<last part>` of a folder."""
    return str(ref) if is_from_hub(ref, folder) else f"local:{Path(ref.path).name}"


def _whole_name(ref: ModelRef, checkpoint: Checkpoint) -> str:
    """The names of model and adapter."""
    return "+".join(card_name(part, folder) for part, folder in _parts(ref, checkpoint))


def _parts(ref: ModelRef, checkpoint: Checkpoint) -> list[tuple[ModelRef, Path]]:
    """Model and adapter, each with the folder of its weights."""
    model = (ref.bare, checkpoint.files[0].parent)
    return [model] if ref.adapter is None else [model, (ref.adapter, checkpoint.files[-1].parent)]


def _public(data: Any, names: Mapping[str, str]) -> Any:
    """The recipe's data with local paths replaced."""
    if isinstance(data, dict):
        return {key: _public(value, names) for key, value in data.items()}
    if isinstance(data, list):
        return [_public(value, names) for value in data]
    return names.get(data, data) if isinstance(data, str) else data
