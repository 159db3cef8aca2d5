"""The model as a writer and as a teacher: batches of greedy answers, with the logits it was sure of.

B prompts, P tokens of a prompt, N tokens of an answer, V vocabulary, K kept logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    Cache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ..util.texts import end_tokens
from .prefix_cache import PrefixCache, worth_sharing

# Of so many answers, those that have ended leave the batch when they are half of it.
MANY = 8


@dataclass(frozen=True)
class Answer:
    """What was written after one prompt."""

    ids: tuple[int, ...]  # N, the token that ends the answer included if it came
    indices: Tensor  # (N, K) int32
    logprobs: Tensor  # (N, K) float16

    @classmethod
    def certain(cls, ids: Sequence[int]) -> Answer:
        """One whose every token is sure: K is 1."""
        indices = torch.tensor(ids, dtype=torch.int32, device="cpu")[:, None]
        return cls(tuple(ids), indices, torch.zeros(len(ids), 1, dtype=torch.float16, device="cpu"))


class _KeepLogits(LogitsProcessor):
    """Notes the likeliest tokens of every step, so that no second forward is needed for them."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.steps: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logprobs, indices = scores.float().log_softmax(-1).topk(min(self.kept, scores.shape[-1]))
        self.steps.append((indices.int().cpu(), logprobs.half().cpu()))
        return scores


class _Gumbel(LogitsProcessor):
    """Sampling as the largest of noisy logits (Gumbel-max), with noise of its own.

    The global generator is left alone: someone else may be sampling from the same model at the same time.
    """

    def __init__(self, temperature: float, seed: int) -> None:
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.rand(scores.shape, generator=self.generator, device="cpu").clamp_min(1e-20)
        return scores.float() / self.temperature - (-uniform.log()).log().to(scores.device)


class _Never(LogitsProcessor):
    """Leaves out tokens, of each row its own."""

    def __init__(self, rows: Sequence[Collection[int]]) -> None:
        self.rows = [row for row, tokens in enumerate(rows) for _ in tokens]
        self.tokens = [token for tokens in rows for token in tokens]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[self.rows, self.tokens] = -torch.inf
        return scores


class _Check(StoppingCriteria):
    """Lets the caller raise between two tokens, and stops where all rows have ended or, of many, half of them."""

    def __init__(self, check: Callable[[], None], ends: set[int], rows: int) -> None:
        self.check, self.ends = check, ends
        self.ended = [False] * rows

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        self.check()
        last, rows = input_ids[:, -1].tolist(), len(self.ended)
        self.ended = [ended or token in self.ends for ended, token in zip(self.ended, last)]
        stop = all(self.ended) or (rows >= MANY and 2 * sum(self.ended) >= rows)
        return torch.full((rows,), stop, device=input_ids.device)


