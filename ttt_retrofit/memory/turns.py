"""Where a user's turn begins in a text of token ids: after the tokens that the chat template opens it with.

That opener is found from ids alone, token by token, so that nobody has to say where turns begin; an opener that is
split over two calls is found by the last tokens of the call before. B rows, T tokens, L tokens of the longest opener.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LONGEST_OPENER = 8  # tokens; of a longer one, the last
TAIL = LONGEST_OPENER - 1  # tokens that a text carries over to the next call
NOTHING = -1  # stands where there is no token: no id is negative


def opener_rows(openers: Sequence[tuple[int, ...]], device: torch.device) -> Tensor | None:
    """The openers as one tensor, (B, L), padded before with `NOTHING`. None where no row has one."""
    longest = max(len(opener) for opener in openers)
    if longest == 0:
        return None
    rows = [[NOTHING] * (longest - len(opener)) + list(opener) for opener in openers]
    return torch.tensor(rows, device=device)


def turn_starts(ids: Tensor, tail: Tensor, openers: Tensor) -> Tensor:
    """Where a user's turn begins: at the last token of its opener. (B, T) bool.

    Parameters
    ----------
    ids : (B, T)
    tail : (B, `TAIL`) the tokens before, `NOTHING` where there are fewer.
    openers : (B or 1, L) as `opener_rows` makes them.
    """
    length = openers.shape[1]
    context = torch.cat([tail[:, TAIL - length + 1 :], ids], dim=1)  # (B, L - 1 + T)
    windows = context.unfold(1, length, 1)  # (B, T, L)
    wanted = openers[:, None]
    found = ((windows == wanted) | (wanted == NOTHING)).all(-1)
    return found & (openers >= 0).any(-1, keepdim=True)


def last_starts(ids: Tensor, real: Sequence[int], tail: Tensor, openers: Tensor) -> list[int]:
    """The place of the last token at which a user's turn begins, by row; -1 where none does.

    Parameters as of `turn_starts`; real : how many of each row's tokens are real. They come first.
    """
    columns = torch.arange(ids.shape[1], device=ids.device)
    counted = columns < torch.tensor(real, device=ids.device)[:, None]
    places: list[int] = torch.where(turn_starts(ids, tail, openers) & counted, columns, -1).amax(1).tolist()
    return places


def between_turns(ids: Tensor, tail: Tensor, openers: Tensor) -> Tensor:
    """Where an opener has begun and is not complete, of a user's turn or of what begins like it. (B, T) bool.

    Parameters as of `turn_starts`.
    """
    length = openers.shape[1]
    windows = torch.cat([tail[:, TAIL - length + 1 :], ids], dim=1).unfold(1, length, 1)  # (B, T, L)
    missing = (openers < 0).sum(1, keepdim=True)  # (B or 1, 1)
    columns = missing + torch.arange(length, device=openers.device)
    begins = openers.gather(1, columns.clamp_max(length - 1))  # moved to the front
    found = torch.zeros_like(ids, dtype=torch.bool)
    for size in range(1, length):
        same = (windows[..., length - size :] == begins[:, None, :size]).all(-1)
        found |= same & (size < length - missing)
    return found


def tail_after(ids: Tensor, tail: Tensor, real: Tensor) -> Tensor:
    """The last tokens of each row after a call, (B, `TAIL`). real: (B,) how many of ids (B, T) are real; they come
    first.
    """
    columns = real[:, None] + torch.arange(TAIL, device=ids.device)
    return torch.cat([tail, ids], dim=1).gather(1, columns)


def no_tail(rows: int, device: torch.device) -> Tensor:
    """The tail of rows before their first token, (B, `TAIL`)."""
    return torch.full((rows, TAIL), NOTHING, device=device)


def last_turn(ids: Sequence[int], opener: Sequence[int]) -> int | None:
    """The place of the last token at which a user's turn begins, if one does."""
    size = len(opener)
    places = (end - 1 for end in range(len(ids), size - 1, -1) if list(ids[end - size : end]) == list(opener))
    return next(places, None) if opener else None
