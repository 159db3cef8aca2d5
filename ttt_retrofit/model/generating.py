"""`GenerateMixin`: transformers' `generate` for a model that learns.

It continues a `TTTCache`, ends rows that have no position left, and refuses modes that cannot be right for such a
model. Sampling, beams and streaming are transformers' own.
B rows, T tokens of a call, L tokens so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from ..config import TTTConfig
from ..errors import InputError, UnsupportedModelError
from ..memory.memory import Memory
from ..streaming.cache import TTTCache
from ..streaming.inputs import check_begins
from ..util.given import check_ids

# The mixin stands before the family's class, from which it inherits everything it calls.
if TYPE_CHECKING:
    _Base = PreTrainedModel
else:
    _Base = object


class RowsThatEnd:
    """Where each row of a `generate` wrote its last word: what follows there is padding, whatever its mask says."""

    def __init__(self) -> None:
        self.last: Tensor | None = None  # (B,) the column of the last word; -1 while a row goes on

    def watch(self, criteria: StoppingCriteriaList) -> StoppingCriteriaList:
        return _Watched(criteria, self)

    def note(self, done: Tensor, columns: int) -> None:
        """done: (B,) bool, after so many columns."""
        last = torch.full_like(done, -1, dtype=torch.long) if self.last is None else self.last
        self.last = torch.where(done & (last < 0), columns - 1, last)

    def ended_columns(self, columns: int, new: int, mask: Tensor | None) -> dict[str, Tensor]:
        """What forward must know of `columns` tokens, the last `new` of them new. No mask (B, columns) is all ones."""
        # Where there is one row, nothing follows its last word.
        if self.last is None or len(self.last) == 1 or not bool((self.last >= 0).any()):
            return {}
        numbers = torch.arange(columns, device=self.last.device)
        ended = (self.last[:, None] >= 0) & (numbers >= self.last[:, None])
        mask = torch.ones_like(ended, dtype=torch.long) if mask is None else mask
        return {"attention_mask": mask.masked_fill(ended, 0), "ended": ended[:, -new:]}


class _Watched(StoppingCriteriaList):
    """Criteria that tell which rows they have stopped."""

    def __init__(self, criteria: StoppingCriteriaList, rows: RowsThatEnd) -> None:
        super().__init__(criteria)
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        done: Tensor = super().__call__(input_ids, scores, **kwargs)
        self._rows.note(done, input_ids.shape[1])
        return done


# Among the arguments of one `generate`, which it hands to `prepare_inputs_for_generation`: transformers tells forward
# nothing of the rows that have ended. It is about many forwards, and so no part of a `ForwardContext`.
ROWS = "rows_that_end"


class GenerateMixin(_Base):
    """What a converted model gains for `generate`."""

    _is_stateful = True  # transformers then refuses assisted decoding, which would have to take updates back

    ttt: TTTConfig

    def new_cache(self) -> TTTCache:
        raise NotImplementedError

    def own_cache(self, cache: Any) -> TTTCache:
        raise NotImplementedError

    @property
    def longest(self) -> int | None:
        raise NotImplementedError

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`. With `past_key_values`, `inputs` are all tokens, including those already read.

        Raises
        ------
        InputError
            When the cache has already read all of them, or has read other tokens; for a text, messages, or a batch
            that is not unpacked.
        """
        ids, cache = kwargs.get("input_ids") if inputs is None else inputs, kwargs.get("past_key_values")
        check_ids(ids, "model.generate")
        if isinstance(cache, TTTCache) and isinstance(ids, Tensor):
            given, mask = ids.shape[-1], kwargs.get("attention_mask")
            whole = mask is None or mask.shape == ids.shape  # else new tokens alone, under a mask of all
            if whole and cache.columns >= given:
                raise InputError(
                    f"The cache has read {cache.columns} tokens and generate() was given {given}, padding included: "
                    "there is none left to go on from. Give all that was read and at least one token more; read all "
                    "but the last, such as model.read(ids[:, :-1])."
                )
        family: Any = super()
        return family.generate(inputs, *args, **kwargs)

    def _get_stopping_criteria(self, generation_config: Any, *args: Any, **kwargs: Any) -> StoppingCriteriaList:
        family: Any = super()
        criteria: StoppingCriteriaList = family._get_stopping_criteria(generation_config, *args, **kwargs)
        if self.longest is not None:
            criteria.append(_NoPositionLeft(self.longest, generation_config))
        return criteria if generation_config.num_beams > 1 else generation_config._rows.watch(criteria)

    def _prefill(self, input_ids: Tensor, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any) -> Any:
        cache, mask = model_kwargs.get("past_key_values"), model_kwargs.get("attention_mask")
        # transformers drops a mask of ones, and notes how wide it was.
        width = vars(generation_config).get("_mask_length") if mask is None else mask.shape[1]
        if isinstance(cache, TTTCache) and width == input_ids.shape[1]:
            check_begins(cache, input_ids, torch.ones_like(input_ids) if mask is None else mask)
        family: Any = super()
        return family._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, *args: Any, memories: Any = None, **kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """transformers', which repeats tensors for beams; memories are repeated with them."""
        if memories is not None:
            each = not isinstance(memories, Memory)
            kwargs["memories"] = [memory for memory in memories for _ in range(expand_size)] if each else memories
        family: Any = super()
        return family._expand_inputs_for_generation(expand_size, *args, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict:
        rows = kwargs.pop(ROWS, None)
        family: Any = super()
        inputs = family.prepare_inputs_for_generation(input_ids, *args, is_first_iteration=is_first_iteration, **kwargs)
        if inputs.get("past_key_values") is not kwargs.get("past_key_values"):
            # Families whose rotary frequencies change would read all anew; here they stay, and no state is dropped.
            plain: Any = GenerationMixin.prepare_inputs_for_generation
            inputs = plain(self, input_ids, *args, is_first_iteration=is_first_iteration, **kwargs)
        if rows is not None and not is_first_iteration:
            inputs |= rows.ended_columns(input_ids.shape[1], inputs["input_ids"].shape[1], inputs.get("attention_mask"))
        if (kwargs.get("learn_from") or self.ttt.learn_from) == "prompt" and not is_first_iteration:
            inputs["learn_from"] = "none"
        if self.longest is not None and not is_first_iteration:
            _silence(inputs, self.longest)
        return inputs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any
    ) -> None:
        # On this call's own copy of the settings, as transformers does: another thread may be generating.
        generation_config._positions = model_kwargs["position_ids"]
        generation_config._rows = model_kwargs[ROWS] = RowsThatEnd()
        implementation = generation_config.cache_implementation
        if implementation not in (None, "dynamic"):
            raise UnsupportedModelError(
                f"cache_implementation={implementation!r} has no place for fast weights. Leave it unset: the TTTCache "
                "is already of constant size."
            )
        if model_kwargs.get("past_key_values") is not None:
            self.own_cache(model_kwargs["past_key_values"])
            family: Any = super()
            family._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        elif generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = self.new_cache()
        elif (model_kwargs.get("learn_from") or self.ttt.learn_from) == "prompt":
            raise UnsupportedModelError(
                "use_cache=False reads everything anew for each token, and only the first time would what is read be "
                "the prompt. Leave use_cache on, or use learn_from='all' or 'none'."
            )

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedModelError(
            "Continuous batching keeps keys and values in pages shared by all requests, with no place for each "
            "request's fast weights. Use generate() with a padded batch."
        )

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        return self.init_continuous_batching()


