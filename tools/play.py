"""`bot4 play`: serve a recording as its venue's own WebSocket and REST endpoints on loopback, with faults on demand.

With --orders an account trades beside it; its settings are those of the embedded exchange ([embedded] in bot4.toml).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

import orjson

from engine.matching.settings import VenueSettings
from procs.captures import CaptureError
from procs.config_file import read_settings
from procs.embedded.errors import VenueError
from procs.embedded.server import require_loopback
from procs.wire_player.faults import parse_fault
from procs.wire_player.recording import Recording
from procs.wire_player.server import PlayerError, PlaySettings, WirePlayer, serve_forever
from tools.selection import selection_of
from tools.text import parse_speed
from tools.usage import UsageError, require_there

_LONGEST_LATENCY_MS = 60_000
_OTHER_TIME = (
    "its clock is the recording's: an engine that trades here pauses, unless its bot4.toml has "
    'clock = "off" in [panic]\n'
)


def _torn(recording: Recording) -> str:
    """A line about a capture that ends torn; empty for one that does not."""
    if not recording.torn_bytes:
        return ""
    return f"the last {recording.torn_bytes} bytes are torn, or being written: they are not played\n"


def _account(options: argparse.Namespace, embedded: VenueSettings) -> VenueSettings | None:
    """The settings of the account that takes orders; None without --orders. Raises UsageError."""
    if not options.orders:
        if options.latency is not None or options.cancelled is not None:
            raise UsageError("--latency, --cancelled: of orders, which --orders lets the player take")
        return None
    if options.latency is None:
        return embedded
    if not 0 <= options.latency <= _LONGEST_LATENCY_MS:
        raise UsageError(f"--latency {options.latency}: allowed are 0 to {_LONGEST_LATENCY_MS} ms")
    return dataclasses.replace(embedded, matching_delay_ms=options.latency)


def play_command(options: argparse.Namespace) -> int:
    """Play until Ctrl-C or SIGTERM. Once ready, --json prints {rest_url, ws_url, venue, items, streams, torn_bytes},
    with --orders api_key and secret too."""
    embedded = read_settings(options.config).embedded
    port = embedded.port if options.port is None else options.port
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: allowed are 0 to 65535")
    try:
        faults = tuple(parse_fault(text) for text in options.fault)
    except ValueError as error:
        raise UsageError(f"--fault {error}") from None
    selection = selection_of(options)
    settings = PlaySettings(
        embedded.host, port, parse_speed(options.speed), seed=options.seed, faults=faults,
        account=_account(options, embedded), cancelled=options.cancelled or "careful",
    )
    require_there(*options.source)

    def announce(player: WirePlayer) -> None:
        host = settings.host if ":" not in settings.host else f"[{settings.host}]"
        urls = {"rest_url": f"http://{host}:{player.port}", "ws_url": f"ws://{host}:{player.port}"}
        streams = sorted(player.venue.streams)
        trading = player.trading
        keys = {"api_key": trading.key, "secret": trading.secret} if trading else {}
        if options.json:
            answer = urls | keys | {"venue": player.venue.name, "items": recording.count, "streams": streams}
            answer |= {"torn_bytes": recording.torn_bytes}
            sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
            sys.stdout.buffer.flush()
        else:
            print(
                f"{player.venue.name}: {recording.count} frames and snapshots of {len(streams)} streams\n"
                f"{_torn(recording)}"
                f"REST {urls['rest_url']}\nWebSocket {urls['ws_url']}\n"
                f"{''.join(f'{name} {value}{chr(10)}' for name, value in keys.items())}"
                f"{_OTHER_TIME if trading else ''}"
                f"{urls['rest_url']}/bot4/player tells what was played and which faults took effect; Ctrl-C stops"
            )
            sys.stdout.flush()

    try:
        require_loopback(settings.host)
        recording = Recording(options.source, selection)
        return serve_forever(recording, settings, announce)
    except (CaptureError, PlayerError, VenueError) as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
