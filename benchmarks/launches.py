"""What a chunk and a decoded token ask of a device, launches and waits for a value: python -m benchmarks.launches

Counted where PyTorch dispatches, on the CPU: on a GPU nearly every such operation is a launch, and a wait lets it run
dry. The counts depend on the number of layers, and on no width. `--state` names a row for another state of the code.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from ttt_retrofit import TTTConfig, wrap
from ttt_retrofit.streaming import captured

from .harness.options import command_line
from .harness.store import Report, Store
from .harness.tables import markdown_table

# Whoever calls these needs a value, or a shape that depends on values.
WAITS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim", "_unique2"}
NO_LAUNCH = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
SENDS = {"lift_fresh"}  # values of Python made a tensor
LAYERS, CHUNK, WINDOW, VOCABULARY = 32, 16, 64, 128
WARM, CHUNKS = 6, 2  # chunks: until the window is full, and those that are counted
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"name": "fast"},
    "window and sinks": {"learn_from": "none"},
}
IN_RING = ("default", "window and sinks")  # are read with static shapes as well


@dataclass
class Counts:
    """Of what was dispatched; waits and sends with the line that asked."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    sends: Counter[str] = field(default_factory=Counter)


class _Dispatched(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in SENDS:
            self.counts.sends[_asker()] += 1
        elif name in WAITS:
            self.counts.waits[_asker()] += 1
        elif not (name in NO_LAUNCH or _is_view(func) or (isinstance(found, Tensor) and not found.numel())):
            self.counts.launches[name] += 1
        return found


class _Listed(TorchFunctionMode):
    """`tolist` reads memory of the CPU without a dispatch."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist:
            self.counts.waits[_asker()] += 1
        return func(*args, **(kwargs or {}))


def _is_view(func: Any) -> bool:
    schema = func._schema
    return not schema.is_mutable and any(result.alias_info is not None for result in schema.returns)


def _asker() -> str:
    """The line of the library that runs."""
    frames = (frame for frame in reversed(traceback.extract_stack()) if "ttt_retrofit" in frame.filename)
    frame = next(frames, None)
    return "not in the library" if frame is None else f"{frame.filename.rpartition('/')[2]}: {frame.line}"


@contextmanager
def counted() -> Iterator[Counts]:
    """What the block dispatches."""
    counts = Counts()
    with _Listed(counts), _Dispatched(counts):
        yield counts


def converted(layers: int = LAYERS, name: str = "default", **changes: Any) -> Any:
    """A narrow Llama, converted."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
        )
    )
    return wrap(base.eval(), TTTConfig.preset(name, chunk_size=CHUNK, sliding_window=WINDOW, **changes))


def steady(model: Any, rows: int = 1) -> tuple[Callable[[int], None], Callable[[], None]]:
    """A function that reads so many tokens more, and one that does what is due, behind a full window."""
    ids = torch.randint(VOCABULARY, (rows, 3 * WARM * CHUNK), generator=torch.Generator().manual_seed(0))
    cache, done = None, 0

    def read(tokens: int) -> None:
        nonlocal cache, done
        with torch.no_grad():
            part = ids[:, done : done + tokens]
            cache = model(part, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
        done += tokens

    for _ in range(WARM):
        read(CHUNK)
    return read, lambda: cache.fast.settle()


def counts_of(model: Any, tokens: int, calls: int, rows: int = 1) -> Counts:
    """Of so many calls of so many tokens each, behind a full window."""
    read, settle = steady(model, rows)
    read(tokens)  # tables of this width are made once
    for _ in range(0 if tokens == CHUNK else CHUNK - 1):
        read(tokens)
    with counted() as counts:
        for _ in range(calls):
            read(tokens)
        settle()
    return counts


@contextmanager
def replayed() -> Iterator[None]:
    """What is read in a ring is recorded, and a replay counts as nothing; its results mean nothing then."""
    with patch.multiple(captured, DEVICES=("cpu",), record=lambda function, device: (function(), lambda: None)):
        yield


def measure(case: dict[str, Any], in_ring: bool = False) -> dict[str, float]:
    model = converted(**case)
    model.static_shapes = in_ring
    chunk, token = counts_of(model, CHUNK, CHUNKS), counts_of(model, 1, CHUNK)
    return {
        "launches a chunk": chunk.launches.total() / CHUNKS,
        "waits a chunk": chunk.waits.total() / CHUNKS,
        "launches a token": token.launches.total() / CHUNK,
        "waits for a chunk of tokens": token.waits.total(),
    }


def page(report: Report) -> list[str]:
    columns = ["state", *next(iter(report["rows"].values()))]
    rows = [[name, *(f"{count:,.0f}" for count in found.values())] for name, found in report["rows"].items()]
    return [
        f"A Llama of {LAYERS} layers, one sequence, behind a full window, counted at dispatch. A chunk of tokens is "
        "decoded one by one, with the step at its end. What is done in a ring is recorded on CUDA: "
        "what is launched beside replays is counted as well, without two replays a chunk and one a token.",
        "",
        *markdown_table(columns, rows),
        "",
    ]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--state", default="now", help="what the rows are called")
    options = parser.parse_args()
    store = Store.of_all("launches", {"layers": LAYERS}, page)
    for name, case in CASES.items():
        store.add({f"{name}, {options.state}": measure(case)})
    for name in IN_RING:
        store.add({f"{name}, in a ring": measure(CASES[name], in_ring=True)})
        with replayed():
            store.add({f"{name}, in a ring, beside replays": measure(CASES[name], in_ring=True)})
    store.show()


if __name__ == "__main__":
    main()
