"""What is installed, whether it is compiled, and what time it is."""

from __future__ import annotations

import ast
import ctypes
import hashlib
import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from engine.config import MARKETS
from engine.kernel import PROJECT_ROOT, UserSourceClosureLocator, checked_mode, kernel_stamp
from models.inference import ModelError, load_card
from procs.inference import model_path
from procs.venue_clock import TIME_PATHS, clock_ahead_ms
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.warm import FLOORS
from tools.doctor.finding import Finding, Host, Level

CONSTRAINTS = PROJECT_ROOT / "constraints.txt"  # the versions that were tested
_TOLERATED_OFFSET_MS = 500  # half of the time for which an order is valid
_CLOCK_ERROR = 5  # adjtimex: the clock is not synchronised


def check_versions(host: Host) -> Iterator[Finding]:
    """Whether the libraries are those that the project was tested with."""
    constraints = host.text(str(CONSTRAINTS.relative_to("/")))
    tested = dict(line.split("==") for line in (constraints or "").split() if "==" in line)
    needed = [line.split(";")[0].strip() for line in requires("bot4") or [] if "extra ==" not in line]
    different, missing, unknown = [], [], []
    for name in needed:
        try:
            have = version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if name not in tested:
            unknown.append(name)
        elif tested[name] != have:
            different.append(f"{name} {have} (tested: {tested[name]})")
    if missing:
        yield Finding("libraries", Level.PROBLEM, f"missing: {', '.join(missing)}", "the engine does not start",
                      "`pip install --constraint constraints.txt .`")
    if different:
        yield Finding("libraries", Level.WARNING, ", ".join(different),
                      "nobody has run these together; a replay may give another hash",
                      "`pip install --constraint constraints.txt .`")
    if constraints is None:
        unknown = [f"{CONSTRAINTS} cannot be read"]
    if unknown:
        yield Finding("libraries", Level.NOTE, f"not compared: {', '.join(unknown)}",
                      "whether these versions were ever run together is not known here",
                      "install from the project's folder, whose constraints.txt names what it was tested with")
    if not missing and not different and not unknown:
        yield Finding("libraries", Level.OK, f"Python {platform.python_version()}, {len(needed)} as tested")


def _entry_points(file: Path) -> set[str]:
    """Names of the functions of a file that are compiled, or loaded from the cache, when it is imported."""
    content = file.read_bytes()
    if b"@kernel(" not in content:
        return set()
    return {
        node.name for node in ast.parse(content, str(file)).body if isinstance(node, ast.FunctionDef)
        for made in node.decorator_list
        if isinstance(made, ast.Call) and getattr(made.func, "id", "") == "kernel" and made.args
    }  # fmt: skip


def _can_write(folder: Path) -> bool:
    """Whether this user may write to a folder, or make it."""
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return os.access(there, os.W_OK | os.X_OK)


def _cache_of(file: Path) -> tuple[Path, bool]:
    """Where a process of this user looks for the compiled form of a file, and whether it can keep one there."""
    own = file.parent / "__pycache__"
    users = Path(UserSourceClosureLocator(_cache_of, str(file)).get_cache_path())
    if not _can_write(own) and _can_write(users):
        return users, True
    return own / "checked" if checked_mode() else own, _can_write(own)


def _compiled(file: Path) -> set[str]:
    """Names of the functions of a file that a cache holds as they are in the source now."""
    folder, _ = _cache_of(file)
    stamp = hashlib.sha256(repr(kernel_stamp(file)).encode()).hexdigest()[:12]  # as NamedCacheFile names files
    named = re.compile(rf"{re.escape(file.stem)}\.(\w+)-\d+\.[^.]+\.{stamp}-\w+\.nbc")
    names = os.listdir(folder) if folder.is_dir() else []
    return {match[1] for name in names if (match := named.fullmatch(name))}


def uncompiled(root: Path = PROJECT_ROOT) -> list[Path]:
    """Files below the floors with an entry point that the next process would have to compile."""
    files = sorted(file for floor in FLOORS for file in (root / floor).rglob("*.py"))
    return [file for file in files if (needed := _entry_points(file)) and needed - _compiled(file)]


def check_kernels(host: Host) -> Iterator[Finding]:
    """Whether the first start has to compile."""
    files = uncompiled()
    if not files:
        yield Finding("compiled kernels", Level.OK, "in the cache")
        return
    found = f"of {len(files)} files not in the cache, such as {files[0].name}"
    if all(_cache_of(file)[1] for file in files):
        yield Finding("compiled kernels", Level.NOTE, found, "the first start takes minutes",
                      "`python -m procs.warm`, once, before any engine starts")
        return
    yield Finding("compiled kernels", Level.WARNING, f"{found}; no folder for one can be written",
                  "every process compiles them for itself, which takes minutes each time",
                  "set XDG_CACHE_HOME to a folder of yours, then `python -m procs.warm`, once")


def check_model(host: Host) -> Iterator[Finding]:
    """Whether the model fits the features."""
    try:
        load_card(model_path(host.settings.model.path), host.settings.features)
    except ModelError as error:
        yield Finding("model", Level.PROBLEM, str(error), "the engine does not start", "another model.path")
        return
    yield Finding("model", Level.OK, "fits the features")


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), its first fields; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_long * 32),
    )


def kernel_clock() -> tuple[bool, int]:
    """Whether the kernel's clock is disciplined, and its largest error in us, by adjtimex(2); it changes nothing."""
    asked = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked))
    return state not in (-1, _CLOCK_ERROR), int(asked.maxerror)


def check_clock(host: Host) -> Iterator[Finding]:
    """Whether anybody keeps the clock right."""
    synchronised, error_us = kernel_clock()
    if synchronised:
        yield Finding("clock", Level.OK, f"disciplined, off by {error_us / 1000:.1f} ms at the most")
        return
    level = Level.NOTE if host.settings.venue.embedded else Level.WARNING
    yield Finding(
        "clock", level, "nobody says that it is right (no time service disciplines it)",
        "a venue refuses orders whose time stamp is off, and latencies to it cannot be told",
        "run chrony or systemd-timesyncd; where the hypervisor sets the clock this is fine",
    )


def check_venue(host: Host) -> Iterator[Finding]:
    """Whether a venue that is not embedded answers, how fast, and how far its clock is from ours."""
    venue = host.settings.venue
    path = TIME_PATHS.get(MARKETS[venue.market])
    if venue.embedded or path is None:
        return
    url = venue.rest_url + path
    try:
        ahead_ms, way_ms = clock_ahead_ms(url)
    except VenueUnreachable as error:
        yield Finding("venue", Level.PROBLEM, str(error), "the engine does not start",
                      "look at venue.rest_url, the network, and the venue's status page")
        return
    found = f"{url} answers in {way_ms:.0f} ms; our clock is {ahead_ms:+.0f} ms ahead of its, +-{way_ms / 2:.0f}"
    if abs(ahead_ms) <= _TOLERATED_OFFSET_MS + way_ms / 2:
        yield Finding("venue", Level.OK, found)
        return
    yield Finding("venue", Level.PROBLEM, found, "the venue refuses our orders, or takes those that are too late",
                  "run chrony or systemd-timesyncd")


CHECKS = (check_versions, check_kernels, check_model, check_clock, check_venue)
