"""The layers of a converted model called without its head, as TRL calls `model.base_model(...)` for a loss of its own.

Such a call would see no window, learn nothing and get nothing of a memory. So each module that stands between a model
and its list of layers becomes an instance of a class derived from its own, whose forward hands a call from outside to
the whole model, and gives back the hidden states that the head was given.
"""

from __future__ import annotations

import inspect
import weakref
from typing import Any

from transformers import PreTrainedModel

from ..errors import UnsupportedModelError
from ..inner.context import current
from ..inner.discovery import decoder_layers
from ..streaming.call import LAST
from .alike import AlikeMixin, records_alike

ADDED = ("learn_from", "memories")  # what forward and generate take over and above the family's
READER = "_ttt_reader"

_DERIVED: dict[type, type] = {}


class _Reader:
    """The model that a backbone belongs to, held weakly: one that nobody needs any more frees its memory at once."""

    def __init__(self, model: PreTrainedModel | None, depth: int) -> None:
        self.depth = depth  # 0 for the outermost backbone
        self._model = None if model is None else weakref.ref(model)

    @property
    def model(self) -> Any:
        return None if self._model is None else self._model()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Reader:
        """A backbone that is copied with its model belongs to the copy; one that is copied alone, to none."""
        return _Reader(memo.get(id(self.model)), self.depth)

    def __reduce__(self) -> tuple:
        return _Reader, (self.model, self.depth)


def forward_of_segment(model: Any, kwargs: dict[str, Any]) -> Any:
    """The family's forward; where hidden states are wanted, its output holds them too, (B, T, D)."""
    context = current()
    assert context is not None
    if context.hidden_of is None:
        return model._base_class.forward(model, **kwargs)
    kwargs.pop("logits_to_keep", None)  # Gemma 4 computes no other hidden states than those of the logits
    output = model._base_class.forward(model, **kwargs)
    output[LAST], context.hidden = context.hidden, None
    return output


class BackboneMixin(AlikeMixin):
    """Reads as the model it belongs to does."""

    def __reduce__(self) -> tuple:
        return _rebuilt, (self._base_class,), vars(self)


def _rebuilt(base: type[PreTrainedModel]) -> Any:
    """An empty instance, for pickle: classes made at run time cannot be found by their names."""
    return object.__new__(derived_backbone(base))


def derived_backbone(base: type[PreTrainedModel]) -> type:
    """`Qwen3Model` that reads; other libraries know it by the same name."""
    if base not in _DERIVED:
        members = {"__module__": __name__, "_base_class": base, "forward": _routed_forward(base)}
        _DERIVED[base] = type(base.__name__, (BackboneMixin, base), members)
        records_alike(_DERIVED[base], base)
    return _DERIVED[base]


def _routed_forward(base: type[PreTrainedModel]) -> Any:
    signature = inspect.signature(base.forward)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        reader: _Reader = vars(self)[READER]
        context = current()
        if context is not None:  # the model's own forward is running
            output = base.forward(self, *args, **kwargs)
            # OPT's head calls the decoder inside OPT's model, past the model itself, which would add nothing: what the
            # backbone that was called would call stands for it.
            if context.hidden_of is not None and context.hidden_of <= reader.depth:
                context.hidden = output[0]
            return output
        model = reader.model
        if model is None:
            raise UnsupportedModelError(
                f"This {base.__name__} is a part of a converted model that is no longer there, without which it cannot "
                "read. Keep the model, and call this as a part of it; unwrap() gives back the plain model."
            )
        own = {name: kwargs.pop(name, None) for name in ADDED}
        given = signature.bind(self, *args, **kwargs).arguments
        given |= given.pop("kwargs", {}) | own
        del given["self"]
        given.pop("logits_to_keep", None)  # of a loss that takes its logits from what is given back
        return model.ttt_forward(**given, hidden_of=reader.depth)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    forward.__doc__ = base.forward.__doc__
    return forward


def attach(model: PreTrainedModel) -> None:
    """Let every module between a model and its layers read when it is called on its own."""
    path, _ = decoder_layers(model)
    parts = path.split(".")[:-1]
    for depth in range(len(parts)):
        module = model.get_submodule(".".join(parts[: depth + 1]))
        if isinstance(module, PreTrainedModel):
            module.__class__ = derived_backbone(type(module))
            vars(module)[READER] = _Reader(model, depth)


def detach(model: PreTrainedModel) -> None:
    """The inverse of `attach`."""
    for module in model.modules():
        if isinstance(module, BackboneMixin):
            del vars(module)[READER]
            module.__class__ = module._base_class  # type: ignore[assignment]
