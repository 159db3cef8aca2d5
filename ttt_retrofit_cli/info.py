"""`info`: what a model is and how it would read."""

from typing import TYPE_CHECKING

from .options import Model, ReadingOptions

if TYPE_CHECKING:
    from .output import Output


def info(out: "Output", model: Model, options: ReadingOptions) -> None:
    """Family, layers, parameters that learn, bytes of state; loads no weights."""
    from ttt_retrofit.model.description import describe

    from .loading import chosen_ttt, is_converted, load_config
    from .output import facts, megabytes

    config = load_config(model, options)
    ttt = chosen_ttt(model, config, options)
    found = describe(config, ttt)
    document = {
        "model": model,
        "converted": is_converted(config),
        "family": found.family,
        "layers": found.layers,
        "parameters": found.parameters,
        "sites": [site.path for site in found.sites],
        "parameters_that_learn": found.parameters_that_learn,
        "state_bytes_per_row": {"fast_weights": found.fast_bytes, "keys_and_values": found.kv_bytes},
        "full_attention_bytes_per_token": found.full_attention_bytes_per_token,
        "ttt": ttt.to_dict(),
    }
    layers = ", ".join(str(index) for index in sorted({site.layer for site in found.sites}))
    roles = ", ".join(sorted({site.role for site in found.sites}))
    kept = "the keys and values of every token"
    if found.kv_bytes is not None:
        kept = f"{megabytes(found.kv_bytes)} of keys and values"
    fast = f"{megabytes(found.fast_bytes)} of fast weights and {ttt.inner_optimizer}'s moments"
    shown = facts({
        "model": model,
        "family": f"{found.family}, {found.layers} layers, {found.parameters / 1e6:,.1f} M parameters",
        "converted": "yes" if is_converted(config) else "no; what follows is how it would read",
        "learns in layers": f"{layers} ({roles})",
        "parameters that learn": f"{found.parameters_that_learn:,}",
        "window, sinks, chunk": f"{ttt.sliding_window}, {ttt.sink_tokens}, {ttt.chunk_size} tokens",
        "state of a row": f"{fast}, and {kept}",
        "full attention keeps": f"{found.full_attention_bytes_per_token:,} bytes a token",
    })  # fmt: skip
    out.result(document, shown)
