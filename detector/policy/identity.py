"""Ids that are functions of content, so that every reader recognises a repeat."""

from __future__ import annotations

import hashlib
import json


def content_id(*parts: object, size: int = 16) -> str:
    """BLAKE2b over ``parts`` (strings, numbers, lists of them) as JSON: ``2 * size`` hexadecimal digits."""
    text = json.dumps(parts, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()
