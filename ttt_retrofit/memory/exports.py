"""A memory where the base runs without this library: as a PEFT adapter, for serving engines too, and as GGUF."""

from __future__ import annotations

import os

from torch import Tensor

from ..errors import ConfigError
from .engines import check_engine
from .entry import Entry
from .gguf_adapter import read_base, write_gguf
from .lora import merged, write_adapter


class Exports:
    """Adapters that always act as the memory does with all its gates open: no adapter has gates."""

    base_name: str
    entries: tuple[Entry, ...]

    def to_lora(
        self,
        directory: str | os.PathLike[str],
        rank: int = 16,
        transposed: bool = False,
        engine: str | None = None,
    ) -> dict[str, float]:
        """Write a PEFT LoRA adapter, for `PeftModel.from_pretrained(base, directory)` or a serving engine.

        Adapters have no gates: this one always acts as this memory does with its gates open. Entries are merged into
        one adapter.

        Parameters
        ----------
        rank : largest rank of the adapter. A memory of larger rank, or of entries that have it together, is cut to its
            largest singular values. vLLM serves at most 16 unless started with `--max-lora-rank`.
        transposed : for bases whose projections are `Conv1D` (GPT-2).
        engine : "vllm" or "sglang" to check first that its loader takes the adapter; None for PEFT alone.

        Returns
        -------
        The share of each projection's energy (squared Frobenius norm) that is kept; 1 where nothing is cut. The
        relative error of a projection is the square root of what is missing.

        Raises
        ------
        ConfigError
            For an empty memory, a rank below 1, an unknown engine, or an adapter that the engine would not load.
        """
        factors, kept = merged(self._weights("to_lora"), rank)
        if engine is not None:
            check_engine(engine, factors, next(iter(factors.values()))["a"].shape[0], transposed)
        write_adapter(factors, self.base_name, directory, transposed)
        return kept

    def to_gguf(
        self, file: str | os.PathLike[str], base: str | os.PathLike[str] | None = None, rank: int = 16
    ) -> dict[str, float]:
        """Write a LoRA adapter in llama.cpp's GGUF format, and a `Modelfile` for Ollama beside it.

        Needs the package `gguf`. As with `to_lora`, entries are merged and the adapter always acts.

        Parameters
        ----------
        file : to write, such as "memory.gguf". A `Modelfile` in its directory is replaced.
        base : the base's own GGUF file, of any quantisation. Its architecture is taken and names and shapes of its
            tensors are checked. None: the architecture is that of the configuration that `base_name` leads to, nothing
            is checked, and `FROM` in the Modelfile is to be filled in.
        rank : largest rank of the adapter, as in `to_lora`.

        Returns
        -------
        As `to_lora`.

        Raises
        ------
        ConfigError
            For an empty memory, a rank below 1, a base of an architecture that llama.cpp does not have, or projections
            that have no tensor of their own there.
        CheckpointError
            When `base` is no GGUF file, or is that of another model.
        MissingExtraError
            Without the package `gguf`.
        """
        factors, kept = merged(self._weights("to_gguf"), rank)
        write_gguf(factors, read_base(base, self.base_name), file)
        return kept

    def _weights(self, asked: str) -> list[dict[str, dict[str, Tensor]]]:
        if not self.entries:
            raise ConfigError(f"{asked}(): the memory is empty. Consolidate a context first.")
        return [entry.weights for entry in self.entries]
