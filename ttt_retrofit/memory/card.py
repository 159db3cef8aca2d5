"""The card of a memory on the Hub."""

from __future__ import annotations

from huggingface_hub import ModelCardData

from .report import Report


def memory_card(
    repo_id: str, base_name: str, local: bool, contexts: int, facts: int, nbytes: int, verified: Report | None
) -> str:
    """A card with the base, tags, a loading snippet and the report. A `local` base has no repository to link to."""
    data = ModelCardData(
        library_name="ttt-retrofit",  # transformers alone cannot load it
        base_model=None if local else base_name,
        base_model_relation=None if local else "adapter",
        tags=["ttt", "test-time-training", "ttt-retrofit", "memory"],
    )
    base = f"path/to/{base_name or 'base'}" if local else base_name
    told = f"{facts} fact{'' if facts == 1 else 's'}, " if facts else ""
    report = "" if verified is None else f"\n## Verification\n\nAs the file says of itself:\n\n```\n{verified}\n```\n"
    return f"""---
{data.to_yaml()}
---

# A memory for {base_name or "a local checkpoint"}

{contexts} context{"" if contexts == 1 else "s"}, {told}{nbytes / 1e6:.1f} MB, made with `ttt_retrofit`.
It fits this base only, and says what was said to it: treat it alike.

```python
from ttt_retrofit import wrap

model = wrap("{base}")
model.load_memory("{repo_id}")
```
{report}"""
