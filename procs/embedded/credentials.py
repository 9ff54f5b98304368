"""API key and secret of an embedded venue: made at the start, the only place of the room that draws random numbers."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def random_key() -> str:
    """64 letters and digits, the form of the venue's keys."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(64))
