"""Principals: who is enforced. API keys never leave the serving process in clear."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

NAME_CHARACTERS: Final = 256
EVENT_ID_CHARACTERS: Final = 128

ANONYMOUS = "anonymous"
"""The principal of a request that carries no identity at all."""

DERIVED = "odd:"
"""How a name begins that :func:`usable_principal` made."""

EVERYONE = "*"
"""Not a principal: the key of the one decision record that switches all enforcement off."""


@dataclass(frozen=True, slots=True)
class PrincipalHasher:
    """Keyed BLAKE2b of an API key; Logger, Gate and commands must share ``key``."""

    key: bytes = field(default=b"", repr=False)

    def api_key(self, secret: str) -> str:
        """``key:`` and 32 hexadecimal digits for ``secret``."""
        digest = hashlib.blake2b(secret.encode(), key=self.key, digest_size=16)
        return f"key:{digest.hexdigest()}"


def usable_principal(text: str) -> str:
    """``text`` if it can name a principal: 1 to 256 plain characters and not ``*``; else a name derived from it.

    Logger, gate and codecs share this rule, so a decision about the derived name meets the caller who sent ``text``.
    """
    return text if names_one(text) else _derived(text)


def usable_event_id(text: str) -> str:
    """``text`` if it can be an event id: 1 to 128 plain characters; else an id derived from it."""
    return text if text and plain(text, EVENT_ID_CHARACTERS) else _derived(text)


def principal_of(value: object) -> str:
    """The principal that any value a caller passes stands for: ``anonymous`` for None, else its text, made usable."""
    if isinstance(value, str):
        return usable_principal(str.__str__(value))  # of an enumeration its text, not its name
    return ANONYMOUS if value is None else usable_principal(str(value))


CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and surrogates, which UTF-8 cannot carry."""


def plain(text: str, characters: int) -> bool:
    """Whether ``text`` is at most ``characters`` long and free of control characters; empty is plain."""
    return len(text) <= characters and (text.isprintable() or not CONTROL.search(text))


def names_one(name: str) -> bool:
    """Whether ``name`` can name a model or a principal; ``*`` is reserved for everyone."""
    return name not in {"", EVERYONE} and plain(name, NAME_CHARACTERS)


def _derived(text: str) -> str:
    """``DERIVED`` and 32 hexadecimal digits: the same for the same text, in every process."""
    return f"{DERIVED}{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"
