"""`serve --ray`: the same server on a Ray cluster."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttt_retrofit.errors import ConfigError
from ttt_retrofit.serving.resources import Resources
from ttt_retrofit.serving.server import listen

from .loading import load_config, load_model, load_tokenizer
from .options import ModelOptions, RayOptions

if TYPE_CHECKING:
    from .output import Output


def load(model: str, options: ModelOptions) -> tuple[Any, Any]:
    """What every process of the cluster loads."""
    return load_model(model, options), load_tokenizer(model, options)


def serve_ray(
    out: Output,
    cluster: RayOptions,
    model: str,
    options: ModelOptions,
    served: str,
    store: Path | None,
    address: tuple[str, int],
    kept_for: dict[str, Any],
    answers: dict[str, Any],
) -> None:
    """Serve until the process is interrupted.

    Parameters
    ----------
    served : the model's name, as clients give it.
    address : host and port.
    kept_for, answers : fields of `SharedStore` and of `Serving`.

    Raises
    ------
    ConfigError
        Without a store, which the processes share.
    """
    if store is None:
        raise ConfigError("--ray needs --store DIR, a directory that every process of the cluster sees.")
    load_config(model, options)  # what is wrong with the model is said before a cluster starts
    from ttt_retrofit.serving.ray_consolidation import SharedStore
    from ttt_retrofit.serving.ray_serve import Serving, deployed

    local = Path(model).expanduser()
    place = str(local.resolve()) if local.exists() else model  # wherever a process of the cluster works
    shared = SharedStore(partial(load, place, options), store.resolve(), **kept_for)
    listening, url = listen(*address)
    with listening:  # that the port is taken is said at once
        port = listening.getsockname()[1]
    resources = Resources(
        cluster.ray_address, cluster.replicas, cluster.replica_cpus, cluster.replica_gpus,
        cluster.task_cpus, cluster.task_gpus,
    )  # fmt: skip
    starting = out.aside.status(f"starting {cluster.replicas} replicas of {model}")
    with starting, deployed(Serving(shared, served, **answers), address[0], port, resources):
        starting.stop()
        document = {"url": url, "model": served, "store": str(store)}
        out.result(document, f"Serving {served} at {url}. Memories are kept in {store}. Ctrl-C stops.")
        threading.Event().wait()
