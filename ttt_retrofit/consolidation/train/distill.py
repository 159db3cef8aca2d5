"""Distillation: the memory's weights learn to answer without the context as the teacher answered with it.

The loss is the KL divergence from the teacher's kept logits (deep context distillation, Caccia et al. 2025; Cartridges,
Eyuboglu et al. 2025), the mass of all other tokens counted as one. Lessons with one certain token each are plain
next-token loss.
B lessons of a step, N answer tokens of a step, K kept logits, V vocabulary, R rank, I in features, O out features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...memory.batch import MemoryBatch, Term
from ...memory.collate import ALWAYS_OPEN, joined
from ...memory.config import MemoryConfig
from ...memory.entry import GateKeys
from ...memory.gates import Background, Gates
from ...memory.lessons import Lesson
from ...memory.projections import Placement
from ...memory.turns import opener_rows
from ..config import ConsolidationConfig
from ..control import Control
from ..writer import one_after_the_other
from .student import Student

Leaves = dict[str, dict[str, Tensor]]
WARMUP = 0.15  # of the steps: without it the loss rises over the first twenty, and ends twice as high
# A step of Adam changes what a projection says in proportion to its width (muTransfer, Yang et al. 2022). Measured at
# widths 576 and 896 (`docs/research-log/distillation.md`).
LR_TIMES_WIDTH, HIGHEST_LR = 1.8, 5e-3
CLIP = 1.0  # norm of the gradient of a step
ENOUGH_HELD_OUT = 6  # questions: a short context leaves few to hold out, and fewer do not end training early
ALIKE = 4  # batches among whose lessons those of like length are put together
LEAST = 1e-37  # probability that is told from 0 in float32
PASS = 32  # tokens whose computing takes as long as what one more pass costs


@dataclass(frozen=True)
class EncodedLesson:
    """A lesson with its hidden states where the memory begins: the output of the frozen layers below."""

    lesson: Lesson
    below: Tensor  # (T, D)

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.lesson.prompt, *self.lesson.answer)

    @property
    def positions(self) -> list[int]:
        """The positions whose logits predict the answer."""
        start = len(self.lesson.prompt) - 1
        return list(range(start, start + len(self.lesson.answer)))


@dataclass
class TrainingState:
    """All that a run needs to go on from where it stopped."""

    leaves: Leaves
    optimizer: torch.optim.Optimizer
    step: int = 0
    known: int = 0  # the step after which all that is asked was right, 0 before


def fresh_leaves(placement: Placement, config: MemoryConfig, seed: int, device: torch.device) -> Leaves:
    """Weights that say nothing yet: A random and B zero."""
    generator = torch.Generator().manual_seed(seed)
    leaves: Leaves = {}
    for place in placement.projections:
        a = torch.randn(config.rank, place.in_features, generator=generator, device="cpu")
        by_name = {
            "a": a / math.sqrt(place.in_features),
            "b": torch.zeros(place.out_features, config.rank, device="cpu"),
        }
        leaves[place.path] = {name: tensor.to(device).requires_grad_() for name, tensor in by_name.items()}
    return leaves


def learning_rate(width: int) -> float:
    """Of a memory on projections of that width, where the recipe names none."""
    return min(HIGHEST_LR, LR_TIMES_WIDTH / width)


def begin_training(leaves: Leaves) -> TrainingState:
    tensors = [tensor for by_name in leaves.values() for tensor in by_name.values()]
    return TrainingState(leaves, torch.optim.AdamW(tensors, weight_decay=0.0))


def with_new_entry(
    old: MemoryBatch | None,
    gate: GateKeys,
    background: Background,
    gated: bool,
    leaves: Leaves,
    layer: str,
    device: torch.device,
    opener: tuple[int, ...] = (),
) -> MemoryBatch:
    """The memories of a step: those of earlier entries, which stay as they are, and the one that is learned."""
    count = 0 if old is None else old.gates.keys.shape[1]
    bounds = (gate.closed, gate.opened) if gated else ALWAYS_OPEN
    keys = gate.keys.float()[None, None].to(device)
    closed, opened = (torch.tensor([[bound]], device=device) for bound in bounds)
    new = Gates(joined([background]).to(device), keys, closed, opened, opener_rows([opener], device))
    gates = new if old is None else _side_by_side(old.gates, new)
    terms = {} if old is None else dict(old.terms)
    for path, by_name in leaves.items():
        said = terms.get(path)
        a, b = by_name["a"][None], by_name["b"][None]
        owner = torch.full((a.shape[1],), count, device=device)
        if said is None:
            terms[path] = Term(a, b, owner)
        else:
            terms[path] = Term(torch.cat([said.a, a], 1), torch.cat([said.b, b], 2), torch.cat([said.owner, owner]))
    return MemoryBatch(layer, gates, terms)


def _side_by_side(old: Gates, new: Gates) -> Gates:
    most = max(old.keys.shape[2], new.keys.shape[2])
    keys = [F.pad(k, (0, 0, 0, most - k.shape[2])) for k in (old.keys, new.keys)]
    closed, opened = torch.cat([old.closed, new.closed], 1), torch.cat([old.opened, new.opened], 1)
    return Gates(old.background, torch.cat(keys, 1), closed, opened, old.openers)


class _LogProbs(torch.autograd.Function):
    """Log probabilities of a few tokens out of a large vocabulary, with one pass over it each way.

    With p = softmax(x) and y = log p[indices], dL/dx = -(sum of dL/dy) p, and dL/dy more at `indices`.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, indices: Tensor) -> Tensor:
        probabilities = logits.softmax(-1, dtype=torch.float32)
        ctx.save_for_backward(probabilities, indices)
        ctx.dtype = logits.dtype
        return probabilities.gather(-1, indices).clamp_min(LEAST).log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        probabilities, indices = ctx.saved_tensors
        onto = probabilities * -gradient.sum(-1, keepdim=True)
        return onto.scatter_add_(-1, indices, gradient).to(ctx.dtype), None


