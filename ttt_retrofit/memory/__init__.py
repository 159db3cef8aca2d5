"""Memories: entries of low-rank weights behind gates, what they add to a forward, their files and exports.

`memory` is the bank, `projections` where it attaches, `collate` how the entries of a batch act at once, `store` the
versions on disk, `lora` the exchange with PEFT. Nothing here knows how a memory is made.
"""

from .config import MemoryConfig
from .entry import Entry
from .memory import Memory

__all__ = ["Entry", "Memory", "MemoryConfig"]
