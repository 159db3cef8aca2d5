"""`convert`: a base written as a converted checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ModelOptions, ReadingOptions, SaveAs

if TYPE_CHECKING:
    from .output import Output


def convert(
    out: "Output",
    base: Annotated[str, typer.Argument(help="Directory or Hub id of a base.", show_default=False)],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Directory to write; must not hold anything.", show_default=False)
    ],
    options: ReadingOptions,
    dtype: SaveAs = None,
) -> None:
    """Write a base as a checkpoint that learns while it reads."""
    from ttt_retrofit.errors import ConfigError
    from ttt_retrofit.model.description import parameters_that_learn

    from .loading import is_converted, load_config, load_model, load_tokenizer
    from .targets import written_whole

    if is_converted(load_config(base, options)):
        raise ConfigError(f"{base} is converted already. Expected a base, as it was published.")
    with written_whole(target) as directory:
        with out.aside.status(f"loading {base}"):
            model = load_model(base, ModelOptions(**vars(options), device="cpu", dtype=dtype))
            tokenizer = load_tokenizer(base, options)
        with out.aside.status(f"writing {target}"):
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
    learn = parameters_that_learn([site.site for site in model.sites], model.ttt)
    out.result(
        {"base": base, "saved": str(target), "parameters_that_learn": learn, "ttt": model.ttt.to_dict()},
        f"{target}: {base}, converted. {learn:,} parameters of it learn while it reads.",
    )
