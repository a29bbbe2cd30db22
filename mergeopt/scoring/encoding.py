"""Texts to tokens by lm-eval's own rules, so that a score here and a score there see identical tokens.

An `HFLM` object holds those rules (where the continuation begins, who adds a BOS token, how a long text is cut into
windows); it is used for them alone, never to run the model.
"""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mergeopt.errors import InputError

Pair = tuple[list[int], list[int]]  # context and continuation


@dataclass(frozen=True, slots=True)
class Generation:
    """How to generate: at most `max_tokens`, up to the first of `stops` (text), with further options of `generate`."""

    max_tokens: int
    stops: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Requests with equal keys can share a batch."""
        return repr((self.max_tokens, self.stops, sorted(self.options.items())))

    @property
    def greedy(self) -> bool:
        """Whether every token is the most likely one."""
        return not self.options.get("do_sample") and self.options.get("num_beams", 1) == 1


class Encoder:
    """The tokens of requests for one model's tokenizer and context length."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if getattr(model.config, "is_encoder_decoder", False):
            raise InputError(f"{type(model).__name__} is an encoder-decoder; only decoder-only models can be scored")
        logger = logging.getLogger("lm_eval")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it warns that a model object was passed
        try:
            self._rules = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=1)
        finally:
            logger.setLevel(level)
        self.tokenizer = self._rules.tokenizer
        self.max_length = int(self._rules.max_length)
        self.pad_id = int(self._rules.tokenizer.pad_token_id)

    def pair(self, context: str, continuation: str) -> Pair:
        """Tokens of a context and of what follows it; an empty context becomes the prefix token."""
        rules = self._rules
        if context:
            pair = rules._encode_pair(context, continuation)
        else:
            tokens = rules.tok_encode(continuation, add_special_tokens=False)
            prefix = rules.prefix_token_id
            pair = (tokens[:1], tokens[1:]) if tokens[:1] == [prefix] else ([prefix], tokens)
        context_tokens, tokens = pair
        if not context_tokens or not 0 < len(tokens) <= self.max_length:
            raise InputError(
                f"a continuation of {len(tokens)} tokens after {len(context_tokens)} cannot be scored by a model of "
                f"{self.max_length} positions: {continuation[:60]!r}"
            )
        return list(context_tokens), list(tokens)

    def windows(self, text: str) -> list[Pair]:
        """A whole text as disjoint windows of the model's context length."""
        tokens = self._rules.tok_encode(text)
        windows = get_rolling_token_windows(
            token_list=tokens, prefix_token=self._rules.prefix_token_id, max_seq_len=self.max_length, context_len=1
        )
        return [make_disjoint_window(window) for window in windows]

    def generation(self, gen_kwargs: Mapping[str, Any]) -> Generation:
        """A task's generation settings as lm-eval reads them: aliases resolved, the EOS text among the stops."""
        options = dict(normalize_gen_kwargs(dict(gen_kwargs), self._rules.max_gen_toks))
        eos = self._rules.tok_decode(self._rules.eot_token_id, skip_special_tokens=False)
        stops = handle_stop_sequences(options.pop("until", None), eos=eos)
        max_tokens = int(options.pop("max_gen_toks"))
        if max_tokens >= self.max_length:
            raise InputError(
                f"max_gen_toks {max_tokens} leaves no room for the prompt in {self.max_length} positions",
                remedy="set `gen_kwargs: {max_gen_toks: ...}` in the objective entry",
            )
        if not options.get("do_sample"):
            options.pop("temperature", None)
        return Generation(max_tokens, tuple(stop for stop in stops if stop), options)

    def tokens(self, text: str) -> list[int]:
        """A text's tokens as the start of a request, with BOS where the model's rules add one."""
        return list(self._rules.tok_encode(text))

    def prompt(self, context: str, generation: Generation) -> list[int]:
        """Tokens to continue, cut from the left so that the answer fits."""
        tokens = self._rules.tok_encode(context)
        return list(tokens[-(self.max_length - generation.max_tokens) :])

    def forced(self, context: str, text: str, generation: Generation) -> Pair | None:
        """The prompt, and `text` with the first stop after it: what greedy decoding must produce to answer `text`.

        None where the tokens of the whole do not begin with the prompt's, or the answer is longer than allowed.
        """
        prompt = list(self._rules.tok_encode(context))
        whole = list(self._rules.tok_encode(context + text + generation.stops[0]))
        answer = whole[len(prompt) :]
        if not prompt or whole[: len(prompt)] != prompt or not 0 < len(answer) <= generation.max_tokens:
            return None
        return self.prompt(context, generation), answer

    def decode(self, tokens: list[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return str(self._rules.tok_decode(tokens))

    def answer(self, tokens: list[int], generation: Generation) -> str:
        """Generated tokens as the answer lm-eval sees: up to the first stop."""
        return str(postprocess_generated_text(self.decode(tokens), list(generation.stops), None))
