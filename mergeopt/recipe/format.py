"""The recipe file, field by field: mergekit's YAML as a schema.

Unknown keys are kept aside instead of refused, because published recipes are full of them: `read` names each one.
Settings stay raw here; their meaning depends on the method.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


def _none_is_empty(value: Any) -> Any:
    return {} if value is None else value


def _rules(value: Any) -> Any:
    """``tokens: {<|im_start|>: }`` names a token and says no more."""
    return {key: _none_is_empty(rule) for key, rule in value.items()} if isinstance(value, dict) else value or {}


# Words stay whatever YAML read them as: the recipe's parser says what is wrong with them.
Settings = Annotated[dict[str, Any], BeforeValidator(_none_is_empty, json_schema_input_type=dict[str, Any] | None)]
LayerRange = Annotated[list[int], Field(min_length=2, max_length=2)]
Model = str | dict[str, Any]


class ModelPart(_Part):
    """One entry of `models`: a whole model."""

    model: Model = Field(description="Folder or Hub id: path[@revision][+adapter].")
    parameters: Settings = Field(default_factory=dict, description="Settings of this model.")


class SourcePart(_Part):
    """One entry of a slice's `sources`: some layers of a model."""

    model: Model = Field(description="Folder or Hub id: path[@revision][+adapter].")
    layer_range: LayerRange = Field(description="[first, last): the layers to take.")
    parameters: Settings = Field(default_factory=dict, description="Settings of this model in this slice.")


class SlicePart(_Part):
    """One entry of `slices`: the next layers of the output."""

    sources: Annotated[list[SourcePart], Field(min_length=1)]
    parameters: Settings = Field(default_factory=dict, description="Settings of this slice.")
    base_model: Model | None = Field(None, description="Of this slice, if another.")
    residual_weight: float | None = Field(None, description="Without effect.")


class TokenPart(_Part):
    """One entry of `tokenizer.tokens`: where the row of a token comes from."""

    source: Model | None = Field(None, description="A model, {kind: model_token, model, token} or {kind: zero}.")
    force: bool = Field(False, description="Also for models that have the token.")


class TokenizerPart(_Part):
    """The output's vocabulary."""

    source: Model | None = Field(None, description="union (the default), base or a model.")
    tokens: Annotated[dict[str, TokenPart], BeforeValidator(_rules)] = Field(
        default_factory=dict, description="Rules for single tokens."
    )
    pad_to_multiple_of: int | None = Field(None, gt=0, description="The number of rows is rounded up to this.")
    among: list[Model] = Field(default_factory=list, description="Whose tokens count, if not the recipe's own models'.")
    base_model: Model | None = Field(None, description="With among: whose rows stand in where several models have one.")


class RecipeFile(_Part):
    """A merge recipe."""

    merge_method: str = Field(description="The arithmetic: linear, slerp, ties, dare_ties, …")
    models: list[ModelPart] | None = Field(None, description="Whole models to merge.")
    slices: list[SlicePart] | None = Field(None, description="The output's layers, slice by slice.")
    modules: dict[str, Any] | None = Field(None, description="Parts of the model, each with models or slices.")
    base_model: Model | None = Field(None, description="What deltas are taken from; donor of config and tokenizer.")
    parameters: Settings = Field(default_factory=dict, description="Settings of the whole merge.")
    dtype: str | None = Field(None, description="dtype of inputs and output.")
    out_dtype: str | None = Field(None, description="dtype of the output, if another.")
    tokenizer_source: Model | None = Field(None, description="union, base or a model: whose tokens the output knows.")
    tokenizer: TokenizerPart | None = Field(None, description="The same, with rules for single tokens.")
    chat_template: str | None = Field(None, description="auto, the name of a common format, or Jinja text.")
    name: str | None = Field(None, description="Of a stage of a chain, by which later stages call it.")
    seed: int = Field(0, ge=0, lt=2**63, description="Addresses the random masks of DARE. mergekit ignores it.")
    refinement: str | None = Field(None, description="File of coefficients below the tensor. mergekit ignores it.")
