"""Memories: entries of low-rank weights behind gates, what they add to a forward, their files and exports.

`memory` is the bank and `projections` where it attaches. `collate` stacks those of a batch, and `batch` adds them by
hooks, as far as `gates` are open. `store` has the versions on disk, `lora` the exchange with PEFT. Nothing here knows
how a memory is made.
"""

from .config import MemoryConfig
from .entry import Entry
from .memory import Memory

__all__ = ["Entry", "Memory", "MemoryConfig"]
