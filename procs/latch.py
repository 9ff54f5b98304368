"""The latch: the mode of an instance on disk, so that a restart or a reboot comes back in it.

One JSON file, mode 0600, replaced whole and synced. It carries its own checksum: one that is damaged reads EMERGENCY,
and so does one that is missing where the audit log says that there was one. A spare file keeps room for it, so that a
trip is kept on a full disk too. A trip acts first and is written right after; a step towards less safe is written here
after it took effect, so that what a crash leaves is the safer one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from engine.safety.mode import Mode
from engine.safety.modes import OPERATOR_CAUSE, By, Emergency, Hold, ModeState
from procs.trusted import read_ours, replace_file, use_spare, write_spare

LATCH_NAME = "latch.json"
_SPARE_NAME = "latch.spare"
_SPARE_BYTES = 1 << 16
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_VERSION = 1


@dataclass(frozen=True)
class Latch:
    """What outlives a session: the machine's state and the attempts at the operator's secret."""

    state: ModeState = field(default_factory=ModeState)
    attempts: tuple[int, ...] = ()  # when, ns: wrong ones, and those whose answer is not known
    locked_until_ns: int = 0


def _state_as_plain(state: ModeState) -> dict[str, Any]:
    emergency = state.emergency
    return {
        "holds": [
            {
                "cause": item.cause, "mode": item.mode.name, "by": item.by.value, "reason": item.reason,
                "since_ns": item.since_ns, "clear_since_ns": item.clear_since_ns, "stale": item.stale,
            }
            for item in state.holds
        ],
        "emergency": None if emergency is None else {
            "sources": list(emergency.sources), "reason": emergency.reason, "since_ns": emergency.since_ns,
            "acknowledged_by": emergency.acknowledged_by,
        },
        "auto_returns": list(state.auto_returns),
    }


def _state_from_plain(plain: dict[str, Any]) -> ModeState:
    holds = tuple(
        Hold(
            str(item["cause"]), Mode[item["mode"]], By(item["by"]), str(item["reason"]), int(item["since_ns"]),
            int(item["clear_since_ns"]), bool(item["stale"]),
        )
        for item in plain["holds"]
    )
    for item in holds:
        if item.mode not in (Mode.REDUCE, Mode.PAUSE) or (item.cause == OPERATOR_CAUSE) != (item.by == By.OPERATOR):
            raise ValueError(f"{item.cause!r} cannot hold {item.mode.name}")
    kept = plain["emergency"]
    emergency = None
    if kept is not None:
        sources = tuple(str(source) for source in kept["sources"])
        emergency = Emergency(sources, str(kept["reason"]), int(kept["since_ns"]), str(kept["acknowledged_by"]))
    return ModeState(holds, emergency, tuple(int(at) for at in plain["auto_returns"]))


def write_latch(folder: Path, instance: str, latch: Latch) -> None:
    """Keep the latch; it is on the disk on return. Raises OSError or NotOurs."""
    body = orjson.dumps(
        {
            "version": _VERSION, "instance": instance, "mode": latch.state.mode.name,
            "state": _state_as_plain(latch.state), "attempts": list(latch.attempts),
            "locked_until_ns": latch.locked_until_ns,
        },
        option=orjson.OPT_INDENT_2,
    )
    content = body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"
    path, spare = folder / LATCH_NAME, folder / _SPARE_NAME
    try:
        replace_file(path, content)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        use_spare(path, spare, content)
    with contextlib.suppress(OSError):  # the latch is kept; room for the next one is tried for again with that
        write_spare(spare, _SPARE_BYTES)


def damaged(why: str, now_ns: int) -> Latch:
    """What is read where the latch cannot be."""
    return Latch(ModeState(emergency=Emergency(("INTEGRITY",), why, now_ns)))


def read_latch(folder: Path, instance: str, expected: bool, now_ns: int) -> Latch:
    """The latch of an instance; NORMAL where there never was one. Raises NotOurs.

    expected: there must be one, since the instance has run before.
    """
    content = read_ours(folder / LATCH_NAME)
    if content is None:
        return damaged("the latch file is missing", now_ns) if expected else Latch()
    body, _, checksum = content.removesuffix(b"\n").rpartition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        return damaged("the latch file is damaged", now_ns)
    try:
        plain = orjson.loads(body)
        if plain["version"] != _VERSION or plain["instance"] != instance:
            return damaged("the latch file is of another instance or version", now_ns)
        state = _state_from_plain(plain["state"])
        return Latch(state, tuple(int(at) for at in plain["attempts"]), int(plain["locked_until_ns"]))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return damaged(f"the latch file cannot be understood: {type(error).__name__}", now_ns)
