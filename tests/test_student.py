"""The student's short cuts change nothing: lower layers replayed, the common beginning read once, the head only where
it is asked for.
"""

import dataclasses

import pytest
import torch
from converted import converted
from remembered import memory
from tiny import tokens

from ttt_retrofit.consolidation.model_copies import plain_copy
from ttt_retrofit.consolidation.study.lessons import certain
from ttt_retrofit.consolidation.train.distill import (
    EncodedLesson,
    batches,
    divergence,
    mean_divergence,
    short_and_long,
    step_loss,
)
from ttt_retrofit.consolidation.train.student import Student
from ttt_retrofit.memory import MemoryConfig
from ttt_retrofit.memory.collate import collate
from ttt_retrofit.memory.projections import find_placement
from ttt_retrofit.model.modeling import TTTMixin

FAMILIES = ["llama", "gpt2", "gemma2", "gemma3_text", "phi3", "olmo2", "granite", "cohere2", "glm4", "gpt_neox"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lowest", [0, 2])
@pytest.mark.parametrize("shared", [0, 6])
def test_short_cuts_give_the_logits_of_a_plain_forward(family, lowest, shared):
    model = converted(family)
    config = {"layers": tuple(range(lowest, 4))}
    made = memory(model, 1, 2, **config)
    student = Student(plain_copy(model), find_placement(model, MemoryConfig(rank=2, **config)))
    added = collate([made], model.device, model.dtype)
    beginning = tokens(1, 20)[0].tolist()  # long enough for the lower layers to share it, too
    lessons = [beginning + tokens(1, length, seed=length)[0].tolist() for length in (11, 7, 9)]
    below = student.below(lessons)
    student.share([(*beginning[:shared], ends) for ends in (1, 2)], added)
    assert student.begun == {tuple(beginning[:shared])} - {()} and not student.pasts
    positions = [range(8, len(lesson) - 1) for lesson in lessons]
    quick = student.logits(below, lessons, positions, added)
    model.configure_ttt(sliding_window=None, learn_from="none")
    for lesson, span in zip(lessons, positions):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([lesson]), memories=[made]).logits[0, list(span)]
        assert torch.allclose(quick[: len(span)], expected, atol=1e-4)
        quick = quick[len(span) :]


def test_a_beginning_in_which_a_memory_speaks_is_not_shared():
    model = converted()
    made = memory(model, 1, gated=False)
    student = Student(plain_copy(model), find_placement(model, made.config))
    lessons, added = [[*tokens(1, 6)[0].tolist(), ends] for ends in (1, 2)], collate([made], model.device, model.dtype)
    student.share(lessons, added)
    student.logits(student.below(lessons), lessons, [range(5, 6)] * 2, added)
    assert [*student.pasts.values()] == [None]


@pytest.mark.parametrize("family", FAMILIES)
def test_earlier_turns_of_any_length_are_read_once_and_change_no_logits(family):
    model, opener = converted(family), (7, 8)
    config = {"layers": (2, 3)}
    made = dataclasses.replace(memory(model, 1, 2, **config), opener=opener)
    student = Student(plain_copy(model), find_placement(model, MemoryConfig(rank=2, **config)), opener)
    added = collate([made], model.device, model.dtype)
    turns = [[*opener, *tokens(1, length, seed=length)[0].tolist()] for length in (9, 14, 11)]
    lessons = [turns[0], turns[1] + turns[2], turns[0] + turns[1] + turns[2], turns[1] + turns[0]]
    below = student.below(lessons)
    positions = [range(len(lesson) - 4, len(lesson) - 1) for lesson in lessons]
    expected = student.logits(below, lessons, positions, added)
    student.share(lessons, added)
    window = getattr(model.config, "sliding_window", None) or 100  # what a layer's window cuts is not kept
    assert not student.pasts, "nothing was asked for yet"
    before = student.tokens
    assert torch.allclose(student.logits(below, lessons, positions, added), expected, atol=1e-5)
    read = sorted(len(ids) for ids, past in student.pasts.items() if past is not None)
    assert read == [length for length in (16, 27) if length < window]
    left = list(map(student.left, lessons))
    assert left == [11, 13, 13, 11] if window == 100 else student.tokens - before > sum(left)
    assert window < 100 or student.tokens - before == sum(left)
    gates_shut = student.logits(below, lessons, positions, None)
    assert not torch.allclose(gates_shut, expected, atol=1e-3), "the memory says nothing in these lessons"


