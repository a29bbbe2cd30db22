"""Small models that speak different tokens, each with a byte-level BPE tokenizer that transformers reads as it is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.conftest import Weights, llama_weights, read_weights, write_model

Pair = tuple[str, str]


def write_tokenizer(
    folder: Path,
    merges: Sequence[Pair] = (),
    added: Sequence[AddedToken | str] = (),
    *,
    special: Pair = ("<s>", "</s>"),
    **config: Any,
) -> int:
    """256 bytes after two special tokens, then what is merged, then what is added; returns how many tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*special, *alphabet))}
    for first, second in merges:
        vocab[first + second] = len(vocab)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    for token in added:
        backend.add_tokens([token])
    bos, eos = special
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False, **config
    )
    made.save_pretrained(folder)
    return len(made)


def write_speaker(
    folder: Path,
    seed: int,
    merges: Sequence[Pair] = (),
    added: Sequence[AddedToken | str] = (),
    *,
    spare: int = 0,
    head: bool = True,
    dtype: torch.dtype = torch.float32,
    special: Pair = ("<s>", "</s>"),
    **config: Any,
) -> Path:
    """A Llama with a row for each of its tokens, `spare` ones more (negative: the last tokens have none)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = write_tokenizer(folder, merges, added, special=special) + spare
    weights = llama_weights(seed=seed, dtype=dtype, head=head)
    random = torch.Generator().manual_seed(1000 + seed)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = torch.randn(rows, 16, generator=random).to(dtype)
    fields = {"vocab_size": rows, "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": not head} | config
    write_model(folder / "weights", weights, **fields)
    for file in (folder / "weights").iterdir():
        file.replace(folder / file.name)
    (folder / "weights").rmdir()
    generation = {"bos_token_id": 0, "eos_token_id": [1], "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def vocabulary(folder: Path) -> dict[str, int]:
    """Token → id, as transformers loads it."""
    loaded: dict[str, int] = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    return loaded


class Speaker:
    """A model folder's rows by token."""

    def __init__(self, folder: Path) -> None:
        self.weights: Weights = read_weights(folder)
        self.ids = vocabulary(folder)

    def row(self, token: str, tensor: str = "model.embed_tokens.weight") -> Tensor:
        return self.weights[tensor][self.ids[token]]

    def has(self, token: str) -> bool:
        return self.ids.get(token, 1 << 30) < len(self.weights["model.embed_tokens.weight"])
