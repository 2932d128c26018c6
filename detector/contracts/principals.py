"""Principals: who is enforced. API keys never leave the serving process in clear."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

ANONYMOUS = "anonymous"
"""The principal of a request that carries no identity at all."""

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
