"""Names of principals. API keys never leave the serving process in clear text."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

NAME_CHARACTERS: Final = 256
EVENT_ID_CHARACTERS: Final = 128

ANONYMOUS = "anonymous"
"""The principal of a request without an identity."""

DERIVED = "odd:"
"""Prefix of the names that :func:`usable_principal` derives."""

EVERYONE = "*"
"""Not a principal: the name in the key of the kill switch, the decision that switches all enforcement off."""


@dataclass(frozen=True, slots=True)
class PrincipalHasher:
    """Keyed BLAKE2b of an API key; logger, gate and commands must use the same ``key``."""

    key: bytes = field(default=b"", repr=False)

    def api_key(self, secret: str) -> str:
        """Returns ``key:`` and 32 hexadecimal digits for ``secret``."""
        digest = hashlib.blake2b(secret.encode(), key=self.key, digest_size=16)
        return f"key:{digest.hexdigest()}"


def usable_principal(text: str) -> str:
    """Returns ``text`` if it can name a principal: 1 to 256 plain characters, not ``*``; else a name derived from it.

    Logger, gate and codecs share this rule, so that a decision about the derived name applies to the caller that sent
    ``text``.
    """
    return text if is_name(text) else _derived(text)


def usable_event_id(text: str) -> str:
    """Returns ``text`` if it can be an event id: 1 to 128 plain characters; else an id derived from it."""
    return text if text and is_plain(text, EVENT_ID_CHARACTERS) else _derived(text)


def principal_of(value: object) -> str:
    """Returns the principal for ``value``: ``anonymous`` for None, else its text, made usable."""
    if isinstance(value, str):
        return usable_principal(str.__str__(value))  # the text of an enumeration member, not its name
    return ANONYMOUS if value is None else usable_principal(str(value))


CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and surrogates, which UTF-8 cannot carry."""


def is_plain(text: str, characters: int) -> bool:
    """Returns whether ``text`` is at most ``characters`` long and has no control characters; an empty text is plain."""
    return len(text) <= characters and (text.isprintable() or not CONTROL.search(text))


def is_name(name: str) -> bool:
    """Returns whether ``name`` can name a model or a principal; ``*`` is reserved for everyone."""
    return name not in {"", EVERYONE} and is_plain(name, NAME_CHARACTERS)


def _derived(text: str) -> str:
    """Returns ``DERIVED`` and 32 hexadecimal digits, the same for a text in every process."""
    return f"{DERIVED}{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"
