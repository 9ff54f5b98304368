"""The one seam for random ids. Nothing that decides anything may come through here."""

from __future__ import annotations

import secrets


def new_session_id() -> str:
    """8 hex digits that tell the client order ids of one session from those of any other."""
    return secrets.token_hex(4)