def divergence(logits: Tensor, indices: Tensor, logprobs: Tensor) -> Tensor:
    """KL(teacher ‖ student) of every token, nats.

    Parameters
    ----------
    logits : (N, V) of the student.
    indices, logprobs : (N, K) of the teacher, -inf where it keeps fewer; the rest of its mass is one event.
    """
    mine = _LogProbs.apply(logits, indices.long())  # (N, K)
    teacher, filled = logprobs.float(), torch.isinf(logprobs)
    kept = (teacher.exp() * (teacher - mine).masked_fill(filled, 0)).sum(-1)
    rest = (1 - teacher.exp().sum(-1)).clamp_min(0)
    mine_rest = (1 - mine.exp().masked_fill(filled, 0).sum(-1)).clamp_min(1e-6)
    return kept + torch.special.xlogy(rest, rest.clamp_min(1e-6)) - rest * mine_rest.log()


def train(
    student: Student,
    facts: Sequence[Sequence[EncodedLesson]],
    negatives: Sequence[EncodedLesson],
    replays: Sequence[EncodedLesson],
    held_out: Sequence[EncodedLesson],
    memories: Callable[[Leaves], MemoryBatch],
    state: TrainingState,
    config: ConsolidationConfig,
    control: Control,
    save: Callable[[TrainingState], None],
) -> str:
    """Steps until all that is asked is right and as many again, in which the learning rate falls to 0, or until the
    budget is spent. Returns what ended it.

    facts : of each lesson, how it is taught in one epoch and how in the next.

    Raises
    ------
    FloatingPointError
        When a loss or gradient is not finite. Nothing but `state` was touched.
    """
    generator = torch.Generator().manual_seed(config.seed)
    extra = {"negatives": (negatives, config.negatives), "replays": (replays, config.replay)}
    shares = {name: round(config.batch_size * share) if some else 0 for name, (some, share) in extra.items()}
    own = max(1, config.batch_size - sum(shares.values()))
    per_epoch = math.ceil(len(facts) / own)
    total = max(1, config.least_steps, math.ceil(per_epoch * config.epochs))
    if control.budget.steps is not None:
        total = min(total, control.budget.steps)
    tensors = [tensor for by_name in state.leaves.values() for tensor in by_name.values()]
    lr = learning_rate(facts[0][0].below.shape[-1]) if config.lr is None else config.lr
    declined = [p for p in negatives if p.lesson.kind == "unknown"]
    began = control.elapsed
    for step, chosen in zip(range(total), batches(facts, own, generator, student.left)):
        for name, (some, _) in extra.items():
            picks = torch.randint(max(len(some), 1), (shares[name],), generator=generator, device="cpu").tolist()
            chosen += [some[i] for i in picks]
        end = min(total, 2 * state.known) if state.known else total
        if step >= end:
            break
        if step < state.step:  # an earlier run took this step; only the order had to be drawn again
            continue
        control.at("train", step, end)
        left = 1 - min(max(step / total, control.spent(began)), 1.0)
        if state.known:
            left *= 2 - step / state.known
        for group in state.optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / (WARMUP * total), 1) * left
        loss = step_loss(student, chosen, memories(state.leaves))
        # Where no gate opened there is nothing to learn.
        gradients = (
            torch.autograd.grad(loss, tensors, allow_unused=True) if loss.requires_grad else [None] * len(tensors)
        )
        norm = torch.sqrt(sum((g.square().sum() for g in gradients if g is not None), torch.zeros((), device="cpu")))
        if not bool(torch.isfinite(loss)) or not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"loss {loss.item()} and gradient norm {norm.item()} at step {step}")
        for tensor, gradient in zip(tensors, gradients):
            tensor.grad = None if gradient is None else gradient * (CLIP / norm.clamp_min(CLIP))
        state.optimizer.step()
        state.step = step + 1
        examined = state.step % per_epoch == 0 and state.step > per_epoch and len(held_out) >= ENOUGH_HELD_OUT
        if examined and not state.known:
            # Questions that it cannot answer are learned later than those that it can.
            right = (right_share(student, some, memories(state.leaves)) for some in (held_out, declined) if some)
            state.known = state.step if all(share >= config.enough_recall for share in right) else 0
        save(state)
        if control.spent() >= 1:
            return "seconds"
        if control.budget.tokens is not None and student.tokens >= control.budget.tokens:
            return "tokens"
    return "recall" if state.known else "steps"


