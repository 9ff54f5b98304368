"""`bot4 venue`: run the embedded exchange by itself, on loopback; it speaks as Binance USD-M, or as Binance spot."""

from __future__ import annotations

import argparse
import dataclasses
import sys

import orjson

from procs.config_file import read_settings
from procs.embedded.errors import VenueError
from procs.embedded.server import VenueAddress, serve_forever
from tools.usage import UsageError


def venue_command(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM. Once ready, --json prints {rest_url, ws_url, api_key, secret}."""
    settings = read_settings(options.config).embedded
    if options.port is not None:
        if not 0 <= options.port < 1 << 16:
            raise UsageError(f"--port {options.port}: allowed are 0 to 65535")
        settings = dataclasses.replace(settings, port=options.port)

    def announce(address: VenueAddress) -> None:
        if options.json:
            sys.stdout.buffer.write(orjson.dumps(address.as_dict()) + b"\n")
            sys.stdout.buffer.flush()
        else:
            # The secret of a venue that lives as long as this command is for its user alone, and only on request.
            print(f"REST {address.rest_url}\nWebSocket {address.ws_url}\nCtrl-C stops; --json also prints the API key")
            sys.stdout.flush()

    try:
        return serve_forever(settings, announce)
    except VenueError as error:
        print(f"bot4: {error}", file=sys.stderr)
        return 1
