"""Whole engines and venues for the session tests (tools/soak/session.py), with a stock ccxt client on the venue."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ccxt

from tests.embedded_venue import ccxt_client
from tools.soak import session
from tools.soak.session import BOT4, PROJECT_ROOT, Engine, bot4, engine, leftovers, replay, toml_of, wait_until

__all__ = [
    "BOT4", "PROJECT_ROOT", "Engine", "Venue", "bot4", "engine", "leftovers", "replay", "toml_of", "venue",
    "wait_until",
]


class Venue(session.Venue):
    """A venue process with a client of its own."""

    def client(self) -> ccxt.binanceusdm:
        """A stock ccxt client on this venue."""
        return ccxt_client(SimpleNamespace(**self.address))


@contextlib.contextmanager
def venue(folder: Path, **settings: Any) -> Iterator[Venue]:
    """A venue process."""
    made = Venue(folder, **settings)
    try:
        yield made
    finally:
        made.stop()
