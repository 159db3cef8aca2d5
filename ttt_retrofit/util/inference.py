"""Keeps inference mode out of what takes gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def outside_inference_mode(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that takes gradients, for callers in inference mode, whose tensors could never carry one."""

    def normal(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) and value.is_inference() else value

    @functools.wraps(function)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_inference_mode_enabled():
            return function(self, *args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(self, *map(normal, args), **{name: normal(value) for name, value in kwargs.items()})

    return called
