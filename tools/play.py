"""`bot4 play`: serve a recording as its venue's own WebSocket and REST endpoints on loopback, with faults on demand."""

from __future__ import annotations

import argparse
import sys

import orjson

from procs.captures import CaptureError
from procs.config_file import read_settings
from procs.embedded.errors import VenueError
from procs.embedded.server import require_loopback
from procs.wire_player.faults import parse_fault
from procs.wire_player.recording import Recording
from procs.wire_player.server import PlayerError, PlaySettings, WirePlayer, serve_forever
from tools.selection import selection_of
from tools.text import parse_speed
from tools.usage import UsageError


def _torn(recording: Recording) -> str:
    """A line about a capture that ends torn; empty for one that does not."""
    if not recording.torn_bytes:
        return ""
    return f"the last {recording.torn_bytes} bytes are torn, or being written: they are not played\n"


def play_command(options: argparse.Namespace) -> int:
    """Play until Ctrl-C or SIGTERM. Once ready, --json prints {rest_url, ws_url, venue, items, streams}."""
    embedded = read_settings(options.config).embedded
    port = embedded.port if options.port is None else options.port
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: allowed are 0 to 65535")
    try:
        faults = tuple(parse_fault(text) for text in options.fault)
    except ValueError as error:
        raise UsageError(f"--fault {error}") from None
    selection = selection_of(options)
    settings = PlaySettings(embedded.host, port, parse_speed(options.speed), seed=options.seed, faults=faults)
    for path in options.source:
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or folder")

    def announce(player: WirePlayer) -> None:
        host = settings.host if ":" not in settings.host else f"[{settings.host}]"
        urls = {"rest_url": f"http://{host}:{player.port}", "ws_url": f"ws://{host}:{player.port}"}
        streams = sorted(player.venue.streams)
        if options.json:
            answer = urls | {"venue": player.venue.name, "items": recording.count, "streams": streams}
            answer["torn_bytes"] = recording.torn_bytes
            sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
            sys.stdout.buffer.flush()
        else:
            print(
                f"{player.venue.name}: {recording.count} frames and snapshots of {len(streams)} streams\n"
                f"{_torn(recording)}"
                f"REST {urls['rest_url']}\nWebSocket {urls['ws_url']}\n"
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
