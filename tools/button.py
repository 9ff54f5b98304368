"""`bot4 button`: the red button on a machine of its own, such as a Raspberry Pi; its key, and its one-file copy.

    bot4 button --make-key FILE             make the key that engine and button share
    bot4 button --bundle FILE               this program as one file that needs nothing but Python 3.11 or newer
    bot4 button --engine HOST --key FILE    serve the button; --config: a file with [gpio], as the engine's has it
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import threading
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from engine.safety.button_settings import GpioSettings, RemoteButtonSettings, check_gpio, check_remote_button
from engine.settings import SettingsError, build
from procs.button_sender import ButtonSender, EngineUnknown
from procs.gpio.button import OpenLines
from procs.gpio.lines import GpioError, host_lacks, open_lines
from procs.key_file import KeyFileError, load_key, make_key
from tools.button_options import DEFAULT_NAME, add_options
from tools.usage import UsageError


def button_command(options: argparse.Namespace) -> int:
    """Run the command; exit code 1 when pins, key or engine's address are not there."""
    try:
        if options.make_key is not None:
            make_key(options.make_key)
            return _done(options, f"key written to {options.make_key}; copy it to the other machine, mode 0600")
        if options.bundle is not None:
            from tools.button_bundle import write_bundle

            write_bundle(options.bundle)
            return _done(options, f"{options.bundle}: copy it to the other machine, run it with python3")
        return _serve(options)
    except (KeyFileError, GpioError, EngineUnknown, OSError) as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1


def _done(options: argparse.Namespace, words: str) -> int:
    print(json.dumps({"done": words}) if options.json else words)
    return 0


def _tables(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, Mapping):
        raise SettingsError(f"{name}: a table is needed")
    return table


def _address(text: str, port: int) -> tuple[str, int]:
    """Host and port of HOST, HOST:PORT or [HOST]:PORT. Raises UsageError."""
    host, colon, given = text.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")):
        host, given = text, str(port)
    if not host.strip("[]") or not given.isdigit() or not 0 < int(given) < 65536:
        raise UsageError(f"--engine {text}: HOST or HOST:PORT is needed")
    return host.strip("[]"), int(given)


def _serve(options: argparse.Namespace) -> int:
    tables = _tables(options.config)
    gpio = build(GpioSettings, _table(tables, "gpio"), "gpio")
    remote = build(RemoteButtonSettings, _table(tables, "remote_button"), "remote_button")
    try:
        check_gpio(gpio, embedded=True)  # a mock is refused by the engine, which knows what it trades
        check_remote_button(dataclasses.replace(remote, enabled=False))
    except ValueError as error:
        raise SettingsError(str(error)) from None
    name = options.name or _table(tables, "engine").get("name", DEFAULT_NAME)
    address = _address(options.engine, remote.port)
    if options.key is None and not remote.key_file:
        raise UsageError("--key FILE is needed (or remote_button.key_file in the configuration)")
    key = load_key(options.key or Path(remote.key_file))
    if missing := host_lacks(gpio):
        raise GpioError(missing)
    sender = ButtonSender(gpio, remote, name, address, key, _opener(gpio), _say)
    stopping = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sender.run(lambda: not stopping.is_set())
    _say("stopped: the engine loses this button, and trips")
    return 0


def _say(event: str, **fields: Any) -> None:
    """One JSON line an event; a reader that has gone is no reason to stop serving the button."""
    try:
        print(json.dumps({"event": event, **fields}), flush=True)
    except OSError:
        return


def _opener(gpio: GpioSettings) -> OpenLines:
    """How to open the pins; a mock's button follows standard input."""
    if gpio.backend != "mock":
        return open_lines
    from procs.gpio.mock_pins import mock_opener

    return mock_opener(lambda: sys.stdin)


def main() -> int:
    """Entry of the one-file copy."""
    parser = argparse.ArgumentParser(prog="button", description="The red button of a Bot4 engine, on its own machine.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with [gpio] and [remote_button]")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    add_options(parser)
    try:
        return button_command(parser.parse_args())
    except (SettingsError, UsageError) as error:
        print(f"button: {error}", file=sys.stderr)
        return 2
