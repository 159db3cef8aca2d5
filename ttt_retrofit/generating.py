"""`GenerateMixin`: transformers' `generate` for a model that learns.

It goes on from a `TTTCache`, ends rows that have no learned position left, and closes the doors that cannot be right
for such a model. Sampling, beams and streaming are transformers' own.
B rows, T tokens of a call, L tokens so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from .cache import TTTCache
from .config import TTTConfig
from .errors import InputError, UnsupportedModelError
from .memory.memory import Memory

# The mixin stands before the family's class, from which it inherits everything it calls.
if TYPE_CHECKING:
    _Base = PreTrainedModel
else:
    _Base = object


class GenerateMixin(_Base):
    """What a converted model gains for `generate`."""

    _is_stateful = True  # transformers then refuses assisted decoding, which would have to take updates back

    ttt: TTTConfig
    learned_positions: int | None

    def new_cache(self) -> TTTCache:
        raise NotImplementedError

    def own_cache(self, cache: Any) -> TTTCache:
        raise NotImplementedError

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`. With `past_key_values`, `inputs` are all tokens, those that were read included.

        Raises
        ------
        InputError
            When the cache has read all of them, so that there is none to go on from.
        """
        ids, cache = kwargs.get("input_ids") if inputs is None else inputs, kwargs.get("past_key_values")
        if isinstance(cache, TTTCache) and isinstance(ids, Tensor):
            given = ids.shape[-1]
            if cache.columns >= given:
                raise InputError(
                    f"The cache has read {cache.columns} tokens and generate() was given {given}, padding included: "
                    "there is none left to go on from. Give all that was read and at least one token more; read all "
                    "but the last, such as model.read(ids[:, :-1])."
                )
        family: Any = super()
        return family.generate(inputs, *args, **kwargs)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, *args: Any, memories: Any = None, **kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """transformers', which repeats tensors for beams; memories are repeated with them."""
        if memories is not None:
            each = not isinstance(memories, Memory)
            kwargs["memories"] = [memory for memory in memories for _ in range(expand_size)] if each else memories
        family: Any = super()
        return family._expand_inputs_for_generation(expand_size, *args, **kwargs)

    def prepare_inputs_for_generation(self, *args: Any, is_first_iteration: bool | None = False, **kwargs: Any) -> dict:
        family: Any = super()
        inputs = family.prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if (kwargs.get("learn_from") or self.ttt.learn_from) == "prompt" and not is_first_iteration:
            inputs["learn_from"] = "none"
        if self.learned_positions is not None and not is_first_iteration:
            _silence(inputs, self.learned_positions)
        return inputs

    def _get_stopping_criteria(self, generation_config: Any, *args: Any, **kwargs: Any) -> StoppingCriteriaList:
        family: Any = super()
        criteria: StoppingCriteriaList = family._get_stopping_criteria(generation_config, *args, **kwargs)
        if self.learned_positions is not None:
            criteria.append(_NoPositionLeft(self.learned_positions, generation_config))
        return criteria

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any
    ) -> None:
        # On this call's own copy of the settings, as transformers does: another thread may be generating.
        generation_config._positions = model_kwargs["position_ids"]
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
                "the prompt. Leave use_cache on, or take learn_from='all' or 'none'."
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
    beyond = (positions >= learned).expand(ids.shape)  # (B, T)
    if bool(beyond.any()):
        before = inputs["past_key_values"].columns if inputs.get("past_key_values") is not None else 0
        mask = ids.new_ones(ids.shape[0], before + ids.shape[1]) if mask is None else mask
        new = mask[:, -ids.shape[1] :].masked_fill(beyond, 0)
        inputs["attention_mask"] = torch.cat([mask[:, : -ids.shape[1]], new], dim=1)
        inputs["position_ids"] = positions.masked_fill(positions >= learned, 0)
