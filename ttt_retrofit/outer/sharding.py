"""Shards what is not trained over the processes, with FSDP2 (`fully_shard`).

FSDP2 gathers the weights of a decoder layer before its forward, again before its backward pass, and frees them after
each. That fits the outer loop, which takes gradients of fast weights and of what is trained, never of the base:

- What is trained stays whole in every process. Its gradients come by way of fast weights, or of several backward
  passes, and are summed by `TTTTrainer`; FSDP2 would look for them in `.grad` after one.
- Segments of a read enter the model by `base_forward`, which is registered with FSDP2 as a forward of the root.
- Gathering takes all processes. They go through as many chunks as the one with the longest row; where a process has no
  chunk left, it reads a stand-in (`gradients.py`).
- A gradient that is differentiated itself needs the weights twice and out of their order: `kept_whole`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import ConfigError
from ..inner.discovery import decoder_layers
from ..inner.layer import TTTSite
from .parameters import OuterParameters


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def check_shardable(model: Any, length: int, processes: int) -> None:
    """Raise `ConfigError` where a model's weights cannot be split, or processes would not need them equally often.

    length : tokens of the longest sequence.
    """
    if processes < 2:
        raise ConfigError(
            "shard=True, but there is one process, which would hold all of it. Start several (accelerate launch "
            "--multi_gpu --num_processes 2 ...), or leave shard out."
        )
    trained = model.trained_length
    if model.ttt.sink_tokens and model.ttt.sliding_window is not None and trained is not None and length > trained:
        raise ConfigError(
            f"shard=True: sequence_length={length} is more than the {trained} positions of the base. Its attention "
            "sinks are then read again at chunks that differ between processes. Use shorter sequences, or leave shard "
            "out."
        )
    packed = [name for name, p in model.named_parameters() if not p.is_floating_point() or p.is_meta]
    if packed or vars(model).get("hf_quantizer") is not None:
        raise ConfigError(
            f"shard=True: the weights of this model are quantized or offloaded ({', '.join(packed[:1]) or 'all'}), and "
            "cannot be split. Load it in full or in bfloat16, or leave shard out: a 4-bit base takes about 0.55 bytes "
            "a weight in every process."
        )


def shard(model: Any, outer: OuterParameters, device: torch.device) -> None:
    """Split all but what is trained over the processes, layer by layer, and move what is whole to `device`.

    model : a converted model, the same in every process; in memory, not on the device.
    """
    sites = [module for module in model.modules() if isinstance(module, TTTSite)]
    ignored = {*outer.all, *(parameter for site in sites for parameter in site.parameters())}
    ignored |= {parameter for parameter in model.parameters() if parameter.ndim == 0}  # nothing to split
    for parameter in ignored:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    _, layers = decoder_layers(model)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
    # Embeddings, head and final norm; whole from a forward until its backward pass.
    fully_shard(model, mesh=mesh, ignored_params=ignored)
    register_fsdp_forward_method(model, "base_forward")
    model.register_load_state_dict_pre_hook(_split)


@contextmanager
def kept_whole(model: Any, outer: OuterParameters) -> Iterator[None]:
    """Within it, weights that gradients pass through stay whole once they have been gathered."""
    if not is_sharded(model):
        yield
        return
    layers: list[Any] = [layer for layer in decoder_layers(model)[1] if layer not in outer.below]
    for module in layers:
        module.set_reshard_after_forward(False)
        module.set_reshard_after_backward(False)
    model.set_reshard_after_backward(False, recurse=False)
    try:
        yield
    finally:
        for module in layers:
            module.set_reshard_after_forward(True)
        model.set_reshard_after_backward(True)
        _let_go(model)


def _let_go(model: nn.Module) -> None:
    """Keep nothing whole that has been gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def whole_state(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """The state of a model that is sharded, or that holds one, on the CPU.

    keep : whether this process wants it; all have to call, and others get nothing.
    """
    state: dict[str, Tensor] = {}
    names: dict[int, str] = {}  # by parameter: tied ones are gathered once, and stay one tensor
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = names.setdefault(id(tensor), name)
        if isinstance(tensor, DTensor) and first == name:
            gathered = tensor.full_tensor()
            state |= {name: gathered.cpu()} if keep else {}
        elif keep:
            state[name] = state[first] if first in state else tensor.detach().cpu()
    return state


def _split(model: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Hook of `load_state_dict`: every process has all of the state, and keeps its own part."""
    _let_go(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        whole = state_dict.get(prefix + name)
        if isinstance(parameter, DTensor) and isinstance(whole, Tensor) and not isinstance(whole, DTensor):
            mesh, places = parameter.device_mesh, parameter.placements
            moved = whole.to(mesh.device_type)
            state_dict[prefix + name] = distribute_tensor(moved, mesh, places, src_data_rank=None)
