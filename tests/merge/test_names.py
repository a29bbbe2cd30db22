import pytest

from mergeopt.merge.names import is_embedding, is_head


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "gpt_neox.embed_in.weight",
        "backbone.embeddings.weight",
        "shared.weight",
        "bert.embeddings.word_embeddings.weight",
        "model.embeddings.tok_embeddings.weight",
        "text_model.embeddings.token_embedding.weight",
    ],
)
def test_embeddings(name: str):
    assert is_embedding(name) and not is_head(name)


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "embed_out.weight", "output.weight", "cls.predictions.decoder.weight", "proj_out.weight"]
)
def test_heads(name: str):
    assert is_head(name) and not is_embedding(name)


@pytest.mark.parametrize(
    "name",
    [
        "transformer.wpe.weight",
        "model.decoder.embed_positions.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "transformer.word_embeddings_layernorm.weight",
        "model.norm.weight",
        "score.weight",
        "lm_head.bias",
        "bert.pooler.dense.weight",
    ],
)
def test_neither(name: str):
    assert not is_embedding(name) and not is_head(name)
