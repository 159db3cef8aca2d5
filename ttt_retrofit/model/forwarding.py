"""`ForwardMixin`: one call of a converted model, and reading a whole context.

A call's way is check, align, read, collect: `streaming.call` goes it, and this says what the model has to do with it.
B batch rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import logging

from ..config import LearnFrom, TTTConfig
from ..errors import InputError
from ..inner import layer
from ..inner.discovery import Site
from ..inner.fast_weights import FastWeights
from ..inner.learning import Outer, attach_parameters
from ..memory import Memory
from ..streaming import call, inputs, packed
from ..streaming.cache import TTTCache
from ..streaming.captured import Latest, RingReader, surroundings
from ..streaming.reading import Settings
from ..util.fingerprint import fingerprint, same_base
from ..util.given import check_text_or_ids, check_tokenizer
from ..util.inference import outside_inference_mode
from ..util.texts import text_ids
from . import backbone
from .remembering import MemoryMixin

ADAPTER_NAMES = "adapter_names"  # of each row, as PEFT hands them to its layers, by hooks


class ForwardMixin(MemoryMixin):
    """Calling and reading."""

    _base_class: type[PreTrainedModel]
    _identity: str  # of the model in memory
    _rematerialise: bool  # whether each chunk is recomputed in the backward pass
    _places: list[Site]
    _latest: Latest  # ring
    _reach: int | None  # how far apart two tokens may be, where rotary frequencies would change beyond
    ttt: TTTConfig
    kind: FastWeights
    learned_positions: int | None

    static_shapes: bool = False
    """Whether, behind a full window, keys and values stay in a ring, so that all shapes are the same from chunk to
    chunk, and from token to token. On CUDA a chunk, its step and a token are then one graph each. The results are the
    same to rounding. Off by default, since no graph has been recorded on a GPU yet."""

    def check_bound(self) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------------ what reading needs

    @property
    def sites(self) -> list[layer.TTTSite]:
        """What is stored for each place of fast weights, in forward order."""
        return [layer.active_site(self, place) for place in self._places]

    @property
    def device(self) -> torch.device:
        """Where it computes; transformers' is "meta" for one that accelerate has offloaded whole."""
        device = super().device
        hook = vars(self.get_input_embeddings()).get("_hf_hook") if device.type == "meta" else None
        return device if hook is None or hook.execution_device is None else torch.device(hook.execution_device)

    @property
    def vocabulary_size(self) -> int:
        return self.config.get_text_config(decoder=True).vocab_size

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.dtype

    @property
    def trained_length(self) -> int | None:
        text = self.config.get_text_config(decoder=True)
        return None if self.learned_positions else self._reach or getattr(text, "max_position_embeddings", None)

    @property
    def longest(self) -> int | None:
        """The tokens that a conversation may hold, None for any number."""
        if self.learned_positions is not None:
            return self.learned_positions
        return self._reach if self._reach is not None and self._reach <= self.ttt.reach else None

    def embeddings_of(self, ids: Tensor) -> Tensor:
        """What the family's forward makes of token ids first."""
        return self.get_input_embeddings()(ids)

    def base_forward(self, **kwargs: Any) -> Any:
        """The family's own forward, of one segment."""
        return backbone.forward_of_segment(self, kwargs)

    @contextmanager
    def only(self, rows: list[int]) -> Iterator[None]:
        """Within it, forwards are of these rows of the batch: PEFT's `adapter_names` are told of theirs alone."""
        hooks = [hook for module in self.modules() for hook in module._forward_pre_hooks.values()]
        named = [hook.keywords for hook in hooks if isinstance(hook, partial) and ADAPTER_NAMES in hook.keywords]
        before = [keywords[ADAPTER_NAMES] for keywords in named]
        try:
            for keywords, names in zip(named, before):
                keywords[ADAPTER_NAMES] = [names[row] for row in rows]
            yield
        finally:
            for keywords, names in zip(named, before):
                keywords[ADAPTER_NAMES] = names

    # ------------------------------------------------------------------ calling and reading

    @outside_inference_mode
    def ttt_forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: TTTCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        learn_from: LearnFrom | None = None,
        memories: Memory | Sequence[Memory | None] | None = None,
        return_dict: bool | None = None,
        ended: Tensor | None = None,
        hidden_of: int | None = None,
        on_segment: Callable[[int], None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The family's signature, read chunk by chunk. Logits (B, T, V) are those before each chunk's update.

        `memories` gives one memory (or None) for each row, or one for all rows. By default the loaded memory is active
        in all rows.

        Three more are the library's own. `ended` (B, T) marks what `generate` writes into rows after their last word.
        `hidden_of` is a backbone whose output is wanted in place of the logits, as in `ForwardContext`. `on_segment` is
        told after every segment how many columns have been read, and the output is then the cache alone.

        After an interruption the cache has read some of the tokens or none: continue from `cache.get_seq_length()`.

        Raises
        ------
        InputError
            For inputs that are not token ids, a cache of another kind or batch, or a mask that contradicts what the
            cache has read.
        """
        for_loss = {str(name): kwargs.pop(name) for name in ("num_items_in_batch", "shift_labels") if name in kwargs}
        cache = self.new_cache() if past_key_values is None else self.own_cache(past_key_values)
        checked = call.check(
            cache, input_ids, attention_mask, position_ids, ended, learn_from, self.vocabulary_size, kwargs
        )
        spans = packed.documents(checked, alone=use_cache is False)
        if spans is not None:
            inputs.check_new(cache)
            kwargs |= {"learn_from": learn_from, "use_cache": use_cache, "hidden_of": hidden_of}
            output = packed.read_apart(self.ttt_forward, checked, spans, memories, logits_to_keep, **kwargs)
            return self._returned(output, labels, None, for_loss, return_dict)

        learn = (learn_from or self.ttt.learn_from) != "none"
        aligned = checked.align(cache, learn)
        self._check_length(cache, aligned.counts)
        inputs.check_outputs(kwargs, self.config.get_text_config(decoder=True), aligned.together, aligned.whole, labels)

        # Keeping the last few columns of a ragged batch needs other places in every row: keep all, choose later.
        keep = logits_to_keep if isinstance(logits_to_keep, int) and (aligned.together or on_segment is not None) else 0
        settings = Settings(
            learn,
            self._outer(),
            memory=self.memory_batch_of(memories, len(checked.ids)),
            hidden_of=hidden_of,
            logits_to_keep=keep,
            family=kwargs,
            ring=self._ring_reader(),
        )
        segments = aligned.read(self, cache, settings)
        if on_segment is not None:
            for _ in segments:
                on_segment(cache.columns - aligned.before)
            return BaseModelOutputWithPast(past_key_values=cache)

        collected = call.Collector(aligned, logits_to_keep)
        for segment in segments:
            collected.add(segment)
        output = collected.output(cache.detach_() if use_cache is not False else None)
        if torch.is_grad_enabled():
            made = call.LAST if call.LAST in output else "logits"
            output[made] = attach_parameters(self, output[made])
        return self._returned(output, labels, checked.new, for_loss, return_dict)

    def _returned(
        self,
        output: Any,
        labels: Tensor | None,
        mask: Tensor | None,
        for_loss: dict[str, Any],
        return_dict: bool | None,
    ) -> Any:
        """The output of a call as it was asked for, with its loss in front."""
        if labels is not None:
            kept, counted = call.labels_after_padding(labels, mask)
            loss = self.loss_function(logits=output.logits, labels=kept, vocab_size=self.vocabulary_size, **for_loss)
            if for_loss.get("num_items_in_batch") is not None and "shift_labels" not in for_loss:
                loss = loss * counted
            output = type(output)(**{"loss": loss, **output})
        return output if return_dict is not False else output.to_tuple()

    def read(
        self,
        text_or_ids: str | list[int] | Tensor,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        add_special_tokens: bool | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: TTTCache | None = None,
        learn_from: LearnFrom | None = None,
        memories: Memory | Sequence[Memory | None] | None = None,
        progress: bool | Callable[[int], None] = False,
    ) -> TTTCache:
        """Run the inner loop over a context and keep only the state. Memory is constant in the length of the context.

        Parameters
        ----------
        text_or_ids : text, a list of token ids, or ids (T,) or (B, T).
        tokenizer : for text. Default: the tokenizer of the model's name.
        add_special_tokens : for text. By default, what the tokenizer puts before a text (such as BOS) is added once, at
            the start of a conversation. A text that continues a cache gets none, and nothing (such as EOS) is added
            after a text. True applies the tokenizer's own rule at every call, False adds none.
        past_key_values : a cache to continue.
        memories : as in `forward`. What is learned while reading adds to them.
        progress : True shows a progress bar; a function is called with the number of tokens just read.

        Returns
        -------
        TTTCache, to pass on as `past_key_values`. See its `loss_by_chunk`, `tokens_seen` and `nbytes`.

        Raises
        ------
        InputError
            For an empty context, a single token with nothing before it (nothing can be learned from it), and whatever
            `forward` refuses. Nothing has been read then.
        """
        begins = not isinstance(past_key_values, TTTCache) or past_key_values.columns == 0
        ids = self._to_ids(text_or_ids, tokenizer, add_special_tokens, begins)
        if ids.shape[1] == 0 or (past_key_values is None and ids.shape[1] == 1):
            raise InputError(
                f"read() was given {ids.shape[1]} token{'s' * (ids.shape[1] != 1)}, expected at least 2: the inner "
                "loss is on the next token. Check that the text is not empty."
            )
        bar = logging.tqdm(total=ids.shape[1], unit="tok", disable=progress is not True)
        read = 0

        def tell(columns: int) -> None:
            """columns: of the context, that have been read so far."""
            nonlocal read
            new, read = columns - read, columns
            bar.update(new)
            if callable(progress):
                progress(new)

        with torch.no_grad(), bar:
            outputs = self(
                input_ids=ids,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                learn_from=learn_from,
                memories=memories,
                use_cache=True,
                logits_to_keep=1,
                on_segment=tell,
            )
        cache: TTTCache = outputs.past_key_values
        return cache

    def new_cache(self) -> TTTCache:
        """An empty cache for this model."""
        cache = self.passing_cache()
        cache.base = self._weights_name()
        return cache

    def passing_cache(self) -> TTTCache:
        """An empty cache that is never saved, so that the weights need not be read to name their base.

        In training they change with every step, and a process may hold a part of them only.
        """
        layer.check_modules(self)
        self.check_bound()
        cache = TTTCache(self.config, self.ttt, "")
        cache.owner = self._identity
        return cache

    def own_cache(self, cache: Any) -> TTTCache:
        """A cache that this model can continue: its own, or that of a model with the same weights."""
        checked = inputs.checked_cache(cache, self.ttt)
        self.check_bound()
        if checked.owner != self._identity:
            if not same_base(checked.base, self._weights_name()):
                raise InputError("The cache was made by a model with other weights. Read the context with this one.")
            checked.owner = self._identity
        return checked

    def _weights_name(self) -> str:
        """A fingerprint of the base; with that of what its fast weights act on, where that is not in the cache."""
        return fingerprint(self) + layer.fixed_digest(self.sites)

    def _outer(self) -> Outer:
        record = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        return Outer(record=record, rematerialise=self._rematerialise and self.training)

    def _ring_reader(self) -> RingReader | None:
        attention = self.config.get_text_config(decoder=True)._attn_implementation
        # FlashAttention takes tokens in their order; under autocast keys may come in another dtype than those before.
        if (
            not self.static_shapes
            or attention == "ttt_flash_attention_2"
            or torch.is_autocast_enabled(self.device.type)
        ):
            return None
        found = surroundings(self, self.device)
        return RingReader(None if found is None else (*found, self.ttt, attention), self._latest)

    def _to_ids(
        self,
        text_or_ids: str | list[int] | Tensor,
        tokenizer: PreTrainedTokenizerBase | None,
        add_special_tokens: bool | None,
        begins: bool,
    ) -> Tensor:
        check_text_or_ids(text_or_ids)
        check_tokenizer(tokenizer)
        if isinstance(text_or_ids, str):
            tokenizer = tokenizer or self._own_tokenizer()
            if add_special_tokens is None:
                text_or_ids = text_ids(tokenizer, text_or_ids, begins=begins)
            else:
                text_or_ids = list(tokenizer(text_or_ids, add_special_tokens=add_special_tokens).input_ids)
        elif add_special_tokens is not None:
            raise InputError(
                f"add_special_tokens={add_special_tokens} is for a text, and read() was given a "
                f"{type(text_or_ids).__name__}. Token ids are read as they are: leave it out."
            )
        try:
            ids = torch.as_tensor(text_or_ids, device=self.device)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"read() was given a {type(text_or_ids).__name__} that is no table of token ids: {error}. Give one "
                "text, or rows of ids of one length, padded with attention_mask=."
            ) from error
        if ids.numel() == 0:
            ids = ids.long()
        return ids[None] if ids.ndim == 1 else ids

    def _own_tokenizer(self) -> PreTrainedTokenizerBase:
        if not self.name_or_path:
            raise InputError(
                "No tokenizer was found for this model, which names no checkpoint that it comes from. Pass tokenizer=."
            )
        try:
            return AutoTokenizer.from_pretrained(self.name_or_path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"No tokenizer was found for {self.name_or_path!r}. Pass tokenizer=, or to read() token ids."
            ) from error

    def _check_length(self, cache: TTTCache, counts: list[int]) -> None:
        """counts: new tokens, by row."""
        tokens = max(read + new for read, new in zip(cache.counts or [0] * len(counts), counts))
        if self.longest is None or tokens <= self.longest:
            return
        if self.learned_positions is not None:
            raise InputError(
                f"{tokens} tokens are more than the {self.longest} positions {self._base_class.__name__} has learned; "
                "it cannot read further. Use a model with rotary positions for longer contexts."
            )
        raise InputError(
            f"{tokens} tokens are more than the {self.longest} that {self._base_class.__name__} reads with one set of "
            "rotary frequencies. Beyond, it would change them for what it has read already. Read under a window, with "
            f"sliding_window + chunk_size + sink_tokens below {self.longest}: found {self.ttt.sliding_window}, "
            f"{self.ttt.chunk_size} and {self.ttt.sink_tokens}."
        )
