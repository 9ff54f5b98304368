"""The embedded exchange as a process of its own: it stands for the outside world, and outlives a supervisor."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from engine.config import Settings
from engine.settings import as_plain
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints

_STOP_TIMEOUT_MS = 10_000


class VenueDidNotStart(RuntimeError):
    """The embedded exchange ended before it listened; the message is its own last word."""


class VenueProcess:
    """A running embedded exchange, started here or by a supervisor before this one."""

    def __init__(self, pid: int, endpoints: Endpoints, credentials: Credentials) -> None:
        self.pid = pid
        self.endpoints = endpoints
        self.credentials = credentials
        self._pidfd = os.pidfd_open(pid)

    @classmethod
    def start(cls, settings: Settings, log: Path, lifeline: int) -> VenueProcess:
        """Start it and wait until it listens. lifeline: a descriptor; the venue ends when its other end is closed.

        Raises VenueDidNotStart.
        """
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "procs.embedded", orjson.dumps(as_plain(settings.embedded)).decode()],
                stdin=lifeline, stdout=subprocess.PIPE, stderr=output, start_new_session=True,
                cwd=Path(__file__).resolve().parent.parent,
            )
        assert popen.stdout is not None
        with popen.stdout as stdout:
            line = stdout.readline()
        try:
            address = orjson.loads(line)
        except orjson.JSONDecodeError:
            popen.kill()
            popen.wait()
            words = log.read_text(errors="replace").strip().splitlines()
            raise VenueDidNotStart(words[-1] if words else "the embedded venue ended before it was ready") from None
        popen.returncode = 0  # from here on it is waited for by its pidfd, whoever its parent is
        return cls(
            popen.pid, Endpoints(address["rest_url"], address["ws_url"]),
            Credentials(address["api_key"], address["secret"]),
        )

    def report(self) -> dict[str, Any]:
        """What the next supervisor needs to adopt it."""
        return {
            "pid": self.pid, "rest_url": self.endpoints.rest_url, "ws_url": self.endpoints.ws_url,
        }

    @classmethod
    def adopt(cls, report: dict[str, Any], credentials: Credentials) -> VenueProcess:
        """The venue that a supervisor before this one has started. Raises ProcessLookupError when it is gone."""
        return cls(report["pid"], Endpoints(report["rest_url"], report["ws_url"]), credentials)

    def stop(self) -> None:
        """End it and wait until it has ended."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        for signum in (signal.SIGTERM, signal.SIGKILL):
            try:
                signal.pidfd_send_signal(self._pidfd, signum)
            except ProcessLookupError:
                break
            if poller.poll(_STOP_TIMEOUT_MS):
                break
        os.close(self._pidfd)
