"""What transformers decides by a class's module and source comes out for a derived class as for its base."""

from __future__ import annotations

from transformers import PreTrainedModel
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY


class AlikeMixin:
    """For classes that are derived at run time: they are where the base's code is, as far as transformers asks."""

    _base_class: type[PreTrainedModel]  # set on the derived class

    @classmethod
    def is_custom_code(cls) -> bool:
        """Whether the weights are renamed and merged while they are loaded and saved, as the base's are."""
        return cls._base_class.is_custom_code()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return cls._base_class._can_set_attn_implementation()

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return cls._base_class._can_set_experts_implementation()


def records_alike(derived: type[PreTrainedModel], base: type[PreTrainedModel]) -> None:
    """Let hidden states and attentions be asked of a derived class: transformers looks up by name which it can give."""
    _CAN_RECORD_REGISTRY.update({str(derived): base._can_record_outputs})
