"""Whole engines and venues as a person starts them: `bot4 run` and `bot4 venue` as processes of their own.

The session tests and the long suites share this. Every engine has a name and a data folder of its own; when it is gone
`leftovers(name)` must be empty. Nothing outlives the `with` that started it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson
import psutil

from procs.attach import NotRunning, attach, lock_path, plan_path
from procs.control_socket import socket_path
from procs.instance import Mapping
from procs.table import Role
from shm.clock import python_monotonic_ns, sleep
from shm.segment import SegmentError, unlink_all
from tools.status import status_of

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent
# Three times the default flow of the embedded venue, and limits that an engine under it does not reach.
BUSY_MARKET = {
    "btcusdt": {"limit_rate": 330.0, "market_rate": 24.0}, "ethusdt": {"limit_rate": 270.0, "market_rate": 21.0},
}
WIDE_LIMITS = {"weight_limit_1m": 100_000, "order_limit_10s": 3_000, "order_limit_1m": 12_000}
BOT4 = [sys.executable, "-m", "tools.cli"]
_numbers = itertools.count()
T = TypeVar("T")
# What these sessions do to an engine would pause it for minutes; tests of the monitors ask for them.
CALM = dict.fromkeys(
    ("staleness", "book_lost", "spread", "api_errors", "latency", "order_rings", "market_rings", "clock", "ledger",
     "stalled"),
    "off",
)  # fmt: skip


class SessionError(RuntimeError):
    """A session did not do what it must; the message has what the engine said."""


def alive(pid: int) -> bool:
    """Whether a process runs or is stopped; a zombie does not."""
    try:
        return pid > 0 and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def bot4(*arguments: str, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*BOT4, *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=timeout, check=False, **options
    )


def replay(folder: Path, *arguments: str) -> dict[str, Any]:
    """The summary of a replay of a session's journal. Raises SessionError when the replay fails."""
    result = bot4("replay", str(folder), "--json", *arguments, timeout=600)
    if result.returncode != 0:
        raise SessionError(f"the replay of {folder} ended with exit code {result.returncode}: {result.stderr}")
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def _processes_of(name: str) -> list[psutil.Process]:
    """What still runs of an engine of that name: who was given its configuration, or has its memory mapped."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:  # it has ended, or is somebody else's
            maps = ""
        if f"{name}.toml" in " ".join(process.info["cmdline"] or []) or f"/dev/shm/bot4.{name}." in maps:
            found.append(process)
    return found


def leftovers(name: str) -> list[str]:
    """What an engine of that name has left in shared memory, and its processes that still run."""
    files = [path.name for path in Path("/dev/shm").glob(f"bot4*{name}*")]
    return files + [" ".join(process.info["cmdline"] or []) for process in _processes_of(name)]


def wait_until(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """The condition's first true value. Raises TimeoutError naming what was waited for."""
    deadline = python_monotonic_ns() + int(timeout * 1e9)
    while not (value := condition()):
        if python_monotonic_ns() > deadline:
            raise TimeoutError(f"after {timeout:.0f} s still no {what}")
        sleep(0.05)
    return value


