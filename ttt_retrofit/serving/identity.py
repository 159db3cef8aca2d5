"""User ids: one definition for requests, addresses, the store and the command line.

An id is compared as it was sent, character by character. It is neither trimmed nor normalised: two spellings are two
users. What is refused could not be sent, or not be told from another id, in one of the places where an id is given.
"""

from __future__ import annotations

import unicodedata

from ..errors import InputError

LONGEST = 512  # characters
UNDECODED = "\ufffd"  # stands for bytes that could not be decoded, whichever they were
DIRECTORIES = (".", "..")  # every client resolves them in an address, however they are escaped


def check_identity(said: str) -> str:
    """The id itself.

    Raises
    ------
    InputError
        When it is empty, longer than `LONGEST`, "." or "..", or holds a control character, a lone surrogate or U+FFFD.
    """
    if not 1 <= len(said) <= LONGEST:
        raise InputError(
            f"A user id of {len(said)} characters was given; expected at least 1 character and at most {LONGEST}."
        )
    if said in DIRECTORIES:
        raise InputError(f"{said!r} is no user id: in an address it names a directory. Name the user otherwise.")
    for character in said:
        if character == UNDECODED or unicodedata.category(character) in ("Cc", "Cs"):
            raise InputError(
                f"The user id {said!r} holds the character U+{ord(character):04X}. Expected text without control "
                "characters, and nothing that could not be decoded as UTF-8."
            )
    return said
