"""Whether a session that goes on and on needs more and more: memory and descriptors of every process.

One piece is one undisturbed session of up to half an hour under load. Memory is sampled every two seconds after a
warm-up; a heap rises to its high-water mark for minutes, so the later half is judged: what a process holds privately
(RssAnon) must not be more at its end than at its beginning, by medians of eighths of the samples, which neither a
moment's peak nor the scatter of a fit can move. One step of the allocator's, a megabyte, is too much. The slope is
printed, and the resident size with shared pages beside it, as that grows until every ring has been walked through
once. The number of descriptors must not stay above what it was at first. A piece too short is shown, not judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from procs.attach import attach
from procs.table import PROCESSES
from shm.clock import python_monotonic_ns, sleep
from tools.soak.kills import LOAD
from tools.soak.session import Engine, engine, venue, wait_until
from tools.soak.tally import Piece

LONGEST_S = 1800.0
_JUDGED_FROM_S = 1200.0  # buffers and caches fill for minutes
_SAMPLE_S = 2.0
_WARM_UP_SHARE = 0.15
_BLOCKS = 12
_MOST_RISE_MB = 0.25  # of private memory, over the later half
_MB = 1 << 20
# Small rings, so that all their pages are touched during the warm-up.
_BUDGET_MIB = 48


@dataclass
class Samples:
    """What was seen of one process."""

    seconds: list[float] = field(default_factory=list)
    private_mb: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


def slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """(slope, standard error) of a least-squares line through the means of _BLOCKS blocks; per unit of time.

    Raises ValueError with fewer samples than blocks.
    """
    size = len(times) // _BLOCKS
    if size == 0:
        raise ValueError(f"{len(times)} samples; at least {_BLOCKS} are needed")
    starts = range(len(times) - size * _BLOCKS, len(times), size)
    xs = [sum(times[at : at + size]) / size for at in starts]
    ys = [sum(values[at : at + size]) / size for at in starts]
    mean_x, mean_y = sum(xs) / _BLOCKS, sum(ys) / _BLOCKS
    spread = sum((x - mean_x) ** 2 for x in xs)
    line = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - mean_y - line * (x - mean_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    return line, math.sqrt(rest / (_BLOCKS - 2) / spread)


def rise(values: Sequence[float]) -> float:
    """By how much the median of the last eighth of these is above that of the fifth, where the later half begins.

    Raises ValueError with fewer than eight values.
    """
    eighth = len(values) // 8
    if eighth == 0:
        raise ValueError(f"{len(values)} samples; at least 8 are needed")
    return median(values[-eighth:]) - median(values[-4 * eighth : -3 * eighth])


def private_mb(pid: int) -> tuple[float, float]:
    """(RssAnon, VmRSS) of a process in MB. Raises OSError when it is gone, or a zombie."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if "RssAnon" not in fields:
        raise ProcessLookupError(f"process {pid} has ended")
    anonymous, resident = (int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))
    return anonymous, resident


def processes_of(made: Engine) -> dict[str, int]:
    """Pids by name: roles, supervisor, launcher, and what else descends from the launcher."""
    mapping = attach(made.name)
    control = mapping.control
    pids = {process.role.label: control.pid(process.role) for process in PROCESSES}
    pids |= {"supervisor": control.supervisor_pid, "launcher": made.launcher.pid}
    mapping.close()
    for child in psutil.Process(made.launcher.pid).children(recursive=True):
        if child.pid not in pids.values():
            pids["zygote" if "procs.zygote" in child.cmdline() else f"child {child.pid}"] = child.pid
    return pids


def run_resources(piece: Piece) -> None:
    """One long session; slopes of memory, numbers of descriptors, and how long the start took."""
    seconds = min(LONGEST_S, piece.seconds)
    settings = {"memory_budget_mib": _BUDGET_MIB}
    with (
        venue(piece.folder, seed=piece.seed + 1, **LOAD) as place,
        engine(piece.folder, venue=place.connection, engine=settings) as made,
    ):
        began = python_monotonic_ns()
        made.start()
        piece.measure("start to first event s", _first_event_s(made, began))
        made.wait_trading()
        pids = processes_of(made)
        seen = _sample(pids, seconds)
        piece.hold(processes_of(made) == pids, "a process was replaced in an undisturbed session")
        code, out, err = made.finish()
        piece.hold(code == 0, f"the session ended with exit code {code}: {out[-1000:]} {err[-1000:]}")
        long_enough = seconds >= _JUDGED_FROM_S
        _judge(piece, seen, long_enough)
        if long_enough:
            piece.count("minutes", seconds / 60)
        else:
            piece.note(f"{seconds:.0f} s are too short to judge a slope; {_JUDGED_FROM_S:.0f} s and more are judged")


def _first_event_s(made: Engine, began: int) -> float:
    """Seconds from `bot4 run` to the first event in the market ring."""

    def events() -> bool:
        try:
            mapping = attach(made.name)
        except LookupError:
            return False
        try:
            return mapping.ring("market").produced > 0
        finally:
            mapping.close()

    wait_until(events, 60, "market event")
    return (python_monotonic_ns() - began) / 1e9


def _sample(pids: dict[str, int], seconds: float) -> dict[str, Samples]:
    """Look at every process every two seconds, after the warm-up."""
    sleep(seconds * _WARM_UP_SHARE)
    seen = {name: Samples() for name in pids}
    began = python_monotonic_ns()
    while (at := (python_monotonic_ns() - began) / 1e9) < seconds * (1 - _WARM_UP_SHARE):
        for name, pid in pids.items():
            samples = seen[name]
            private, resident = private_mb(pid)
            samples.seconds.append(at)
            samples.private_mb.append(private)
            samples.resident_mb.append(resident)
            samples.descriptors.append(psutil.Process(pid).num_fds())
        sleep(_SAMPLE_S)
    return seen


def _judge(piece: Piece, seen: dict[str, Samples], long_enough: bool) -> None:
    """Say what was seen of each process; what grew in a piece that is long enough is a violation."""
    for name, samples in seen.items():
        later = len(samples.seconds) // 2
        hours = [at / 3600 for at in samples.seconds[later:]]
        private, error = slope(hours, samples.private_mb[later:])
        resident, resident_error = slope(hours, samples.resident_mb[later:])
        eighths = [f"{samples.private_mb[len(samples.private_mb) * at // 8 - 1]:.1f}" for at in range(1, 9)]
        quarter = len(samples.descriptors) // 4
        first, last = max(samples.descriptors[:quarter]), min(samples.descriptors[-quarter:])
        piece.note(
            f"{name}: private {' '.join(eighths)} MB, {private:+.3f} ± {error:.3f} MB/h; resident "
            f"{samples.resident_mb[-1]:.1f} MB, {resident:+.2f} ± {resident_error:.2f} MB/h; descriptors "
            f"{first} -> {last}"
        )
        if not long_enough:
            continue
        risen = rise(samples.private_mb)
        piece.measure(f"MB/h {name}", private)
        piece.measure(f"MB risen {name}", risen)
        piece.hold(risen <= _MOST_RISE_MB, f"{name}: {risen:.2f} MB more at the end than half-way")
        words = f"{name}: at most {first} descriptors in the first quarter, at least {last} in the last"
        piece.hold(last <= first, words)
