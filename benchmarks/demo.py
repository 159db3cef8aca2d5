"""What `make demo` runs: one long text read in four ways, measured here and now, then continued.

A window of 512 tokens over the opening of "Persuasion", with SmolLM2-135M and the library's defaults. Prints a table,
saves a picture, and goes on with the text from a state that was saved and loaded again.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .storage import FetchError

if TYPE_CHECKING:
    from ttt_retrofit import TTTConfig

    from .measure import Reading

MODEL, TEXT = "smollm2-135m", "persuasion-excerpt"
TOKENS, WINDOW, CHUNK = 6144, 512, 256
CONTINUATION, SEED = 60, 0
PICTURE = Path("demo/loss_by_position.png")

console = Console()


def run(tokens: int) -> None:
    """Measure, draw, continue."""
    # Imported here, after warnings are silenced, and where an interrupt during these seconds is caught.
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    from ttt_retrofit import TTTConfig, wrap

    from . import measure
    from .models import model_directory
    from .plots import loss_by_position
    from .texts import text

    logging.set_verbosity_error()
    directory = model_directory(MODEL)
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    base = AutoModelForCausalLM.from_pretrained(directory)
    ids = tokenizer(text(TEXT), return_tensors="pt").input_ids[:, : tokens + 1]
    context = ids[:, :tokens]  # one token more is kept to go on from
    config = TTTConfig(sliding_window=WINDOW, chunk_size=CHUNK)

    console.print(
        f"\nReading the first {tokens:,} tokens of Jane Austen's [italic]Persuasion[/italic] with SmolLM2-135M, in\n"
        f"four ways: with full attention; through a window of {WINDOW} tokens; with {config.sink_tokens} attention\n"
        "sinks besides; and with test-time training on top. Nothing is trained before.\n"
        "On two idle cores this takes a few minutes.\n"
    )
    with measure.progress_bars(list(measure.SYSTEMS), tokens) as bars:
        readings = {measure.FULL: measure.full_attention(base, context, bars[measure.FULL])}
        model = wrap(base, config)
        for name in measure.STREAMING:
            measure.configure(model, config, name)
            cache = model.new_cache()
            readings[name] = measure.streaming(model, context, bars[name], cache)
    console.print(results(readings, config))
    loss_by_position(readings, PICTURE, f"SmolLM2-135M reading Persuasion, {tokens:,} tokens", window=WINDOW)
    console.print(f"\nLoss by position is drawn in [bold]{PICTURE}[/bold].\n")
    go_on(model, tokenizer, cache, ids)


def results(readings: dict[str, Reading], config: TTTConfig) -> Table:
    """The table that the demo prints."""
    from . import measure

    table = Table(
        title="Loss in nats/token, the mean and by quarter of the text: lower is better",
        caption=f"{config.in_words}\n{machine()}",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for column in ("mean", "1st", "2nd", "3rd", "4th", "gap\nclosed", "tokens\n/s", "state\nMB"):
        table.add_column(column, justify="right", no_wrap=True)
    closed = measure.gap_closed(readings)
    gaps = {measure.FULL: "100%", measure.SINKS: "0%", measure.TTT: "no gap" if closed is None else f"{closed:.0%}"}
    for name, reading in readings.items():
        losses = (reading.mean, *reading.by_quarter)
        cells = [f"{loss:.3f}" for loss in losses]
        cells += [gaps.get(name, ""), f"{reading.tokens_per_second:.0f}", f"{reading.state_bytes / 1e6:.0f}"]
        table.add_row(name, *cells, style="bold" if name == measure.TTT else None)
    return table


def machine() -> str:
    """Where the figures were measured: processor, cores, threads, torch."""
    import torch

    named = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        models = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        named = models[0].partition(":")[2].strip() if models else named
    return f"{named}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def go_on(model: Any, tokenizer: Any, cache: Any, ids: Any) -> None:
    """Save the state, load it, continue the text from both, and say whether they agree. ids: (1, T + 1)."""
    import torch

    from ttt_retrofit import TTTCache

    def continuation(state: TTTCache) -> list[int]:
        torch.manual_seed(SEED)
        new = {"max_new_tokens": CONTINUATION, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=state, **new)
        return out[0, ids.shape[1] :].tolist()

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "state.safetensors")
        cache.save(path)
        size = path.stat().st_size
        loaded = TTTCache.load(path, model)
    with console.status("continuing the text, twice"):
        first, second = continuation(cache), continuation(loaded)
    before = tokenizer.decode(ids[0, -CONTINUATION:])
    console.print("It goes on from what it has read. The end of the text:")
    console.print(escape(before), style="dim")
    console.print("and its continuation (sampled, temperature 0.7):")
    console.print(escape(tokenizer.decode(first)), style="green")
    same = "the same" if first == second else "DIFFERENT"
    wrote = f"cache.save(path) wrote the state, {size / 1e6:.0f} MB"
    console.print(f"\n{wrote}; TTTCache.load(path, model) goes on with {same} tokens.", soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"how much to read (default {TOKENS})")
    arguments = parser.parse_args()
    if not 2 * WINDOW <= arguments.tokens <= 4 * TOKENS:
        parser.error(f"--tokens {arguments.tokens}: expected {2 * WINDOW} to {4 * TOKENS}, all within the excerpt")
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Threads that spin while they wait make a read three times slower wherever another program has a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        run(arguments.tokens)
    except FetchError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. Nothing was left half done; run it again at any time.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
