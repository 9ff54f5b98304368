"""What this user may do here: priorities, memory, files; and the room that sessions have."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

from engine.config import TRADED_MARKETS
from engine.safety.settings import SafetySettings
from procs.control_plane import control_folder
from procs.gpio.lines import host_lacks
from procs.operator_secret import SECRET_NAME
from procs.table import RINGS
from procs.triggers import triggers_lack
from procs.trusted import OTHERS_MAY_WRITE, NotOurs, check_config, check_ours, check_shared_memory, read_ours
from procs.venues.binance_usdm.endpoints import CredentialsError, load_credentials
from tools.doctor.finding import Finding, Host, Level

_UNLIMITED = 1 << 62
_CAP_IPC_LOCK = 14
_CAP_SYS_NICE = 23
_MIB = 1 << 20
_DESCRIPTORS = 1024  # of one process: rings, journals, sockets
_DISK_HOUR_BYTES = 2 << 30  # what an hour of a busy session leaves at the most
_FOLDER_KIND = 0o040000


def _limit(host: Host, name: str) -> int:
    """A soft limit of this process, in the units that proc(5) has; unlimited is a very large number."""
    match = re.search(rf"^{name}\s+(\S+)", host.text("proc/self/limits") or "", re.MULTILINE)
    return _UNLIMITED if match is None or match[1] == "unlimited" else int(match[1])


def _may(host: Host, capability: int) -> bool:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", host.text("proc/self/status") or "", re.MULTILINE)
    return match is not None and bool(int(match[1], 16) >> capability & 1)


def check_priority(host: Host) -> Iterator[Finding]:
    """Whether the kill switch gets the priority that it asks for."""
    allowed = _limit(host, "Max realtime priority")
    if _may(host, _CAP_SYS_NICE) or allowed >= 1:
        yield Finding("real-time priority", Level.OK, "permitted")
        return
    yield Finding(
        "real-time priority", Level.WARNING, "not permitted",
        "the kill switch waits for a core like everybody else",
        f"`{_user()} - rtprio 10` in /etc/security/limits.conf, then log in anew; or `LimitRTPRIO=10` of the service",
    )


def check_locked_memory(host: Host) -> Iterator[Finding]:
    """Whether the emergency word can be kept in memory."""
    allowed = _limit(host, "Max locked memory")
    if _may(host, _CAP_IPC_LOCK) or allowed >= _MIB:
        said = "any" if allowed >= _UNLIMITED or _may(host, _CAP_IPC_LOCK) else f"{allowed >> 10} KiB"
        yield Finding("locked memory", Level.OK, f"{said} permitted")
        return
    yield Finding(
        "locked memory", Level.WARNING, f"{allowed >> 10} KiB permitted",
        "the page of the emergency word may be swapped out",
        f"`{_user()} - memlock unlimited` in /etc/security/limits.conf, then log in anew; or `LimitMEMLOCK=infinity`",
    )


def check_descriptors(host: Host) -> Iterator[Finding]:
    """Whether a process may open what it needs."""
    allowed = _limit(host, "Max open files")
    if allowed >= _DESCRIPTORS:
        yield Finding("open files", Level.OK, f"{allowed if allowed < _UNLIMITED else 'any number'}")
        return
    yield Finding(
        "open files", Level.WARNING, str(allowed), "a venue's sockets or a journal may not be opened",
        f"`ulimit -n {_DESCRIPTORS}` or more",
    )


def check_shared_memory_room(host: Host) -> Iterator[Finding]:
    """Whether the rings fit into /dev/shm."""
    budget = host.settings.engine.memory_budget_mib * _MIB
    try:
        status = os.statvfs(host.root / "dev/shm")
    except OSError as error:
        yield Finding(
            "shared memory", Level.PROBLEM, f"/dev/shm: {error.strerror}", "the engine does not start",
            "mount a tmpfs there",
        )
        return
    free = status.f_bavail * status.f_frsize
    smallest = sum(ring.dtype.itemsize * 1024 for ring in RINGS)
    found = f"{free // _MIB} MiB free in /dev/shm, {budget // _MIB} MiB are the budget of an engine"
    if free >= budget:
        yield Finding("shared memory", Level.OK, found)
        return
    level = Level.PROBLEM if free < smallest else Level.WARNING
    used = (status.f_blocks - status.f_bfree) * status.f_frsize  # a size below what is used is refused
    yield Finding(
        "shared memory", level, found, "a page that finds no room ends the process that touches it",
        f"`mount -o remount,size={(used + 2 * budget) // _MIB}M /dev/shm`, or a smaller engine.memory_budget_mib",
    )


def check_leftovers(host: Host) -> Iterator[Finding]:
    """Whether somebody else's segments bear this engine's name."""
    try:
        check_shared_memory(host.settings.engine.name)
    except NotOurs as error:
        yield Finding(
            "segments", Level.PROBLEM, str(error), "the engine does not start on memory that others can write",
            "remove it once you know whose it is, or give the engine another name",
        )
        return
    yield Finding("segments", Level.OK, f"none of this name ({host.settings.engine.name}) is another user's")


def check_data_folder(host: Host) -> Iterator[Finding]:
    """Whether sessions can be written, and for how long."""
    folder = Path(host.settings.engine.data_folder).absolute()
    try:
        there = check_ours(folder, _FOLDER_KIND, OTHERS_MAY_WRITE)
    except NotOurs as error:
        yield Finding("data folder", Level.PROBLEM, str(error), "the engine does not start", "engine.data_folder")
        return
    standing = folder if there else next(parent for parent in folder.parents if parent.exists())
    if not os.access(standing, os.W_OK | os.X_OK):
        yield Finding(
            "data folder", Level.PROBLEM, f"{standing} cannot be written by you", "no journal, so no trading",
            f"`chmod u+rwx {standing}`" if there else "start in a folder of yours, or another engine.data_folder",
        )
        return
    status = os.statvfs(standing)
    free = status.f_bavail * status.f_frsize
    found = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free >= _DISK_HOUR_BYTES:
        yield Finding("data folder", Level.OK, found)
        return
    yield Finding(
        "data folder", Level.WARNING, found, "the engine stops when its journals find no room",
        f"{_DISK_HOUR_BYTES >> 30} GiB or more for each busy hour",
    )


def check_config_file(host: Host) -> Iterator[Finding]:
    """Whether others may change what the engine is told."""
    try:
        check_config(host.config)
    except NotOurs as error:
        yield Finding("configuration", Level.PROBLEM, str(error), "the engine does not start", "see what is found")
        return
    yield Finding("configuration", Level.OK, "no other user may write it")


def _trades_live(host: Host) -> bool:
    """Whether orders may reach a venue outside of this machine: some markets can be recorded and no more."""
    venue = host.settings.venue
    return not venue.embedded and venue.market in TRADED_MARKETS


def check_credentials(host: Host) -> Iterator[Finding]:
    """Whether every key that is named can be read, by us alone. No key is shown."""
    venue = host.settings.venue
    if venue.embedded:
        yield Finding("credentials", Level.OK, "none are needed on paper")
        return
    if not _trades_live(host):
        yield Finding(
            "credentials", Level.NOTE, f"none are needed for {venue.market}: it can be recorded, and not traded",
            "`bot4 run` refuses it", f"`bot4 record`; venue.market = {' or '.join(map(repr, TRADED_MARKETS))} to trade",
        )
        return
    for name in ("credentials_file", "kill_credentials_file", "flatten_credentials_file"):
        file = getattr(venue, name)
        if not file and name == "credentials_file":
            yield Finding(
                "credentials", Level.PROBLEM, "venue.credentials_file is empty",
                "no order can be sent; `bot4 record` works without a key",
                "a TOML file of mode 0600 with api_key and secret",
            )
        elif not file:
            yield Finding(
                "credentials", Level.NOTE, f"venue.{name} is empty",
                "the kill switch uses the engine's key: one that is withdrawn takes both out",
                "a second key at the venue, that may " + ("trade" if "flatten" in name else "only cancel and ask"),
            )
        else:
            try:
                load_credentials(Path(file))
            except CredentialsError as error:
                yield Finding("credentials", Level.PROBLEM, f"venue.{name}: {error}", "the engine does not start",
                              f"`chmod 600 {file}`, with api_key and secret in it")
                continue
            yield Finding("credentials", Level.OK, f"venue.{name}: readable by you alone")


def check_operator_secret(host: Host) -> Iterator[Finding]:
    """Whether an emergency can be left again."""
    safety: SafetySettings = host.settings.safety
    if safety.operator_secret != "required" or not (_trades_live(host) or host.settings.venue.embedded):
        yield Finding("operator secret", Level.OK, "not asked for: nothing is traded but on paper")
        return
    folder = control_folder(Path(host.settings.engine.data_folder).absolute(), host.settings.engine.name)
    try:
        kept = read_ours(folder / SECRET_NAME)
    except NotOurs as error:
        yield Finding("operator secret", Level.PROBLEM, str(error), "nobody can reset an emergency", "`bot4 secret`")
        return
    if kept is not None:
        yield Finding("operator secret", Level.OK, "set")
        return
    yield Finding(
        "operator secret", Level.WARNING, "not set", "nobody can reset an emergency, or ask for a mode less safe",
        "`bot4 secret`",
    )


def check_buttons(host: Host) -> Iterator[Finding]:
    """Whether the red buttons that are asked for can be served, and whether there is one."""
    settings = host.settings
    missing = triggers_lack(settings)
    if missing:
        yield Finding("red button", Level.PROBLEM, missing, "the engine does not start without it", "docs/operator.md")
    elif settings.gpio.enabled or settings.remote_button.enabled:
        which = [name for name, on in (
            ("on this machine's pins", settings.gpio.enabled), ("over the network", settings.remote_button.enabled)
        ) if on]  # fmt: skip
        yield Finding("red button", Level.OK, " and ".join(which))
    else:
        level = Level.WARNING if _trades_live(host) else Level.OK
        yield Finding(
            "red button", level, "none", "" if level == Level.OK else "a stop needs a terminal on this machine",
            "" if level == Level.OK else "[gpio] or [remote_button]; docs/operator.md",
        )


def check_pins(host: Host) -> Iterator[Finding]:
    """Whether this machine has pins that a button could be wired to, where none is asked for."""
    settings = host.settings
    if settings.gpio.enabled:
        return  # check_buttons says what these lack
    devices = sorted(path.name for name in ("gpiochip*", "gpiomem") for path in (host.root / "dev").glob(name))
    if not devices:
        yield Finding("pins", Level.OK, "none on this machine")
        return
    found = f"{', '.join(devices)} in /dev; [gpio] is off"
    if not _trades_live(host) or settings.remote_button.enabled:
        yield Finding("pins", Level.OK, found)
        return
    missing = host_lacks(settings.gpio)
    yield Finding(
        "pins", Level.NOTE, found, "a red button could be wired to them",
        f"[gpio] enabled = true; docs/operator.md{f'; {missing}' if missing else ''}",
    )


def _user() -> str:
    """Our name as limits.conf wants it: a number alone is no user there, a range of one number is."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"{os.geteuid()}:{os.geteuid()}"


CHECKS = (
    check_priority, check_locked_memory, check_descriptors, check_shared_memory_room, check_leftovers,
    check_data_folder, check_config_file, check_credentials, check_operator_secret, check_buttons,
    check_pins,
)
