"""The one seam for random ids, keys and nonces. Nothing that decides a trade may come through here."""

from __future__ import annotations

import secrets


def new_session_id() -> str:
    """8 hex digits that tell the client order ids of one session from those of any other."""
    return secrets.token_hex(4)


def new_key(count: int) -> bytes:
    """So many bytes that nobody can guess."""
    return secrets.token_bytes(count)