@pytest.mark.parametrize("lengths, passes", [((60, 7, 5, 6), [3, 1]), ((8, 7, 5, 6), [4]), ((9,), [1])])
def test_long_lessons_go_by_themselves_and_the_loss_is_that_of_all_together(lengths, passes):
    model = converted("llama")
    made = memory(model, 1, 2, layers=(2, 3))
    student = Student(plain_copy(model), find_placement(model, made.config))
    added = collate([made], model.device, model.dtype)
    lessons = [certain("fact", *tokens(2, length, seed=length).tolist()) for length in lengths]
    below = student.below([(*lesson.prompt, *lesson.answer) for lesson in lessons])
    chosen = [EncodedLesson(*one) for one in zip(lessons, below)]
    assert [len(some) for some in short_and_long(chosen, len)] == passes
    logits = student.logits(below, [p.ids for p in chosen], [p.positions for p in chosen], added)
    together = mean_divergence(logits, lessons)
    assert torch.allclose(step_loss(student, chosen, added), together, atol=1e-6)


def test_memories_act_in_the_last_turn_of_a_lesson_as_they_will_where_it_is_read():
    model = converted("llama", sliding_window=64)
    made = dataclasses.replace(memory(model, 1, 2, layers=(2, 3)), opener=(7, 8))
    student = Student(plain_copy(model), find_placement(model, made.config))
    added = collate([made], model.device, model.dtype)
    first, last = tokens(2, 14, seed=1).tolist()
    lesson = [7, 8, *first, 7, 8, *last]
    below, places = student.below([lesson]), [len(first) + 3, len(lesson) - 1]
    found = student.logits(below, [lesson], [places], added)
    cache = model.new_cache()
    with torch.no_grad():
        alone = student.logits(below, [lesson], [places], None)
        for part in (lesson[: places[0]], lesson[places[0] :]):
            read = model(torch.tensor([part]), past_key_values=cache, memories=[made], learn_from="none").logits
    assert torch.allclose(found[0], alone[0], atol=1e-5) and not torch.allclose(found[1], alone[1], atol=1e-2)
    assert torch.allclose(found[1], read[0, -1], atol=1e-4)


def test_an_epoch_has_every_lesson_once_as_its_turn_is():
    one, two = certain("fact", [1, 2], [3]), certain("fact", [1, 2, 3, 4], [5])
    alone = [EncodedLesson(one, torch.zeros(3, 1)) for _ in range(11)]
    in_a_chat = [EncodedLesson(two, torch.zeros(5, 1)) for _ in alone]
    drawn = batches(list(zip(alone, in_a_chat)), 4, torch.Generator().manual_seed(0))
    epochs: list[list[EncodedLesson]] = [[], []]
    for epoch in epochs:
        while len(epoch) < len(alone):
            batch = next(drawn)
            assert len(batch) <= 4
            epoch += batch
    in_turn = [*alone[::2], *in_a_chat[1::2]], [*alone[1::2], *in_a_chat[::2]]
    assert [sorted(map(id, epoch)) for epoch in epochs] == [sorted(map(id, some)) for some in in_turn]


def test_working_on_a_copy_never_shows_in_the_original():
    model, ids = converted(), tokens(1, 20)
    with torch.no_grad():
        before = model(input_ids=ids).logits
    student = Student(plain_copy(model), find_placement(model, MemoryConfig(rank=2, layers=(2, 3))))
    assert next(iter(student.model.parameters())).data_ptr() == next(iter(model.parameters())).data_ptr()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, before)
    assert isinstance(model, TTTMixin)


def test_divergence_is_the_kl_with_the_rest_as_one_event():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(5, 30, generator=generator).log_softmax(-1)
    logits = torch.randn(5, 30, generator=generator)
    student = logits.log_softmax(-1)
    whole, indices = teacher.topk(30)
    assert torch.allclose(divergence(logits, indices, whole), (teacher.exp() * (teacher - student)).sum(-1), atol=1e-4)
    kept, indices = teacher.topk(4)
    mine = student.gather(-1, indices)
    rest, mine_rest = 1 - kept.exp().sum(-1), 1 - mine.exp().sum(-1)
    expected = (kept.exp() * (kept - mine)).sum(-1) + rest * (rest / mine_rest).log()
    assert torch.allclose(divergence(logits, indices, kept), expected, atol=1e-5)
    certain = torch.zeros(5, 1)
    assert torch.allclose(divergence(logits, indices[:, :1], certain), -mine[:, 0], atol=1e-5)
