"""Reading bot4.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from engine.config import Settings, settings_from
from engine.settings import SettingsError

DEFAULT_FILE = "bot4.toml"


def read_settings(path: Path | None) -> Settings:
    """The settings of a file; None means bot4.toml of the working directory if it is there, else the defaults.

    Raises SettingsError whose text begins with the file's name.
    """
    if path is None:
        path = Path(DEFAULT_FILE)
        if not path.exists():
            return settings_from({})
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number or a nesting beyond all bounds
        raise SettingsError(f"{path}: {error}") from None
    try:
        return settings_from(values)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
