"""The model card: what was merged, how it was found, and what it scores, in the form the Hub reads."""

from pathlib import Path
from typing import Any

from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.write import recipe_data, to_yaml
from mergeopt.report.table import markdown_text, public_name, result_markdown, verdict
from mergeopt.study.search import Found, SearchJob


def model_card(found: Found, job: SearchJob) -> str:
    """README.md of OUT: front matter, the merge under mergekit's headings, the search, the honest table."""
    recipe = found.winner.recipe
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "mergekit", "mergeopt"],
    }
    hub = [ref.path for ref in recipe.models if is_hub_id(ref)]
    if hub:
        front |= {"base_model": hub, "base_model_relation": "merge"}
    merged = "\n".join(f"* {markdown_text(card_name(ref))}" for ref in recipe.models)
    data = recipe_data(recipe)
    lines = [
        "---",
        to_yaml(front).rstrip(),
        "---",
        "# Merged model",
        "",
        "A merge of pre-trained language models, its coefficients learned with mergeopt.",
        "",
        "## Merge Details",
        "### Merge Method",
        "",
        f"`{recipe.method}`" + (f", base {markdown_text(card_name(recipe.base))}" if recipe.base else ""),
        "",
        "### Models Merged",
        "",
        merged,
        "",
        "### Search",
        "",
        f"{found.result.trials} trials with `{job.file.optimize.method}`, seed {job.file.optimize.seed}. "
        "Candidates were scored on the search items and the winner chosen on the select items; the table is from "
        "report items that nothing before had seen. Objective: 0 is the base, 1 the best parent on each eval.",
        "",
        result_markdown(found.result),
        "",
        *(f"* {markdown_text(line)}" for line in verdict(found.result)),
        "",
        "### Configuration",
        "",
        "```yaml",
        to_yaml(_public(data, recipe.models)).rstrip(),
        "```",
        "",
        "Made again with `mergeopt merge recipe.yaml OUT`; `recipe.lock.json` has the hash of every tensor.",
        "",
    ]
    return "\n".join(lines)


def is_hub_id(ref: ModelRef) -> bool:
    """Does the name mean a Hub repository, not a folder here?"""
    return ref.path.count("/") == 1 and not ref.path.startswith((".", "/", "~")) and not Path(ref.path).exists()


def card_name(ref: ModelRef) -> str:
    """The Hub id, or `local:<last part>` of a folder."""
    return ref.path if is_hub_id(ref) else f"local:{public_name(ref.path).rsplit('/', 1)[-1]}"


def _public(data: Any, models: tuple[ModelRef, ...]) -> Any:
    """The recipe's data with local paths replaced."""
    names = {str(ref): card_name(ref) for ref in models}
    if isinstance(data, dict):
        return {key: _public(value, models) for key, value in data.items()}
    if isinstance(data, list):
        return [_public(value, models) for value in data]
    return names.get(data, data) if isinstance(data, str) else data
