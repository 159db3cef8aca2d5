"""Memories: what they are (`memory`), where they attach (`projections`), and what they add to a forward.

Those of a batch are stacked by `collate`; `batch` adds them by hooks, as far as `gates` are open. Their versions on
disk are in `store`, their exchange with PEFT in `lora`. Nothing here knows how a memory is made.
"""

from .config import MemoryConfig
from .entry import Entry
from .memory import Memory

__all__ = ["Entry", "Memory", "MemoryConfig"]
