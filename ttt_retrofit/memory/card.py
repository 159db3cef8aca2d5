"""The card of a memory on the Hub."""

from __future__ import annotations

from huggingface_hub import ModelCardData

from .report import Report


def memory_card(repo_id: str, base_name: str, local: bool, contexts: int, nbytes: int, verified: Report | None) -> str:
    """A card with the base, tags, a loading snippet and the report. A `local` base is no repository to link to."""
    data = ModelCardData(
        library_name="transformers",
        base_model=None if local else base_name,
        base_model_relation="adapter",
        tags=["ttt", "test-time-training", "ttt-retrofit", "memory"],
    )
    report = "" if verified is None else f"\n## Verification\n\n```\n{verified}\n```\n"
    return f"""---
{data.to_yaml()}
---

# A memory for {base_name or "a local checkpoint"}

{contexts} contexts, {nbytes / 1e6:.1f} MB, made with `ttt_retrofit`. It fits this base only, and says
what was said in those contexts: treat it like them.

```python
from ttt_retrofit import wrap

model = wrap("{base_name}")
model.load_memory("{repo_id}")
```
{report}"""