@dataclass
class Engine:
    """A configuration of one engine, and the engine itself once it is started."""

    folder: Path
    name: str
    config: Path
    process: subprocess.Popen[str] | None = None

    @property
    def summary_file(self) -> Path:
        """Where `bot4 run` writes its summary."""
        return self.folder / "summary.json"

    @property
    def launcher(self) -> subprocess.Popen[str]:
        """The process of `bot4 run`. Raises SessionError when it was never started."""
        if self.process is None:
            raise SessionError(f"{self.name} was not started")
        return self.process

    def start(self, *arguments: str) -> None:
        """`bot4 run` in the background. What it says goes to files: nobody would empty a pipe for half an hour."""
        with self._said("out").open("w") as out, self._said("err").open("w") as err:
            self.process = subprocess.Popen(
                [*BOT4, "run", "--config", str(self.config), "--summary", str(self.summary_file), *arguments],
                cwd=PROJECT_ROOT, stdout=out, stderr=err, text=True,
            )

    def _said(self, stream: str) -> Path:
        return self.folder / f"{self.name}.{stream}"

    def run(self, *arguments: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """`bot4 run` to its end."""
        return bot4(
            "run", "--config", str(self.config), "--summary", str(self.summary_file), *arguments, timeout=timeout
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`bot4 WORDS --config ITS_OWN` to its end."""
        return bot4(*words, "--config", str(self.config))

    def look(self, read: Callable[[Mapping], T]) -> T | None:
        """What a function reads from the memory of the engine; None while there is none, or it is just going."""
        # From this process: one for each look would need a second of a core, which the engine has better use for.
        try:
            with contextlib.closing(attach(self.name)) as mapping:
                return read(mapping)
        except (NotRunning, SegmentError):
            return None

    def status(self) -> dict[str, Any] | None:
        """What `bot4 status --json` shows, None while nothing runs."""
        text = self.look(lambda mapping: orjson.dumps(status_of(mapping)))
        return orjson.loads(text) if text is not None else None

    def acked(self) -> int:
        """Orders that the venue has acknowledged so far."""
        return self.look(lambda mapping: int(mapping.state(Role.EXECUTION)["orders"]["acked"][0])) or 0

    def wait_trading(self, orders: int = 8) -> dict[str, Any]:
        """Wait until orders were acknowledged; the status then. Raises SessionError when the engine ends."""

        def trading() -> dict[str, Any] | None:
            if self.launcher.poll() is not None:
                raise SessionError(f"the engine ended early: {self.finish(signum=None)}")
            return self.status() if self.acked() >= orders else None

        return dict(wait_until(trading, 90, "orders"))

    def finish(self, signum: int | None = signal.SIGINT, timeout: float = 60) -> tuple[int, str, str]:
        """Send a signal (None: just wait) and wait for the end; exit code, output, errors."""
        if signum is not None:
            self.launcher.send_signal(signum)
        code = self.launcher.wait(timeout=timeout)
        return code, self._said("out").read_text(), self._said("err").read_text()

    def summary(self) -> dict[str, Any]:
        """The summary that the session has left."""
        content: dict[str, Any] = json.loads(self.summary_file.read_text())
        return content

    def kill(self) -> None:
        """Whatever has happened, nothing of it runs on, and no memory of it stays."""
        left = [process for process in _processes_of(self.name) if process.pid != os.getpid()]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if left:
            unlink_all(self.name)
            for path in (plan_path(self.name), lock_path(self.name), socket_path(self.name)):
                path.unlink(missing_ok=True)


def toml_of(tables: dict[str, dict[str, Any]]) -> str:
    """A small TOML text; values in JSON's notation, which TOML shares for what is used here."""
    lines = []
    for table, values in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
        inner = {f"{table}.{key}": value for key, value in values.items() if isinstance(value, dict)}
        lines.append(toml_of(inner))
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def engine(folder: Path, **tables: dict[str, Any]) -> Iterator[Engine]:
    """An engine with a configuration of its own."""
    tables.setdefault("engine", {})
    name = tables["engine"].get("name") or f"test-{os.getpid():x}-{next(_numbers):03d}"
    tables.setdefault("panic", dict(CALM))
    tables["engine"] = {"name": name, "data_folder": str(folder / "var"), "status_every_s": 1.0, **tables["engine"]}
    config = folder / f"{name}.toml"
    config.write_text(toml_of(tables))
    made = Engine(folder, name, config)
    try:
        yield made
    finally:
        made.kill()


class VenueAccess:
    """The own endpoints of an embedded venue, which no real venue has."""

    def __init__(self, rest_url: str) -> None:
        self.rest_url = rest_url

    def state(self) -> dict[str, Any]:
        """Ground truth."""
        content: dict[str, Any] = self._request("GET", "/bot4/state")
        return content

    def log(self) -> list[dict[str, Any]]:
        """What it accepted, and what traded."""
        content: list[dict[str, Any]] = self._request("GET", "/bot4/log")
        return content

    def fault(self, **request: Any) -> dict[str, Any]:
        """Order a fault, or a mix of them. Raises HTTPError when the venue does not know it."""
        content: dict[str, Any] = self._request("POST", "/bot4/faults", json.dumps(request).encode())
        return content

    def heal(self) -> None:
        """No more faults. A venue that is gone hears nobody: it is asked until it is back, a minute at the most."""

        def healed() -> bool:
            try:
                self._request("DELETE", "/bot4/faults")
            except OSError:
                return False
            return True

        wait_until(healed, 60, "venue that can be reached")

    def _request(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.rest_url + path, body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())


class Venue(VenueAccess):
    """`bot4 venue --json` as a process."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        config = folder / "venue.toml"
        config.write_text(toml_of({"embedded": settings}))
        self.process = subprocess.Popen(
            [*BOT4, "venue", "--json", "--config", str(config)], cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SessionError(f"the venue ended with exit code {self.process.wait()} before it was ready")
        self.address = json.loads(line)
        super().__init__(self.address["rest_url"])
        self.credentials = folder / "credentials.toml"
        descriptor = os.open(self.credentials, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f'api_key = "{self.address["api_key"]}"\nsecret = "{self.address["secret"]}"\n')

    @property
    def connection(self) -> dict[str, Any]:
        """The [venue] table of an engine that trades here."""
        return {
            "embedded": False, "rest_url": self.address["rest_url"], "ws_url": self.address["ws_url"],
            "credentials_file": str(self.credentials),
        }

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.communicate(timeout=15)


@contextlib.contextmanager
def venue(folder: Path, **settings: Any) -> Iterator[Venue]:
    """A venue process."""
    made = Venue(folder, **settings)
    try:
        yield made
    finally:
        made.stop()
