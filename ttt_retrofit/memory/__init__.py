"""Memories: what they are (`memory`), where they attach (`projections`), how several speak at once (`chorus`).

Their versions on disk are in `store`, their exchange with PEFT in `lora`. Nothing here knows how a memory is made.
"""

from .config import MemoryConfig
from .entry import Entry
from .memory import Memory

__all__ = ["Entry", "Memory", "MemoryConfig"]
