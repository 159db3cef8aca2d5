"""What a session knows in words: facts of turns that are not memory yet, in a note before the conversation."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..consolidation.config import Budget
from ..consolidation.control import Control
from ..consolidation.facts.related import is_about
from ..consolidation.facts.verdicts import Judge, Kind
from ..consolidation.job import BackgroundJob
from ..consolidation.study.review import Review
from ..consolidation.verify.traces import Traces
from ..errors import Cancelled
from ..memory.facts import Fact
from ..memory.memory import Memory
from ..memory.notes import FORM, NoteForm, with_lines
from ..util.files import write_list
from ..util.messages import Message
from .all_facts import Shown, all_facts, shown
from .directory import FACTS
from .disk import SessionFiles
from .reading import read_messages, writer_for
from .rewording import Rewording
from .waiting import ReadMessage, Waiting, digests, note_of

logger = logging.get_logger(__name__)

NOTE_TOKENS = 512  # of facts in words before a conversation, when nothing else is said


class FactsInWords(SessionFiles):
    """Facts that wait to become memory, and those of the memory that its weights do not hold."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    writer: Any
    review: Review
    questions: Sequence[str] | None
    note_tokens: int
    memory: Memory | None
    messages: list[Message]
    _read: list[ReadMessage]
    _reading: BackgroundJob[list[ReadMessage]] | None
    _unreadable: int
    _believed: dict[Kind, bool]
    _words: tuple[Waiting, list[Fact]] | None

    def _open_words(self) -> None:
        """Read the turns, and what the writer has read of them; call it under the lock. Of messages that are gone
        nothing stays.
        """
        stored = Waiting.stored(self.directory)
        self.messages, self._read = list(stored.messages), list(stored.read)
        self._reading, self._unreadable, self._believed, self._words = None, 0, {}, None
        self._keep_facts_of(self.messages)

    # ------------------------------------------------------------------ the note

    def waiting_facts(self, status: str | None = "current") -> list[Fact]:
        """What was told in turns that are not memory yet, oldest first, as it is known until then.

        Facts that the writer listed, and sentences as they stand of turns that it has not read. With a `review`,
        nothing is known before the review; with a policy in words, only what the writer has read.

        Parameters
        ----------
        status : "current", or "superseded" by what was told later; None gives all.
        """
        waiting, known = self._waiting(), self._words
        if known is None or known[0] != waiting:
            known = self._words = waiting, self._found(waiting)
        return [fact for fact in known[1] if status in (None, fact.status)]

    def facts(self, status: Shown = "known") -> list[Fact]:
        """What is known of the user: facts of the memory, then those that wait to become part of it, with the status
        "waiting". Each oldest first.

        Parameters
        ----------
        status : "known" are those that hold; "current" of them those of the memory, "waiting" the others; "superseded"
            by what was told later, in turns that wait, too; "retracted"; "all".

        Raises
        ------
        InputError
            For another status.
        """
        waiting = self.waiting_facts(None)  # before the memory: what became part of it meanwhile is in both
        return shown(all_facts(self.memory, waiting, self._waiting().ended()), status)

    def _waiting(self) -> Waiting:
        return Waiting(self.messages, tuple(self._read))

    def _found(self, waiting: Waiting) -> list[Fact]:
        policy = self.review.policy
        if self.review.reviewer is not None:
            return []
        if isinstance(policy, str):
            return waiting.facts(None)
        return waiting.facts(lambda fact: policy is None or policy(fact))

    def with_notes(
        self,
        messages: Sequence[Message],
        *,
        without: Sequence[Message] = (),
        told: Sequence[Fact] = (),
        tokenizer: PreTrainedTokenizerBase | None = None,
        form: NoteForm = FORM,
    ) -> list[Message]:
        """Chat messages with what is known in words before them: a notepad's notes, facts of the memory that its
        weights do not hold, and facts that wait. Facts take at most `note_tokens` tokens, the newest first.

        Messages that are in the prompt are not told twice.

        Parameters
        ----------
        without : messages that are not told either, such as those that an answer is to replace.
        told : facts of the memory that are told in words although its weights hold them.
        tokenizer : that counts, where the session's is in use by another thread.
        """
        notes, facts = self._in_words([*messages, *without], {fact.id for fact in told})
        question = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
        count = tokenizer or self.tokenizer

        def size(line: str) -> int:
            return len(count(line, add_special_tokens=False).input_ids) + 1  # the line's end

        return with_lines(messages, [*notes, *note_of(facts, question, self.note_tokens, size, form)], form)

    def concerned(self, messages: Sequence[Message]) -> bool:
        """Whether what the user says in them has a word that tells what a line of `with_notes` is about."""
        notes, facts = self._in_words(messages)
        said = " ".join(message["content"] for message in messages if message["role"] == "user")
        return is_about(said, [*notes, *(fact.text for fact in facts)])

    def _in_words(self, shown: Sequence[Message], told: Collection[str] = ()) -> tuple[list[str], list[Fact]]:
        """Notes, and facts that wait or that no weights hold, but not those of messages that are shown.

        told : ids of facts that weights hold, and that are among them all the same.
        """
        waiting, memory = self.waiting_facts(), self.memory  # in this order: what became memory meanwhile is in both
        texts = {message["content"].strip() for message in shown}
        places = {n for n, message in enumerate(self.messages) if message["content"].strip() in texts}
        of_turns = [fact for fact in waiting if places.isdisjoint(fact.messages)]
        if memory is None:
            return [], of_turns
        ended = self._waiting().ended()
        unlearned = [f for f in memory.facts() if (f.learned is False or f.id in told) and f.id not in ended]
        return [note.text for note in memory.notes], [*unlearned, *of_turns]

    def _rewording(self, ids: Collection[str], text: str | None = None, date: str | None = None) -> Rewording:
        """What takes waiting facts out of turns, and puts a text in their place."""
        every, memory = self.waiting_facts(None), self.memory
        gone = [fact for fact in every if fact.id in ids]
        left = [fact for fact in every if fact.id not in ids] + ([] if memory is None else memory.facts(None))
        told = [self.messages[place] for fact in gone for place in fact.messages]
        return Rewording(Traces(gone, [fact for fact in left if fact.text]), told, text, date)

    def _reworded(self, rewording: Rewording) -> tuple[list[Message], list[ReadMessage]]:
        """The messages as they are left, and what was read of them: other facts stay as they are, and the text is the
        fact that it corrects, with its id.
        """
        placed, read = rewording.placed(self.messages), self._waiting().by_place()
        gone, messages, found = rewording.traces.gone, [message for _, message in placed], []
        ids = {fact.id for fact in gone}
        for (place, message), pair in zip(placed, digests(messages)):
            if place is None:
                ends = [name for fact in gone for n in fact.messages if n in read for name in read[n].ends]
                new = dataclasses.replace(
                    gone[0], text=message["content"], said_by="user", said_at=message.get("date"), messages=(),
                    source=pair[0], status="current", superseded_by=None, provenance="added",
                )  # fmt: skip
                found.append(ReadMessage(*pair, (new,), tuple(dict.fromkeys(ends))))
            elif place in read:
                one, tells = read[place], rewording.traces.tells
                facts = tuple(fact for fact in one.facts if fact.id not in ids and not tells(fact.text))
                found.append(ReadMessage(*pair, facts, one.ends if facts[-1:] == one.facts[-1:] else ()))
        return messages, found

    # ------------------------------------------------------------------ reading

    def read_facts(self) -> bool:
        """Let the writer read turns that it has not read, in the background. `settle` takes over what it found.

        Returns
        -------
        Whether there is anything to read. There is not without a note, with a `review`, and with own questions, which
        take the place of facts.
        """
        if self._reading is not None:
            self._reading.resume()
            return True
        silent = self.note_tokens == 0 or self.questions is not None or self.review.reviewer is not None
        if silent or len(self.messages) <= self._unreadable:
            return False
        waiting, memory = self._waiting(), self.memory
        if not waiting.unread():
            return False
        control = Control(Budget())

        def read() -> list[ReadMessage]:
            control.check()
            writer = writer_for(self.model, self.tokenizer, self.writer, control.check)
            return read_messages(waiting, memory, writer, Judge(writer, self._believed), self.review)

        self._reading = BackgroundJob(read, control, "ttt-read-facts")
        return True

    def pause_reading(self) -> None:
        """Let the writer wait, within a token; `read_facts` lets it go on."""
        job = self._reading  # another thread may take over what it found meanwhile
        if job is not None:
            job.pause()

    def _settle_facts(self) -> None:
        """Take over what the writer has read. What it could not read stays in sentences, until more is said."""
        job = self._reading
        if job is None or not job.done():
            return
        self._reading = None
        try:
            found = job.result(0)
        except Cancelled:
            return
        except Exception:
            logger.warning("Turns could not be read for facts; they are known as they stand.", exc_info=True)
            self._unreadable = len(self.messages)
            return
        with self._exclusive():
            self._write_facts(_of_messages(self.messages, [*self._read, *found]))  # some may be gone meanwhile

    def _abandon_reading(self) -> None:
        job, self._reading = self._reading, None
        if job is not None:
            job.cancel()
            job.wait()

    # ------------------------------------------------------------------ disk

    def _keep_facts_of(self, messages: Sequence[Message], read: Sequence[ReadMessage] | None = None) -> None:
        """Drop what was read of messages that are gone; before they go, so that no file has it afterwards.

        read : of the messages, where they were changed.
        """
        self._unreadable = min(self._unreadable, len(messages))
        kept = _of_messages(messages, self._read if read is None else read)
        if kept != self._read:
            self._write_facts(kept)

    def _write_facts(self, read: list[ReadMessage]) -> None:
        write_list(self.directory / FACTS, "facts", [one.to_dict() for one in read])
        self._read = read


def _of_messages(messages: Sequence[Message], read: Sequence[ReadMessage]) -> list[ReadMessage]:
    """What was read of these messages."""
    return list(dict.fromkeys(Waiting(messages, read).by_place().values()))
