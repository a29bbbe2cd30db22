"""Greedy (or seeded) generation on the resident model, with the outcomes of lm-eval's `generate_until`.

Prompts are left-padded; a row is finished as soon as its text holds a stop, so a batch ends with its last answer and
not at the token limit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from mergeopt.scoring.base import NonFiniteError
from mergeopt.scoring.encoding import Encoder, Generation
from mergeopt.scoring.forward import Batching

SAMPLING_SEED = 1234


class _Stop(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped
    """Marks the rows whose generated text holds a stop.

    Text is only decoded for rows whose newest token could end a stop; a stop strictly inside a longer one is left to
    the final cut, because the longer one begins earlier and is not whole yet.
    """

    def __init__(self, encoder: Encoder, generation: Generation, start: int, rows: int, may_end: Tensor | None) -> None:
        stops = generation.stops
        self._stops = [s for s in stops if not any(s in other[1:-1] for other in stops)]
        self._encoder, self._start, self._may_end = encoder, start, may_end
        self._done = [False] * rows
        self.ends: list[int | None] = [None] * rows  # how many generated tokens lead to the stop, and through it

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        del scores, kwargs
        newest = input_ids[:, -1]
        rows = range(len(newest)) if self._may_end is None else self._may_end[newest].nonzero()[:, 0].tolist()
        for row in rows:
            if not self._done[row]:
                text = self._encoder.decode(input_ids[row, self._start :].tolist())
                self._done[row] = any(stop in text for stop in self._stops)
                self.ends[row] = input_ids.shape[1] - self._start if self._done[row] else None
        return torch.tensor(self._done, device=input_ids.device)


class _Finite(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Remembers whether any logits were NaN or +Inf, without waiting for the device."""

    def __init__(self) -> None:
        self.worst: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        top = scores.amax().float()  # amax hands NaN on
        self.worst = top if self.worst is None else torch.maximum(self.worst, top)
        return scores


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """The same random numbers every time; the process's own random state stays as it is."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Generator:
    """Generates with one model and tokenizer; knows which tokens can end which stops."""

    def __init__(self, model: PreTrainedModel, encoder: Encoder, batching: Batching) -> None:
        self._model, self._encoder, self._batching = model, encoder, batching
        self._tables: dict[tuple[str, ...], Tensor | None] = {}

    @torch.inference_mode()
    def run(self, prompts: Sequence[list[int]], generation: Generation) -> tuple[list[str], int]:
        """The answer to each prompt (text up to the first stop), and how many tokens went through the model.

        Raises:
            NonFiniteError: The model computed NaN or Inf.
        """
        answers, used = [""] * len(prompts), sum(map(len, prompts))
        for group in self._groups(prompts, generation):
            made, _ = self._generate([prompts[i] for i in group], generation, SAMPLING_SEED)
            for position, tokens in zip(group, made, strict=True):
                answers[position] = self._encoder.answer(tokens, generation)
                used += len(tokens)
        return answers, used

    @torch.inference_mode()
    def tokens(
        self, prompts: Sequence[list[int]], generation: Generation, *, seed: int = SAMPLING_SEED
    ) -> list[list[int]]:
        """The tokens of each answer, through the one that ends it (its stop or EOS), or all that were allowed.

        Args:
            prompts: Tokens to continue; where answers are sampled, equal prompts get different answers.
            generation: How.
            seed: Of sampled answers, with the number of the batch.

        Raises:
            NonFiniteError: The model computed NaN or Inf.
        """
        answers: list[list[int]] = [[]] * len(prompts)
        for number, group in enumerate(self._groups(prompts, generation)):
            made, ends = self._generate(
                [prompts[i] for i in group], generation, (seed * 1_000_003 + number) % (1 << 63)
            )
            for position, tokens, end in zip(group, made, ends, strict=True):
                answers[position] = tokens[:end]
        return answers

    def _groups(self, prompts: Sequence[list[int]], generation: Generation) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i]))
        return self._batching.split(order, lambda i: len(prompts[i]) + generation.max_tokens)

    def _generate(
        self, prompts: Sequence[list[int]], generation: Generation, seed: int
    ) -> tuple[list[list[int]], list[int]]:
        """The new tokens of a batch, padded to one length, and how many of each row are its answer."""
        width, device = max(map(len, prompts)), self._model.device
        pad = self._encoder.pad_id
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        finite = _Finite()
        stop = _Stop(self._encoder, generation, width, len(prompts), self._may_end(generation.stops))
        stops = StoppingCriteriaList()
        if int(generation.options.get("num_beams") or 1) == 1:  # rows of beams change places: they run to their end
            stops.append(stop)
        options = dict(generation.options)
        if self._model.generation_config.eos_token_id is None:
            options["eos_token_id"] = self._encoder.tokenizer.eos_token_id
        with _own_randomness(device, seed) if options.get("do_sample") else nullcontext():
            made = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_length=width + generation.max_tokens,
                stopping_criteria=stops,
                logits_processor=LogitsProcessorList([finite]),
                pad_token_id=pad,
                use_cache=True,
                **options,
            )
        if finite.worst is not None and not bool(torch.isfinite(finite.worst)):
            raise NonFiniteError("the model computed NaN or Inf")
        new: list[list[int]] = made[:, width:].tolist()
        eos = options.get("eos_token_id", self._model.generation_config.eos_token_id)
        ending = {eos} if isinstance(eos, int) else set(eos or ())
        first_eos = (next((i + 1 for i, t in enumerate(row) if t in ending), len(row)) for row in new)
        return new, [min(by_eos, end or by_eos) for by_eos, end in zip(first_eos, stop.ends, strict=True)]

    def _may_end(self, stops: tuple[str, ...]) -> Tensor | None:
        """[V] bool: could this token be the last of a stop? None where one token's text cannot tell."""
        if stops not in self._tables:
            last = {stop[-1] for stop in stops}
            if all(c.isascii() and c != " " for c in last):
                tokenizer = self._encoder.tokenizer
                vocabulary = max(len(tokenizer), self._model.get_input_embeddings().weight.shape[0])
                texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
                hits = [bool(last & set(text)) for text in texts]
                hits += [True] * (vocabulary - len(hits))
                self._tables[stops] = torch.tensor(hits, device=self._model.device)
            else:
                self._tables[stops] = None
        return self._tables[stops]