class _NoPositionLeft(StoppingCriteria):
    """Ends the rows whose last token stands where no position was learned: it can be written, but not read."""

    def __init__(self, learned: int, generation_config: Any) -> None:
        self.learned = learned
        self.last: Tensor = generation_config._positions[:, -1]  # (B,) of the prompts
        self.prompt: int = generation_config._positions.shape[1]
        if generation_config._pad_token_tensor is not None:
            # With this name transformers pads the rows that have ended, as it does after the end of a text.
            self.eos_token_id = generation_config._eos_token_tensor

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """input_ids: (B, L), or several candidates of each row with beams."""
        rows = input_ids.shape[0]
        last = self.last.repeat_interleave(rows // len(self.last)).to(input_ids.device)
        return last + (input_ids.shape[1] - self.prompt) >= self.learned


def _silence(inputs: dict[str, Any], learned: int) -> None:
    """Make padding of what stands behind the learned positions, in rows that have ended while others go on."""
    ids, positions, mask = inputs["input_ids"], inputs["position_ids"], inputs.get("attention_mask")
    beyond = positions[:, -1:] - learned + 1  # (B or 1, 1) columns, where positive
    if bool((beyond > 0).any()):
        before = inputs["past_key_values"].columns if inputs.get("past_key_values") is not None else 0
        mask = ids.new_ones(ids.shape[0], before + ids.shape[1]) if mask is None else mask
        columns = torch.arange(mask.shape[1], device=mask.device)
        inputs["attention_mask"] = mask.masked_fill(columns >= mask.shape[1] - beyond, 0)
        inputs["position_ids"] = positions.masked_fill(positions >= learned, 0)
