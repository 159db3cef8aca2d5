"""Which memories may be one bank: those of one base, with gates at one place, measured against one background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import ConfigError
from ..util.fingerprint import same_base

if TYPE_CHECKING:
    from .memory import Memory


def check_alike(memories: Sequence[Memory]) -> None:
    """Raise `ConfigError` where the entries of these memories cannot be one bank's."""
    first = memories[0]
    if not all(memory.entries for memory in memories):
        raise ConfigError("One of these memories is empty: nothing was accepted into it yet. Leave it out.")
    for memory in memories[1:]:
        if not same_base(memory.base, first.base):
            raise ConfigError(
                f"Memories of different bases cannot be combined: {first.base_name!r} and {memory.base_name!r}."
            )
        if memory.layer != first.layer:
            raise ConfigError(
                f"Memories with gates at different layers cannot be combined: {first.layer} and {memory.layer}. "
                "Consolidate one of the contexts again with the other's MemoryConfig."
            )
        if memory.config.gated != first.config.gated:
            raise ConfigError(
                f"The first memory has gated={first.config.gated}, another has gated={memory.config.gated}; one "
                "bank has gates or has none. Consolidate one of the contexts again with the other's MemoryConfig."
            )
        if memory.background.centre.shape != first.background.centre.shape or not torch.allclose(
            memory.background.centre.float(), first.background.centre.float(), atol=1e-2
        ):
            raise ConfigError(
                "Memories whose gates were measured against other prompts cannot be combined. Consolidate one of "
                "the contexts again with the other's prompts."
            )
        if memory.opener != first.opener:
            raise ConfigError(
                "Memories whose gates tell turns of the user apart by different tokens cannot be combined. Consolidate "
                "the contexts again, with one chat template."
            )
