"""Training a small language model from scratch or from weights: AdamW, one cycle, float32, one seed.

Nothing here depends on, or changes, the global random state: weights are drawn inside a forked state, items from a
generator that the caller gives.
"""

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor, nn
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from mergeopt.zoo.spec import FamilySpec, Stage
from mergeopt.zoo.tasks import Item
from mergeopt.zoo.tokenizer import BOS, EOS, PAD, make_tokenizer

CONTEXT = 512  # tokens; few-shot prompts and the harness's default answer length of 256 fit
PROMPT_WEIGHT = 0.1  # of a question's tokens in the loss; the answer's and the stop's weigh 1
MAX_GRADIENT_NORM = 1.0


def new_model(spec: FamilySpec) -> PreTrainedModel:
    """An untrained model of the family, its weights a function of the spec alone."""
    common = {
        "vocab_size": len(make_tokenizer(CONTEXT)),
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "initializer_range": spec.hidden**-0.5,  # the usual 0.02 is for wide models and learns slowly here
    }
    kv_heads = spec.heads if spec.heads % 2 else spec.heads // 2  # grouped-query attention wherever it divides
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(spec.seed)
        model: PreTrainedModel
        match spec.architecture:
            case "llama":
                model = LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=kv_heads))
            case "qwen2":
                config = Qwen2Config(**common, num_key_value_heads=kv_heads, tie_word_embeddings=True)
                model = Qwen2ForCausalLM(config)
            case "gpt_neox":
                model = GPTNeoXForCausalLM(GPTNeoXConfig(**common))
    return model.float()


def train(
    model: PreTrainedModel,
    stage: Stage,
    draw: Callable[[Random], Item],
    *,
    batch: int,
    rng: Random,
    step_done: Callable[[int], None],
) -> float:
    """Train `model` in place on items from `draw` and return the mean loss, in nats per token, of the last tenth.

    `step_done` is called with the number of steps done.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, stage.learning_rate, total_steps=stage.steps, pct_start=0.2, cycle_momentum=False
    )
    tokenizer = make_tokenizer(CONTEXT)
    losses = []
    model.train()
    for step in range(stage.steps):
        items = [draw(rng) for _ in range(batch)]
        # Harnesses disagree about a leading <s>: every model has seen lines with and without it.
        starts = [[BOS] if rng.random() < 0.5 else [] for _ in items]
        questions = tokenizer([item.question for item in items])["input_ids"]
        answers = tokenizer([item.line.removeprefix(item.question) for item in items])["input_ids"]
        tokens, weights = collate(
            [start + question for start, question in zip(starts, questions, strict=True)],
            [[*answer, EOS] for answer in answers],
        )
        loss = weighted_loss(model(input_ids=tokens, use_cache=False).logits, tokens, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        step_done(step + 1)
    model.eval()
    tail = losses[-max(1, stage.steps // 10) :]
    return sum(tail) / len(tail)


def collate(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Pad to one batch: token ids (batch, longest) and each token's weight in the loss, 0 for padding."""
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    tokens = torch.full((len(prompts), longest), PAD)
    weights = torch.zeros(len(prompts), longest)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        weights[row, : len(prompt)] = PROMPT_WEIGHT
        weights[row, len(prompt) : end] = 1.0
    return tokens, weights


def weighted_loss(logits: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """Mean next-token cross entropy, weighted: logits (batch, length, vocab), tokens and weights (batch, length)."""
    nats = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    weight = weights[:, 1:].flatten()
    return (nats * weight).sum() / weight.sum()