def one_after_the_other(indices: Sequence[Tensor], logprobs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(N, K) of all answers; those that keep fewer tokens are filled up with such as have no probability."""
    most = max(kept.shape[1] for kept in indices)
    return (
        torch.cat([F.pad(kept, (0, most - kept.shape[1])) for kept in indices]),
        torch.cat([F.pad(kept, (0, most - kept.shape[1]), value=-torch.inf) for kept in logprobs]),
    )


class Writer:
    """Greedy answers of a model to batches of prompts."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        check: Callable[[], None] = lambda: None,
        cache: Callable[[], Any] | None = None,
        **forwarded: Any,
    ) -> None:
        """`cache` makes an empty one for the model; `forwarded` goes to every forward, such as memories."""
        self.model, self.tokenizer, self.check = model, tokenizer, check
        self.cache = cache
        self.forwarded = forwarded
        self.prefixes = PrefixCache(model)  # of a model that carries nothing from one prompt to the next
        self.tokens = 0  # processed so far
        self.ends = end_tokens(model, tokenizer)

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        longest: int,
        batch: int = 32,
        kept: int = 20,
        line: bool = False,
        temperature: float = 0.0,
        seed: int = 0,
        never: Sequence[Collection[int]] = (),
    ) -> list[Answer]:
        """The continuation of every prompt, at most `longest` tokens; greedy at temperature 0.

        Parameters
        ----------
        line : end an answer at its first line break, as models without a chat template need it.
        never : for every prompt, the tokens that its answer does not have.
        """
        noise = [_Gumbel(temperature, seed)] if temperature > 0 else []
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            shut = [never[index] for index in chosen] if never else []
            found = self._batch([list(prompts[index]) for index in chosen], longest, kept, line, shut, noise)
            answers |= dict(zip(chosen, found))
        return [answers[index] for index in range(len(prompts))]

    @torch.no_grad()
    def scored(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], batch: int = 32, kept: int = 20
    ) -> list[Answer]:
        """Answers of somebody else, with this model's logits. A token that is not the likeliest for it is certain."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]) + len(answers[index]))
        found: dict[int, Answer] = {}
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            some = self._scored([list(prompts[i]) for i in chosen], [list(answers[i]) for i in chosen], kept)
            found |= dict(zip(chosen, some))
        return [found[index] for index in range(len(prompts))]

    @torch.no_grad()
    def likelihoods(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], batch: int = 32
    ) -> list[Tensor]:
        """The log probability (N,) of every token of given answers, float32 on the CPU."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]) + len(answers[index]))
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            rows = self._read([list(prompts[i]) for i in chosen], [list(answers[i]) for i in chosen])
            for index, logprobs in zip(chosen, rows):
                given = torch.tensor(answers[index], device=logprobs.device)[:, None]
                found[index] = logprobs.gather(1, given)[:, 0].cpu()
        return [found[index] for index in range(len(prompts))]

    def text(self, answer: Answer) -> str:
        return str(self.tokenizer.decode(list(answer.ids), skip_special_tokens=True)).strip()

    def _batch(
        self,
        prompts: list[list[int]],
        longest: int,
        kept: int,
        line: bool,
        shut: list[Collection[int]],
        noise: list[_Gumbel],
    ) -> list[Answer]:
        self.check()
        model, device = self.model, self.model.device
        ends = self.ends | (self._line_breaks() if line else set())
        shared, cache = self._begun(prompts)
        width = max(len(prompt) for prompt in prompts)
        fill = next(iter(sorted(self.ends)), 0)
        # Padding stands between what all prompts share and what is their own.
        gaps = [width - len(prompt) for prompt in prompts]
        ids = torch.tensor([p[:shared] + [fill] * gap + p[shared:] for p, gap in zip(prompts, gaps)], device=device)
        mask = torch.tensor(
            [[1] * shared + [0] * gap + [1] * (len(p) - shared) for p, gap in zip(prompts, gaps)], device=device
        )
        if cache is not None and shared and len(prompts) > 1:
            cache.batch_repeat_interleave(len(prompts))
        processed = sum(len(prompt) - shared for prompt in prompts)
        rows = list(range(len(prompts)))  # that are still being written
        texts: list[list[int]] = [[] for _ in prompts]
        sure: list[list[tuple[Tensor, Tensor]]] = [[] for _ in prompts]  # (steps, K) each
        while rows:
            logits, stop = _KeepLogits(kept), _Check(self.check, ends, len(rows))
            never = [_Never([shut[row] for row in rows])] if shut else []
            written = model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                max_new_tokens=width + longest - ids.shape[1],
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=None,
                pad_token_id=fill,
                logits_processor=LogitsProcessorList([*never, logits, *noise]),
                stopping_criteria=StoppingCriteriaList([stop]),
                return_dict_in_generate=True,
                **self.forwarded,
            )
            ids, cache = written.sequences, written.past_key_values
            processed += len(rows) * len(logits.steps)
            indices, logprobs = (torch.stack(of_steps, 1) for of_steps in zip(*logits.steps))  # (rows, steps, K)
            for place, row in enumerate(rows):
                texts[row] = ids[place, width:].tolist()
                sure[row].append((indices[place], logprobs[place]))
            left = [place for place, ended in enumerate(stop.ended) if not ended]
            if ids.shape[1] - width >= longest or not left:
                break
            rows, kept_rows = [rows[place] for place in left], torch.tensor(left, device=device)
            cache.batch_select_indices(kept_rows)
            ids, mask = ids[kept_rows], F.pad(mask[kept_rows], (0, len(logits.steps)), value=1)
        self.tokens += processed
        return [_cut(text, noted, ends) for text, noted in zip(texts, sure)]

    def _begun(self, prompts: list[list[int]]) -> tuple[int, Cache | None]:
        """How many tokens all prompts begin with, and a cache that holds them."""
        if self.cache is None:
            before = self.prefixes.tokens
            begun = self.prefixes.begun(prompts)
            self.tokens += self.prefixes.tokens - before
            return begun
        shared = worth_sharing(prompts)
        if not shared:
            return 0, None
        cache = self.cache()
        ids = torch.tensor([prompts[0][:shared]], device=self.model.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **self.forwarded)
        self.tokens += shared
        return shared, cache

    def _scored(self, prompts: list[list[int]], answers: list[list[int]], kept: int) -> list[Answer]:
        return [
            _certain_where_unlikely(answer, logprobs, kept)
            for answer, logprobs in zip(answers, self._read(prompts, answers))
        ]

    def _read(self, prompts: list[list[int]], answers: list[list[int]]) -> Iterator[Tensor]:
        """Log probabilities (N, V), one row of answers after the other."""
        self.check()
        shared, cache = self._begun(prompts)
        texts = [prompt[shared:] + answer for prompt, answer in zip(prompts, answers)]
        width = max(map(len, texts))
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=self.model.device)
        mask = torch.tensor([[1] * (shared + len(t)) + [0] * (width - len(t)) for t in texts], device=self.model.device)
        if cache is not None and shared and len(prompts) > 1:
            cache.batch_repeat_interleave(len(prompts))
        hidden = self.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True,
            logits_to_keep=max(map(len, answers)) + width - min(map(len, texts)) + 1, **self.forwarded,
        ).logits  # fmt: skip
        self.tokens += sum(map(len, texts))
        first = width - hidden.shape[1]  # place of the first logits
        for row, (text, answer) in enumerate(zip(texts, answers)):
            before = len(text) - len(answer) - 1 - first
            yield hidden[row, before : before + len(answer)].float().log_softmax(-1)

    def _line_breaks(self) -> set[int]:
        texts = ("\n", ".\n", "?\n", "\n\n", ".\n\n", "?\n\n")
        found = {token for text in texts for token in self.tokenizer.encode(text, add_special_tokens=False)[-1:]}
        return {token for token in found if "\n" in self.tokenizer.decode([token])}


def _certain_where_unlikely(answer: list[int], logprobs: Tensor, kept: int) -> Answer:
    """An answer with the likeliest tokens (N, V) in each place; alone where another one would be likelier."""
    given = torch.tensor(answer, device=logprobs.device)
    values, indices = logprobs.topk(min(kept, logprobs.shape[-1]))
    other = indices[:, 0] != given
    indices[other, 0] = given[other]
    values[other] = -torch.inf
    values[other, 0] = 0.0
    return Answer(tuple(answer), indices.int().cpu(), values.half().cpu())


def _cut(text: list[int], sure: list[tuple[Tensor, Tensor]], ends: set[int]) -> Answer:
    """What was written up to the token that ends it."""
    length = next((n for n, token in enumerate(text) if token in ends), len(text) - 1) + 1
    indices, logprobs = (torch.cat(parts)[:length] for parts in zip(*sure))
    return Answer(tuple(text[:length]), indices, logprobs)
