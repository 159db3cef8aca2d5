"""The new entry of a memory: what was learned, from what, and the facts of its context."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from ...memory.entry import Entry, Source
from ...memory.facts import Fact
from ...memory.memory import free_name
from ..config import ConsolidationConfig
from ..note_selection import scored_notes
from ..study.pieces import Context
from ..study.statements import superseded
from ..study.studied import Studied
from .distill import Leaves
from .plan import Plan

STORED = torch.bfloat16  # of a memory's weights


def new_entry(
    context: Context,
    config: ConsolidationConfig,
    tokenizer: PreTrainedTokenizerBase,
    studied: Studied,
    plan: Plan,
    leaves: Leaves,
    others: Sequence[str],
) -> Entry:
    """On the CPU, as one that was loaded: memories of both kinds meet in a batch or a bank. others: entries' names."""
    weights = {
        path: {name: leaf.detach().to("cpu", STORED) for name, leaf in by_name.items()}
        for path, by_name in leaves.items()
    }
    source = Source(
        sha256=context.sha256,
        kind=context.kind,
        tokens=len(tokenizer(context.text, add_special_tokens=False).input_ids),
        text=context.text if config.keep_text and not studied.refused else None,
    )
    held = (statement.text for statement in studied.holding)
    name = context.sha256[:12]
    return Entry(
        free_name(name, list(others)),
        (source,),
        weights,
        dataclasses.replace(plan.gate, keys=plan.gate.keys.cpu()),
        tuple(plan.studied),
        time.time(),
        tuple(scored_notes(held, tokenizer) if config.notepad else ()),
        facts=facts_of(context, studied),
    )


def facts_of(context: Context, studied: Studied) -> tuple[Fact, ...]:
    """What a conversation told, as a person sees it. A document has no facts, it has a text."""
    if not context.has_facts:
        return ()
    facts = [statement.fact(context.sha256) for statement in studied.statements]
    if context.kind == "added":
        facts = [dataclasses.replace(fact, messages=(), provenance="added") for fact in facts]
    return tuple(
        superseded(fact, facts[studied.outdated[number]]) if number in studied.outdated else fact
        for number, fact in enumerate(facts)
    )
