"""Who writes facts in a benchmark: a model by its name, or a server by its address."""

from __future__ import annotations

from ttt_retrofit.consolidation.facts.writers import EndpointWriter, FactWriter, ModelWriter

from .loading import carrier, tokenizer_of
from .prompts import Recollector


def writer_of(name: str) -> FactWriter:
    """A model by its name, or a server by its address with the name of its model behind "#"."""
    if name.startswith("http"):
        url, _, served = name.partition("#")
        return EndpointWriter(url, served or None)
    asked = Recollector(carrier(name, sliding_window=None), tokenizer_of(name))
    return ModelWriter(name, asked.writer, asked.formatter)
