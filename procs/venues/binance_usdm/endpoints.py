"""Where the venue is and who we are there."""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path


class VenueUnreachable(ConnectionError):
    """The venue does not answer, or not in a way that can be understood. `reason`: why, in two words, to count by."""

    def __init__(self, words: str, reason: str = "not understood") -> None:
        super().__init__(words)
        self.reason = reason


class CredentialsError(ValueError):
    """A credentials file that must not or cannot be used. Never carries a secret."""


@dataclass(frozen=True)
class Endpoints:
    """Roots of the venue: REST (without /fapi) and WebSocket (to which /public, /market, /private are added)."""

    rest_url: str
    ws_url: str


@dataclass(frozen=True)
class Credentials:
    """An API key and its secret. The secret is kept out of repr, so that no log can hold it by accident."""

    api_key: str = field(repr=False)
    secret: str = field(repr=False)


def load_credentials(path: Path) -> Credentials:
    """Read `api_key` and `secret` from a TOML file that only its owner can read.

    Raises CredentialsError naming the file and what is wrong with it.
    """
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError as error:
        raise CredentialsError(f"credentials file {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise CredentialsError(f"credentials file {path}: must be a plain file of yours with mode 0600")
    try:
        values = tomllib.loads(path.read_text())
        return Credentials(str(values["api_key"]), str(values["secret"]))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise CredentialsError(f"credentials file {path}: not valid TOML") from None
    except KeyError as error:
        raise CredentialsError(f"credentials file {path}: {error.args[0]} is missing") from None
