"""What a call of a converted model may be given, input by input. The call itself is in `call.py`.

It knows nothing of models. B batch rows, T tokens.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ..config import LearnFrom, TTTConfig
from ..errors import InputError
from ..util.devices import on_device
from .cache import TTTCache
from .digest import of_text
from .state import Held
from .tokens import marks_of

IMAGES_AND_SOUND = ("pixel_values", "pixel_values_videos", "input_features", "inputs_embeds", "mm_encoder_outputs")
# What collators pack rows with for kernels of variable length, beside positions or in their place.
BOUNDARIES = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")


def checked_ids(ids: Tensor | None, kwargs: dict[str, Any], vocabulary: int, begins: bool) -> Tensor:
    """ids as int64. begins: they begin a conversation."""
    if kwargs.get("mm_encoder_outputs") == {}:  # how `generate` says that there are no images
        del kwargs["mm_encoder_outputs"]
    given = [name for name in IMAGES_AND_SOUND if kwargs.get(name) is not None]
    types = kwargs.pop("token_type_ids", None)
    for name in IMAGES_AND_SOUND:
        kwargs.pop(name, None)
    if given or (types is not None and bool(types.any())):
        raise InputError(
            f"{given or ['token_type_ids']} cannot be read: the inner loss is on the next token of a text. Pass "
            "input_ids of text only."
        )
    if ids is None:
        raise InputError("input_ids is missing: the model learns from token ids.")
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(
            f"input_ids has shape {tuple(ids.shape)} and dtype {ids.dtype}; expected integers of shape (batch, tokens)."
        )
    if ids.shape[1] == 0:
        raise InputError("input_ids is empty: expected at least one token.")
    if begins or ids.is_cpu:
        known = ids.cpu().numpy()
        least, most = int(known.min()), int(known.max())
        if least < 0 or most >= vocabulary:
            raise InputError(
                f"input_ids holds {least if least < 0 else most}, but the vocabulary has ids 0 to {vocabulary - 1}. "
                "Check that tokenizer and model belong together."
            )
    else:
        # To look at them here would be to wait for the device at every token that is generated.
        inside = ((ids >= 0) & (ids < vocabulary)).all()
        torch._assert_async(inside, f"input_ids holds ids outside of the vocabulary, 0 to {vocabulary - 1}")
    return ids.long()


def checked_mask(mask: Tensor | None, ids: Tensor, cache: TTTCache) -> Tensor | None:
    """(B, past + T) or (B, T), nonzero for real tokens; what it says of the past agrees with what was read."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise InputError(
            f"attention_mask is a {type(mask).__name__}; expected a tensor of shape {tuple(ids.shape)}, nonzero for "
            "real tokens. Masks for each type of layer are made of it, with the window."
        )
    past = cache.columns
    if mask.ndim != 2 or mask.shape[0] != ids.shape[0] or mask.shape[1] not in (ids.shape[1], past + ids.shape[1]):
        raise InputError(
            f"attention_mask has shape {tuple(mask.shape)}; expected ({ids.shape[0]}, {ids.shape[1]}) for the new "
            f"tokens, or ({ids.shape[0]}, {past + ids.shape[1]}) with the {past} cached ones before them."
        )
    mask = mask.bool()
    if past and mask.shape[1] > ids.shape[1] and cache.marks is not None and cache.marks.shape[0] == ids.shape[0]:
        before = mask[:, :past] if cache.held is None else cache.held.without(mask[:, :past], past)
        differing = (marks_of(before, torch.arange(past, device=mask.device)) != cache.marks).any(1).nonzero()[:, 0]
        if len(differing):
            row = int(differing[0])
            raise InputError(
                f"attention_mask calls other tokens of the past real than those that were read: in row {row} it has "
                f"{int(before[row].sum())} of {past} columns, and {int(cache.marks[row, 0])} were read. What was read "
                "cannot be taken back. Pass the mask that the past was read with, followed by that of the new tokens."
            )
    return mask


def check_begins(cache: TTTCache, ids: Tensor, mask: Tensor) -> None:
    """Raise unless the real tokens of ids (B, T), by mask (B, T), begin with those that the cache has read."""
    if cache.digest is None or cache.digest.shape[0] != ids.shape[0] or cache.columns > ids.shape[1]:
        return
    past = cache.columns
    ids, real = ids.to(cache.digest.device), mask.to(cache.digest.device).bool()
    if cache.held is not None:
        real = cache.held.without(real, past)
    ahead = on_device(cache.ahead, ids.device)[:, None]
    read = real.clone()
    read[:, past:] &= real[:, past:].cumsum(1) <= ahead
    differing = (of_text(ids, read) != cache.digest).nonzero()[:, 0]
    if len(differing):
        row = int(differing[0])
        raise InputError(
            f"The first {past} tokens of row {row} are not those that the cache has read ({cache.counts[row]} real "
            "ones): its state is about another text, or the attention mask marks other tokens. Give what was read, "
            "and the new tokens after it."
        )


def late_tokens(cache: TTTCache, mask: Tensor | None, width: int) -> Tensor | None:
    """Which of the tokens that are held the mask of a call of `width` columns calls real: (B, S) bool, None if none.

    A mask of the new tokens alone says nothing of them: a row's last word is then real, the padding behind it is not.
    """
    if cache.held is None:
        return None
    unread = cache.held.unread
    if mask is None:
        real = unread
    elif mask.shape[1] > width:
        real = unread & mask[:, -width - unread.shape[1] : -width]
    else:
        real = unread & (unread.cumsum(1) == 1)
    return real if bool(real.any()) else None


