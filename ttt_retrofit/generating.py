"""`GenerateMixin`: transformers' `generate` for a model that learns.

It goes on from a `TTTCache`, and closes the doors that cannot be right for such a model. Sampling, beams and streaming
are transformers' own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

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
        return inputs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any
    ) -> None:
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