def batches(
    lessons: Sequence[Sequence[EncodedLesson]],
    size: int,
    generator: torch.Generator,
    length: Callable[[Sequence[int]], int] = len,
) -> Iterator[list[EncodedLesson]]:
    """Batches for ever, every lesson once in an epoch, as its turn is; those of like length together, so that little
    is padded.

    length : of what is read of a lesson's tokens.
    """
    for epoch in itertools.count():
        now = [turns[(epoch + number) % len(turns)] for number, turns in enumerate(lessons)]
        order = torch.randperm(len(now), generator=generator, device="cpu").tolist()
        stretches = _cut(order, ALIKE * size)
        by_length = [i for stretch in stretches for i in sorted(stretch, key=lambda i: length(now[i].ids))]
        cut = _cut(by_length, size)
        for index in torch.randperm(len(cut), generator=generator, device="cpu").tolist():
            yield [now[i] for i in cut[index]]


def _cut(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def step_loss(student: Student, chosen: Sequence[EncodedLesson], memories: MemoryBatch) -> Tensor:
    """`mean_divergence` of the lessons of a step, with a graph to the memory's weights."""
    with torch.enable_grad():
        losses = [_sum(student, some, memories) for some in short_and_long(chosen, student.left)]
        return torch.stack(losses).sum() / len(chosen)


def _sum(student: Student, chosen: Sequence[EncodedLesson], memories: MemoryBatch) -> Tensor:
    logits = student.logits([p.below for p in chosen], [p.ids for p in chosen], [p.positions for p in chosen], memories)
    return len(chosen) * mean_divergence(logits, [p.lesson for p in chosen])


def short_and_long(
    chosen: Sequence[EncodedLesson], length: Callable[[Sequence[int]], int]
) -> list[Sequence[EncodedLesson]]:
    """Lessons of a step by length, in two passes where one would pad more than a second pass costs.

    length : of what is read of a lesson's tokens.
    """
    lengths = [length(p.ids) for p in chosen]
    order = sorted(range(len(chosen)), key=lengths.__getitem__)
    ordered = [chosen[index] for index in order]

    def cost(cut: int) -> int:
        return sum(PASS + len(some) * lengths[some[-1]] for some in (order[:cut], order[cut:]) if some)

    cut = min(range(len(ordered)), key=cost)  # 0 leaves them together
    return [some for some in (ordered[:cut], ordered[cut:]) if some]


def mean_divergence(logits: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    """Mean over lessons of the mean `divergence` of their answers' tokens: each counts alike, however long it is.

    logits : (N, V) of all answers, one after the other.
    """
    by_token = divergence(logits, *targets(lessons, logits.device))
    shares = [1 / len(lesson.answer) for lesson in lessons for _ in lesson.answer]
    return (by_token * torch.tensor(shares, device=logits.device)).sum() / len(lessons)


def targets(lessons: Sequence[Lesson], device: torch.device) -> tuple[Tensor, Tensor]:
    """The teacher's tokens and log probabilities of all lessons, (N, K) each; those that keep fewer are filled up."""
    indices, logprobs = one_after_the_other([x.indices for x in lessons], [x.logprobs for x in lessons])
    return indices.long().to(device), logprobs.float().to(device)


@torch.no_grad()
def right_share(
    student: Student, held_out: Sequence[EncodedLesson], memories: MemoryBatch | None, batch: int = 32
) -> float:
    """Share of the held-out answers' tokens that come first in the student's logits."""
    right = total = 0
    for start in range(0, len(held_out), batch):
        some = held_out[start : start + batch]
        logits = student.logits([p.below for p in some], [p.ids for p in some], [p.positions for p in some], memories)
        answers = torch.tensor([t for p in some for t in p.lesson.answer], device=logits.device)
        right += int((logits.argmax(-1) == answers).sum())
        total += answers.numel()
    return right / max(total, 1)