def late_positions(positions: Tensor | None, late: Tensor, mask: Tensor | None) -> Tensor | None:
    """The positions (B, S) of late tokens: right before those of the first real one of the new tokens, (B, T)."""
    if positions is None:
        return None
    first = torch.zeros_like(late[:, :1], dtype=torch.long)
    if mask is not None:
        first = mask[:, -positions.shape[1] :].to(torch.uint8).argmax(1, keepdim=True)
    ahead = late.sum(1, keepdim=True) + 1 - late.cumsum(1)
    return positions.expand(late.shape[0], -1).gather(1, first) - ahead


def held_after(cache: TTTCache, ids: Tensor, ended: Tensor | None) -> Held | None:
    """What is held once a call has handed in ids (B, T), of which those `ended` (bool) follow a row's last word."""
    if ended is None or not bool(ended.any()):
        return None
    if cache.held is None:
        return Held(ids, ended)
    return Held(torch.cat([cache.held.ids, ids], dim=1), torch.cat([cache.held.unread, ended], dim=1))


def checked_cache(cache: Any, ttt: TTTConfig) -> TTTCache:
    """A cache that a model which reads by `ttt` can go on from."""
    if not isinstance(cache, TTTCache):
        raise InputError(
            f"past_key_values is a {type(cache).__name__}, expected a TTTCache: fast weights travel in it. "
            "Pass what read(), generate() or forward() returned, or None."
        )
    differing = cache.ttt.state_differences(ttt)
    if differing:
        raise InputError(
            f"The cache was made with another configuration: {', '.join(differing)}. "
            "Read the context again with this model."
        )
    return cache


def positions_of(positions: Tensor | None, kwargs: dict[str, Any], ids: Tensor) -> Tensor | None:
    """The positions (B, T) of a call; where only boundaries of documents are given, those that follow from them.

    Takes the boundaries out of `kwargs`: no kernel here is handed them.
    """
    given = {name: kwargs.pop(name) for name in BOUNDARIES if kwargs.get(name) is not None}
    boundaries = given.get("cu_seq_lens_q")
    if positions is not None or boundaries is None:
        return positions
    if ids.shape[0] != 1 or int(boundaries[0]) != 0 or int(boundaries[-1]) != ids.shape[1]:
        raise InputError(
            f"cu_seq_lens_q is {boundaries.tolist()} for input_ids of shape {tuple(ids.shape)}; expected one row, with "
            f"boundaries from 0 to {ids.shape[1]}."
        )
    lengths = boundaries.diff().tolist()
    return torch.cat([torch.arange(length, device=ids.device) for length in lengths])[None]


def text_positions(positions: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """One position for each token, (B, T), of Qwen-VL's several, (axes, B, T): in text they are all the same."""
    if positions is None or positions.ndim != 3:
        return positions
    differ = positions != positions[:1]
    if mask is not None:
        if mask.shape != positions.shape[1:]:
            return positions  # refused for its shape
        differ = differ & mask.bool()
    if bool(differ.any()):
        raise InputError(
            f"position_ids has shape {tuple(positions.shape)}, and its {positions.shape[0]} rows differ, as they do "
            f"for images. Only text can be read: pass positions of shape {tuple(positions.shape[1:])}."
        )
    return positions[0]


def check_learn_from(learn_from: str | None) -> None:
    if learn_from is not None and learn_from not in get_args(LearnFrom):
        raise InputError(f"learn_from={learn_from!r} is not known. Choose one of {list(get_args(LearnFrom))}.")


def check_positions(positions: Tensor | None, ids: Tensor) -> None:
    if positions is not None and tuple(positions.shape) not in (tuple(ids.shape), (1, ids.shape[1])):
        raise InputError(
            f"position_ids has shape {tuple(positions.shape)}; expected {tuple(ids.shape)}, one for each new token."
        )


def check_new(cache: TTTCache) -> None:
    if cache.rows is not None:
        raise InputError(
            "position_ids begin anew within a call that goes on from a cache: which document the cached tokens belong "
            "to cannot be known. Pass several documents in a row without a cache, or each with its own."
        )


def check_real(tokens: int) -> None:
    if not tokens:
        raise InputError("The input holds no real token: every position is masked out. Check the attention mask.")


def check_outputs(
    kwargs: dict[str, Any], config: PreTrainedConfig, together: bool, whole: bool, labels: Tensor | None
) -> None:
    """Refuse what segments cannot be put together to. together: they hold the same columns of all rows; whole: one."""

    def wanted(name: str) -> bool:
        return bool(getattr(config, name, False) if kwargs.get(name) is None else kwargs[name])

    if wanted("output_attentions") and not whole:
        raise InputError(
            "output_attentions=True works within one chunk only, without padding; the keys differ from chunk to chunk."
        )
    if wanted("output_hidden_states") and not together:
        raise InputError("output_hidden_states=True needs a batch without padding.")
    if kwargs.get("output_router_logits") or (labels is not None and wanted("output_router_logits")):
        raise InputError(
            "output_router_logits=True: the auxiliary loss that balances experts is of a whole text, which is read "
            "chunk by chunk. Set it to False, here or in the model's config; the loss is then that of the next token."
        )
