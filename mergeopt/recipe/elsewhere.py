"""What belongs to other tools, other versions or other places: recognised, and called by its name.

A recipe that names a fork's method, or a key of mergekit-moe, is not misspelt. It deserves the name of what it is, not
the nearest word of ours.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from mergeopt.errors import did_you_mean
from mergeopt.recipe.schema import MethodSchema

Schemas = Mapping[str, MethodSchema]

# Dialects of neighbours, recognised by the key that gives them away.
DIALECTS = {
    "gate_mode": "a mergekit-moe recipe",
    "experts": "a mergekit-moe recipe",
    "genome": "a mergekit-evolve genome",
    "metric_method": "a mergekit-metrics file",
    "_target_": "a fusion_bench configuration",
    "pop_size": "a mergenetic configuration",
    "path_to_store_merged_model": "a mergenetic configuration",
    "run_id": "a mergenetic configuration",
    "method": "an mlx-lm recipe",
    "recipe": "a search file",
    "license": "the header of a model card",
    "pipeline_tag": "the header of a model card",
    "library_name": "the header of a model card",
    "model_name_or_path": "a LLaMA-Factory configuration",
    "micro_batch_size": "an axolotl configuration",
}

# Methods of mergekit's forks and of pull requests that were never merged.
FORKS = ("cabs", "core_space", "lrp", "ota", "encoder_decoder_weighted", "zipit", "geodesic", "task_swapping")

# What people call a method.
SYNONYMS = {
    "average": "linear", "weighted_average": "linear", "mean": "linear", "soup": "linear", "model_soup": "linear",
    "frankenmerge": "passthrough", "franken": "passthrough", "stack": "passthrough", "concat": "passthrough",
    "dare": "dare_ties", "task_vector": "task_arithmetic", "model_breadcrumbs": "breadcrumbs", "magprune": "della",
}  # fmt: skip

# Keys that mergekit once read, or that stand in no recipe's own level, and where they belong.
PLACES = {
    "revision": "write model: name@revision",
    "lora": "write model: name+adapter",
    "adapter": "write model: name+adapter",
    "pad_to_multiple_of": "it belongs under tokenizer:",
    "tokens": "it belongs under tokenizer:",
    "embed_slerp": "mergekit reads it no longer; tokenizer: says how embeddings are made",
    "input_model_parameters": "mergekit reads it no longer; write parameters: under each model",
    "layer_range": "it belongs to a source: slices: - sources: - {model: ..., layer_range: [0, 32]}",
}


def dialect(data: Mapping[str, Any]) -> tuple[str, str] | None:
    """The key that gives another tool's file away, and what the file is."""
    found = next(((key, what) for key, what in DIALECTS.items() if key in data), None)
    if found is None and "tokenizer" in data and not {"models", "slices", "modules"} & data.keys():
        return "tokenizer", "the tokenizer part of a recipe, no whole one"
    return found


def no_such_method(name: str, schemas: Schemas) -> tuple[str, str | None]:
    """Problem and remedy for a method that is not known."""
    known = f"known: {', '.join(sorted(schemas))}"
    folded = name.lower().strip("`'\" ").replace("-", "_").replace(" ", "_")
    if folded in FORKS:
        return f"{name!r} is the method of a fork or a pull request, which mergekit itself does not have", known
    if folded in schemas:
        return f"unknown method {name!r}", f"did you mean {folded!r}?"
    if folded in SYNONYMS and SYNONYMS[folded] in schemas:
        return f"unknown method {name!r}", f"did you mean {SYNONYMS[folded]!r}?"
    return f"unknown method {name!r}", did_you_mean(name, tuple(schemas))


def unread_parameter(key: str, schema: MethodSchema, schemas: Schemas, top: Iterable[str]) -> str | None:
    """Why a parameter has no effect and what may be meant; None for one whose loss changes nothing.

    Args:
        key: Found under ``parameters:``.
        schema: The recipe's method.
        schemas: Every method.
        top: Keys of the top level.
    """
    if key == "int8_mask":
        return None  # changes only an intermediate type in mergekit
    if key in top:
        return f"{key!r} has no effect under parameters:; it belongs at the top level"
    if key in PLACES:
        return f"{key!r} has no effect here; {PLACES[key]}"
    elsewhere = _readers(key, schemas)
    near = [name for name in schema.parameters if name.startswith(f"{key}_") or key.startswith(f"{name}_")]
    if elsewhere:
        belongs = f"did you mean {near[0]!r}?" if near else f"it belongs to {elsewhere}"
        return f"{schema.name} does not read {key!r} ({belongs})"
    meant = did_you_mean(key, tuple(schema.parameters))
    if not meant:
        meant = f"{schema.name} reads {', '.join(schema.parameters)}" if schema.parameters else "there are none"
    return f"unknown parameter {key!r} has no effect; {meant}"


def unread_key(key: str, known: Iterable[str], schema: MethodSchema, schemas: Schemas, top: Iterable[str]) -> str:
    """Why a key has no effect where it stands, and where it belongs.

    Args:
        key: Found at the top level, on a model, a slice or a source.
        known: The keys of that level.
        schema: The recipe's method.
        schemas: Every method.
        top: Keys of the top level.
    """
    folded = key.lower()
    if key in schema.parameters or key == "int8_mask":
        return f"{key!r} has no effect here; it belongs under parameters:"
    if folded in schema.parameters:
        return f"{key!r} has no effect here; write {folded!r} under parameters:"
    if key in PLACES:
        return f"{key!r} has no effect here; {PLACES[key]}"
    if key in top:
        return f"{key!r} has no effect here; it belongs at the top level"
    if elsewhere := _readers(key, schemas):
        return f"{key!r} has no effect; {schema.name} does not read it (it is a parameter of {elsewhere})"
    return f"unknown key {key!r} has no effect; {did_you_mean(key, set(known)) or ''}".rstrip("; ")


def pattern_like(word: str) -> bool:
    """Does a filter look like a range or a regular expression? mergekit's are plain substrings of tensor names."""
    return word != "*" and (any(c in word for c in "*?[]|^$()\\,") or _is_range(word))


def _is_range(word: str) -> bool:
    low, dash, high = word.rpartition("-")
    return bool(dash) and high.isdigit() and low[-1:].isdigit()


def _readers(key: str, schemas: Schemas) -> str:
    return ", ".join(sorted(name for name, other in schemas.items() if key in other.parameters)[:4])
