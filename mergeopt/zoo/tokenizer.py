"""A byte tokenizer as an ordinary `PreTrainedTokenizerFast`: one token per byte, none merged, and three special tokens.

It is spelled as byte-level BPE because loaders rebuild the tokenizers of some architectures that way, whatever the file
says. It adds no special tokens by itself: evaluation harnesses disagree about when to ask for them, and the models are
trained to read a line with and without a leading ``<s>``.
"""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>")
PAD, BOS, EOS = range(3)


def make_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer of every model of a family; `max_length` is in tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate((*SPECIAL, *alphabet))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
