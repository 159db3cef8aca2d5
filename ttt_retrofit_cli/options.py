"""Options that several verbs share.

Those that belong together are a dataclass: a verb that takes one has an option for each of its fields.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

Model = Annotated[
    str, typer.Argument(help="Directory or Hub id, of a base or of a converted model.", show_default=False)
]
Files = Annotated[list[Path], typer.Argument(help="Texts, in UTF-8; - is stdin.", show_default=False)]
Split = Annotated[
    bool, typer.Option(help="Special tokens that a message spells are text, not tokens that could begin a turn.")
]
Saved = Annotated[Path, typer.Argument(help="A user's directory, or a memory saved alone.", show_default=False)]
User = Annotated[
    str | None,
    typer.Option("--user", help="Whose, where the directory is that of several; `memory list` names them."),
]
Base = Annotated[
    str | None, typer.Option("--model", help="Directory or Hub id; the base that the memory names.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NoteTokens = Annotated[
    int, typer.Option(help="Of facts in words before a conversation, until the weights hold them.", min=0)
]
Recipe = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Any field of ConsolidationConfig, or of MemoryConfig as memory.NAME."),
]
SaveAs = Annotated[Dtype | None, typer.Option(help="Of the parameters; 'auto' is as they were saved.")]


@dataclass(frozen=True)
class ReadingOptions:
    """How a model reads."""

    preset: Annotated[str | None, typer.Option(help="'default', 'fast', 'small' or 'accelerator', for a base.")] = None
    window: Annotated[int | None, typer.Option(help="Tokens that attention sees.", min=1)] = None
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any field of TTTConfig.")
    ] = None
    trust: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that stands beside the model.")] = False


@dataclass(frozen=True)
class ModelOptions(ReadingOptions):
    """How a model reads, and where and in what numbers it computes."""

    device: Annotated[str | None, typer.Option(help="Such as cuda:0; the GPU if there is one.")] = None
    dtype: SaveAs = None


@dataclass(frozen=True)
class WriterOptions:
    """Who writes, and how a memory is made."""

    writer: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Of a server that writes for the model, such as http://host:8000/v1#model; reads it all.",
        ),
    ] = None
    recipe: Recipe = None


@dataclass(frozen=True)
class RecipeOptions(WriterOptions):
    """How a memory is made of what is asked about it."""

    questions: Annotated[
        Path | None, typer.Option(help="What may be asked later, a line each; else the model asks.")
    ] = None


@dataclass(frozen=True)
class ReviewOptions:
    """What may become memory."""

    policy: Annotated[
        str | None,
        typer.Option(metavar="TEXT|FILE", help="What is worth keeping and what never, in words; each fact is checked."),
    ] = None
    review: Annotated[bool, typer.Option("--review", help="Ask for every fact whether it is kept.")] = False


@dataclass(frozen=True)
class RayOptions:
    """What a server takes of a Ray cluster; see `Resources`."""

    ray: Annotated[bool, typer.Option("--ray", help="Replicas answer on a Ray cluster, its tasks consolidate.")] = False
    ray_address: Annotated[
        str, typer.Option(help="Of a running cluster, 'auto' for this machine's; 'local' starts one.")
    ] = "local"
    replicas: Annotated[int, typer.Option(help="With --ray: processes that answer.", min=1)] = 1
    replica_cpus: Annotated[float, typer.Option(help="That each of them takes.", min=0)] = 1
    replica_gpus: Annotated[float, typer.Option(help="That each of them takes; 0.5 shares one.", min=0)] = 0
    task_cpus: Annotated[float, typer.Option(help="With --ray: that each consolidation takes.", min=0)] = 1
    task_gpus: Annotated[float, typer.Option(help="That each consolidation takes.", min=0)] = 0


@dataclass(frozen=True)
class EngineOptions:
    """The engine that a gateway stands before."""

    engine: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Of a server that runs the base and answers in this one's place.", show_default=False
        ),
    ] = None
    engine_kind: Annotated[
        Literal["vllm", "llama.cpp"] | None, typer.Option(help="What it is, where it does not say so itself.")
    ] = None
    engine_key: Annotated[
        str | None, typer.Option(help="That it asks for.", envvar="TTT_RETROFIT_ENGINE_KEY", show_default=False)
    ] = None
    adapters: Annotated[
        Path | None, typer.Option(help="With --engine: directory for the memories as adapters, which it reads.")
    ] = None
    adapter_rank: Annotated[int, typer.Option(help="Largest rank of an adapter.", min=1)] = 16
