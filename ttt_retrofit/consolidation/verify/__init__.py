"""Whether a memory knows what it was taught, and nothing else.

`verification` asks after a consolidation, `deletion` after a fact was deleted; `traces` searches for what must be gone.
"""
