"""Who the kill switch is at the venue: a key for cancels and questions, and one that flattening alone uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.config import ConnectionSettings
from procs.venues.binance_usdm.endpoints import Credentials, load_credentials


@dataclass(frozen=True)
class KillCredentials:
    """For cancels and questions, and for flattening."""

    cancel: Credentials
    flatten: Credentials


def kill_credentials(venue: ConnectionSettings, handed: dict[str, str]) -> KillCredentials:
    """Read the files that the settings name; without one the key that was handed over is used.

    The embedded venue knows one key. Raises CredentialsError.
    """
    cancel = load_credentials(Path(venue.kill_credentials_file)) if has_own_key(venue) else Credentials(**handed)
    own_flatten = not venue.embedded and venue.flatten_credentials_file
    flatten = load_credentials(Path(venue.flatten_credentials_file)) if own_flatten else cancel
    return KillCredentials(cancel, flatten)


def has_own_key(venue: ConnectionSettings) -> bool:
    """Whether the kill switch has a key of its own, and need not be handed the engine's."""
    return not venue.embedded and bool(venue.kill_credentials_file)
