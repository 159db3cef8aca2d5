"""`memory export`, `export-gguf`, `export-store`: memories for those who run the base without this library."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .memory import Target, Version
from .options import Saved, User

if TYPE_CHECKING:
    from .output import Output

Rank = Annotated[int, typer.Option(help="Largest rank of the adapter.", min=1)]
Engine = Annotated[Literal["vllm", "sglang"] | None, typer.Option(help="Whose loader's rules are checked first.")]


def export(
    out: "Output",
    memory: Saved,
    target: Target,
    user: User = None,
    version: Version = None,
    rank: Rank = 16,
    transposed: Annotated[bool, typer.Option("--transposed", help="For GPT-2, whose projections are Conv1D.")] = False,
    engine: Engine = None,
) -> None:
    """Write a PEFT LoRA adapter that says what the memory says with its gates open."""
    from ttt_retrofit.serving.stores import directory_of

    from .stores import chosen_memory
    from .targets import check_new

    check_new(target)
    kept = chosen_memory(directory_of(memory, user), version).to_lora(
        target, rank=rank, transposed=transposed, engine=engine
    )
    out.result({"saved": str(target), "rank": rank, "energy_kept": kept}, f"{target}: {_said(rank, kept)}")


def export_gguf(
    out: "Output",
    memory: Saved,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="GGUF file to write.", show_default=False)],
    base: Annotated[Path | None, typer.Option(help="The base's own GGUF file, to be checked against.")] = None,
    user: User = None,
    version: Version = None,
    rank: Rank = 16,
) -> None:
    """Write a LoRA adapter for llama.cpp, and a Modelfile for Ollama beside it."""
    from ttt_retrofit.serving.stores import directory_of

    from .stores import chosen_memory
    from .targets import check_file, check_new

    check_new(target)
    check_new(target.with_name("Modelfile"))
    check_file(target)
    kept = chosen_memory(directory_of(memory, user), version).to_gguf(target, base=base, rank=rank)
    out.result({"saved": str(target), "rank": rank, "energy_kept": kept}, f"{target}: {_said(rank, kept)}")


def export_store(
    out: "Output",
    store: Annotated[Path, typer.Argument(help="What was given to `serve --store`.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="VLLM_LORA_RESOLVER_CACHE_DIR.", show_default=False)],
    rank: Rank = 16,
    engine: Engine = "vllm",
    base_name: Annotated[
        str | None, typer.Option(help="Model that the engine is started with, if not the memories' own.")
    ] = None,
) -> None:
    """Write the memory of every user of a server as an adapter, for vLLM's filesystem resolver."""
    from ttt_retrofit.serving.adapters import export_adapters

    written = export_adapters(store, target, engine=engine, rank=rank, base_name=base_name)
    out.result(
        {"saved": str(target), "adapters": {name: str(path) for name, path in written.items()}},
        f"{target}: {len(written)} adapters of rank at most {rank}.",
    )


def _said(rank: int, kept: dict[str, float]) -> str:
    least = min(kept.values())
    error = max(1 - least, 0.0) ** 0.5
    return (
        f"a LoRA adapter of rank at most {rank}, which keeps at least {least:.0%} of every projection "
        f"(relative error at most {error:.1%})."
    )
