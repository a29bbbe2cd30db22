"""The main stack and its surroundings, off names and sizes alone."""

import pytest

from mergeopt.recipe.shape import Shape, TensorInfo


def shape(embedding: str, **stacks: int) -> Shape:
    """Stacks (dots as __) with an embedding of 99 rows and a table of 200 positions."""
    counts = {name.replace("__", "."): count for name, count in stacks.items()}
    infos = [TensorInfo(embedding, (99, 8), "float32", "", None, embedding)]
    infos += [TensorInfo("vision.pos_embed.weight", (200, 8), "float32", "", None, "vision.pos_embed.weight")]
    for stack, count in counts.items():
        infos += [TensorInfo(f"{stack}.{i}.a.weight", (8, 8), "float32", stack, i, "a.weight") for i in range(count)]
    return Shape({info.name: info for info in infos}, counts)


@pytest.mark.parametrize(
    ("found", "main"),
    [
        (shape("model.embed_tokens.weight", visual__blocks=9, model__layers=2), "model.layers"),
        (shape("lm.model.wte.weight", vision__layers=9, lm__model__h=2), "lm.model.h"),
        (shape("model.decoder.embed_tokens.weight", model__encoder__layers=4, model__decoder__layers=2),
         "model.decoder.layers"),
        (shape("shared.weight", encoder__block=2, decoder__block=3), "decoder.block"),
        (shape("wte.weight"), ""),
    ],
)  # fmt: skip
def test_main(found: Shape, main: str) -> None:
    assert found.main == main and found.layers == found.stacks.get(main, 0)


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("model.embed_tokens.weight", True),
        ("visual.merger.mlp.0.weight", True),
        ("multi_modal_projector.linear_1.weight", True),
        ("transformer.word_embeddings_layernorm.weight", True),
        ("model.norm.weight", False),
        ("model.embedding_norm.weight", False),
        ("lm_head.weight", False),
        ("embed_out.weight", False),
        ("score.weight", False),
        ("mtp.layers.0.norm.weight", False),
    ],
)
def test_before_layers(name: str, before: bool) -> None:
    found = shape("model.embed_tokens.weight", visual__blocks=3, model__layers=2)
    assert found.before_layers(TensorInfo(name, (8,), "float32", "", None, name)) is before
