"""User ids: one definition for requests, addresses, the store and the command line.

An id is compared as it was sent, character by character. It is neither trimmed nor normalised: ids that differ in
one character are two users. An id is refused if one of the places that take ids could not send it, or could not tell it
from another id.
"""

from __future__ import annotations

import unicodedata

from ..errors import InputError

MAX_LENGTH = 512  # characters
UNDECODED = "\ufffd"  # replaces any bytes that could not be decoded
DIRECTORIES = (".", "..")  # clients resolve them in a URL, escaped or not


def check_identity(identity: str) -> str:
    """The id, unchanged.

    Raises
    ------
    InputError
        When it is empty, longer than `MAX_LENGTH`, "." or "..", or holds a control character, a lone surrogate or
        U+FFFD.
    """
    if not 1 <= len(identity) <= MAX_LENGTH:
        raise InputError(
            f"A user id of {len(identity)} characters was given; expected at least 1 character and at most "
            f"{MAX_LENGTH}."
        )
    if identity in DIRECTORIES:
        raise InputError(f"{identity!r} is no user id: in an address it names a directory. Name the user otherwise.")
    for character in identity:
        if character == UNDECODED or unicodedata.category(character) in ("Cc", "Cs"):
            raise InputError(
                f"The user id {identity!r} holds the character U+{ord(character):04X}. Expected text without control "
                "characters, and nothing that could not be decoded as UTF-8."
            )
    return identity
