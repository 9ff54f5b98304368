"""Which cores a process may use, those among them that the kernel keeps from everybody who does not ask (`isolcpus`).

Where cores are isolated, every process begins with an affinity without them. Setting an affinity is how one asks, and
whatever a control group's cpuset permits may be set.
"""

from __future__ import annotations

import os
from pathlib import Path

ISOLATED = "sys/devices/system/cpu/isolated"
_ONLINE = "sys/devices/system/cpu/online"


def core_list(text: str) -> tuple[int, ...]:
    """The numbers in a list of the kernel, such as `0-3,8`; none in `(null)`. Raises ValueError."""
    numbers: list[int] = []
    for part in filter(None, text.replace("(null)", "").strip().split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def usable_cores(root: Path = Path("/")) -> tuple[int, ...]:
    """The cores that processes of an engine which is started here may be placed on, sorted.

    They are those of our affinity. Where that is just what isolation leaves, nobody has chosen it (`taskset`, a
    cpuset), and the isolated cores that may be set are among them too: it is tried, and undone. root: the folder that
    holds sys.
    """
    given = os.sched_getaffinity(0)
    try:
        online, isolated = (set(core_list((root / name).read_text())) for name in (_ONLINE, ISOLATED))
    except (OSError, ValueError):  # a kernel that does not say it has none
        return tuple(sorted(given))
    if not isolated or given != online - isolated:
        return tuple(sorted(given))
    try:
        os.sched_setaffinity(0, online)
        return tuple(sorted(os.sched_getaffinity(0)))  # the kernel leaves out what a cpuset forbids
    except OSError:
        return tuple(sorted(given))
    finally:
        os.sched_setaffinity(0, given)
