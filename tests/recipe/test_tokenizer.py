"""What a recipe says about the vocabulary, and the words for what is wrong with it."""

import pytest

from mergeopt.recipe.recipe import ModelRef, ModelToken, TokenizerRequest, TokenRule
from tests.recipe.conftest import reading, refusal

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
A, B = ModelRef("a"), ModelRef("b")


@pytest.mark.parametrize(
    "text, request_",
    [
        ("", None),
        ("tokenizer:", None),
        ("tokenizer: {}", TokenizerRequest()),
        ("tokenizer_source: union", TokenizerRequest("union")),
        ("tokenizer: {source: base}", TokenizerRequest("base")),
        ("tokenizer_source: b", TokenizerRequest(B)),
        ("tokenizer_source: {model: {path: union}}", TokenizerRequest(ModelRef("union"))),
        ("tokenizer_source: org/c@v1", TokenizerRequest(ModelRef("org/c", "v1"))),
        ("tokenizer: {pad_to_multiple_of: 64}", TokenizerRequest(pad_to_multiple_of=64)),
        ("tokenizer: {among: [b, a], base_model: a}", TokenizerRequest(among=(B, A), base=A)),
        ("tokenizer: {tokens: {x: , y: {}}}", TokenizerRequest(rules=(TokenRule("x"), TokenRule("y")))),
        (
            "tokenizer: {tokens: {x: {source: b, force: true}}}",
            TokenizerRequest(rules=(TokenRule("x", ModelToken(B, "x"), True),)),
        ),
        ("tokenizer: {tokens: {x: {source: {kind: zero}}}}", TokenizerRequest(rules=(TokenRule("x", "zero"),))),
        (
            "tokenizer: {tokens: {x: {source: {kind: model_token, model: {path: a}, token: y}}}}",
            TokenizerRequest(rules=(TokenRule("x", ModelToken(A, "y")),)),
        ),
        (
            "tokenizer: {tokens: {x: {source: {kind: model_token, model: a, token_id: 0}}}}",
            TokenizerRequest(rules=(TokenRule("x", ModelToken(A, 0)),)),
        ),
    ],
)
def test_what_is_asked(text: str, request_: TokenizerRequest | None):
    read = reading(LINEAR + text)
    assert read.recipe.tokenizer == request_ and read.notices == ()


def test_models_that_only_lend_are_named():
    recipe = reading(LINEAR + "tokenizer: {source: c, tokens: {x: {source: d}, y: {source: a}}, among: [b, e]}").recipe
    assert recipe.models == (A, B)
    assert list(map(str, recipe.named)) == ["a", "b", "e", "c", "d"]


MODEL_TOKEN = "tokenizer: {{tokens: {{x: {{source: {{kind: model_token, {}}}}}}}}}"


@pytest.mark.parametrize(
    "text, parts",
    [
        ("tokenizer: {}\ntokenizer_source: base", ("r.yml:4 tokenizer", "both tokenizer and tokenizer_source")),
        ("tokenizer:\n- source: union", ("r.yml:4 tokenizer", "stands where a mapping belongs")),
        ("tokenizer: union", ("r.yml:4 tokenizer", "'union' stands where a mapping belongs")),
        ("tokenizer: {pad_to_multiple_of: 0}", ("tokenizer.pad_to_multiple_of", "greater than 0")),
        ("tokenizer: {tokens: [x]}", ("r.yml:4 tokenizer.tokens", "mapping")),
        ("tokenizer: {tokens: {x: b}}", ("r.yml:4 tokenizer.tokens.x", "mapping")),
        ("tokenizer: {tokens: {x: {source: ''}}}", ("tokens.x.source", "is not a model")),
        ("tokenizer: {tokens: {x: {source: {kind: zeor}}}}", ("tokens.x.source", "did you mean 'zero'?")),
        ("tokenizer: {base_model: a}", ("r.yml:4 tokenizer.base_model", "without among")),
        (MODEL_TOKEN.format("model: a"), ("tokens.x.source", "either a token or a token_id")),
        (MODEL_TOKEN.format("model: a, token: y, token_id: 3"), ("either a token or a token_id",)),
        (MODEL_TOKEN.format("token: y"), ("takes a model",)),
        (MODEL_TOKEN.format("model: a, token: 3"), ("3 is not text; quote it",)),
        (MODEL_TOKEN.format("model: a, token_id: y"), ("'y' is not an id",)),
        (MODEL_TOKEN.format("model: a, token_id: -1"), ("-1 is not an id",)),
    ],
)
def test_mistakes(text: str, parts: tuple[str, ...]):
    line = refusal(LINEAR + text)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    "text, parts",
    [
        ("pad_to_multiple_of: 8", ("r.yml:4", "it belongs under tokenizer:")),
        ("tokens: {}", ("r.yml:4", "it belongs under tokenizer:")),
        ("tokenizer: {sorce: base}", ("r.yml:4 tokenizer.sorce", "did you mean 'source'?")),
        ("tokenizer: {tokens: {x: {forc: true}}}", ("tokenizer.tokens.x.forc", "did you mean 'force'?")),
        (MODEL_TOKEN.format("model: a, token: y, force: true"), ("source.force", "it belongs beside source:")),
        (MODEL_TOKEN.format("model: a, token: y, tokn: z"), ("source.tokn", "did you mean 'token'?")),
        ("tokenizer: {tokens: {x: {force: true}}}", ("tokens.x.force", "without a source")),
        ("tokenizer_source: model:org/c", ("r.yml:4 tokenizer_source", "not needed before the model")),
    ],
)
def test_what_is_said_in_vain_is_named(text: str, parts: tuple[str, ...]):
    (notice,) = reading(LINEAR + text).notices
    for part in parts:
        assert part in notice


def test_the_old_spelling_of_a_model_is_understood():
    assert reading(LINEAR + "tokenizer_source: model:org/c").recipe.tokenizer == TokenizerRequest(ModelRef("org/c"))
