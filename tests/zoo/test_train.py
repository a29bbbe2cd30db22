from random import Random

import pytest
import torch

from mergeopt.zoo.spec import ARCHITECTURES, Stage
from mergeopt.zoo.tasks import get_task
from mergeopt.zoo.tokenizer import PAD
from mergeopt.zoo.train import PROMPT_WEIGHT, collate, new_model, train, weighted_loss

from .conftest import miniature


def test_collate_weighs_answers_and_ignores_padding() -> None:
    tokens, weights = collate([[5, 6], [7]], [[8, 9], [9]])
    assert tokens.tolist() == [[5, 6, 8, 9], [7, 9, PAD, PAD]]
    assert weights.tolist() == [
        pytest.approx([PROMPT_WEIGHT, PROMPT_WEIGHT, 1, 1]),
        pytest.approx([PROMPT_WEIGHT, 1, 0, 0]),
    ]


def test_weighted_loss_is_the_weighted_mean_of_next_token_losses() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 11, generator=generator)
    tokens = torch.randint(11, (2, 4), generator=generator)
    weights = torch.rand(2, 4, generator=generator)
    nats = -logits.log_softmax(-1)
    expected = sum(weights[b, t] * nats[b, t - 1, tokens[b, t]] for b in range(2) for t in range(1, 4))
    assert weighted_loss(logits, tokens, weights).item() == pytest.approx(
        (expected / weights[:, 1:].sum()).item(), rel=1e-5
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_learns(architecture) -> None:
    model = new_model(miniature(architecture))
    losses = [
        train(
            model,
            Stage(steps=10, learning_rate=5e-3, replay=1.0),
            lambda rng: get_task("upper").item(rng, held_out=False),
            batch=16,
            rng=Random(seed),
            step_done=lambda step: None,
        )
        for seed in range(3)
    ]
    assert losses[-1] < 0.8 * losses[0]
    assert not model.training


def test_new_models_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in new_model(miniature(seed=seed)).parameters()])

    first = weights(0)
    torch.rand(1)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))
