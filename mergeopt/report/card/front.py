"""What every card has: the front matter that the Hub reads, and mergekit's headings, which people look for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mergeopt.recipe.recipe import Recipe
from mergeopt.recipe.write import to_yaml
from mergeopt.report.card.licence import Terms, terms
from mergeopt.report.card.markdown import fenced, markdown_text
from mergeopt.report.card.naming import Names

WITH_MERGEKIT = {
    "exact": "mergekit gives the same model, bit for bit.",
    "rounding": "mergekit gives the same model but for rounding.",
    "other random draw": "mergekit gives a model of the same kind, with other random masks.",
    "mergeopt only": "mergekit cannot say this recipe.",
}


def card(
    name: str,
    says: str,
    recipe: Recipe,
    names: Names,
    *,
    configuration: Iterable[Mapping[str, Any]],
    portability: str,
    sections: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> str:
    """A model card.

    Args:
        name: The model's.
        says: A sentence on how it came about.
        recipe: What was merged (of a chain, last).
        names: The public names of all models.
        configuration: The recipe's data, one document per stage, models as the recipe names them.
        portability: As in the lock file.
        sections: Markdown between the models and the configuration.
        more: Further front matter.
    """
    found = terms(names.folders)
    method = f"`{recipe.method}`"
    if recipe.base is not None:
        method += f", base {markdown_text(names.models.get(str(recipe.base), str(recipe.base)))}"
    merged = dict.fromkeys(names.models.values())
    text = "---\n".join(to_yaml(names.public(dict(document))) for document in configuration)
    lines = [
        "---",
        to_yaml(_front(names, found, more or {}, portability)).rstrip(),
        "---",
        f"# {markdown_text(name)}",
        "",
        f"A merge of pre-trained language models, {says}",
        "",
        "## Merge Details",
        "### Merge Method",
        "",
        method,
        "",
        "### Models Merged",
        "",
        *(f"* {markdown_text(each)}" for each in merged),
        "",
        *sections,
        "### Configuration",
        "",
        *fenced(text, "yaml"),
        "",
        *_again(merged, portability),
        "",
        "### License",
        "",
        *found.lines,
        "",
    ]
    return "\n".join(lines)


def _front(names: Names, found: Terms, more: Mapping[str, Any], portability: str) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if names.hub:
        data |= {"base_model": list(names.hub), "base_model_relation": "merge"}
    data |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    portable = [] if portability == "mergeopt only" else ["mergekit"]  # mergekit reads the recipe that lies beside
    return data | {"tags": ["merge", *portable, "mergeopt"]} | dict(found.front) | dict(more)


def _again(merged: Iterable[str], portability: str) -> list[str]:
    """How the model is made again."""
    local = any("local:" in each for each in merged)
    lines = [
        "Made again, and compared tensor by tensor with the hashes in `recipe.lock.json`:",
        "",
        "```",
        "mergeopt merge recipe.yaml OUT",
        "mergeopt reproduce OUT",
        "```",
        "",
        f"{WITH_MERGEKIT[portability]}",
    ]
    if local:
        lines.append("Models called `local:…` lay in a folder of that name; the recipe needs their paths.")
    return lines
