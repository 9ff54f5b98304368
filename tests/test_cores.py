"""Which cores may be used: on machines made of files with a kernel that is played, and with this machine's own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import Settings
from procs import cores
from procs.cores import core_list, usable_cores
from tools.doctor import machine
from tools.doctor.finding import Finding, Host, Level, examine

CPU = "sys/devices/system/cpu"


class Kernel:
    """The affinity of one thread: what is asked for, without what the cpuset forbids."""

    def __init__(self, affinity: set[int], permitted: set[int]) -> None:
        self.affinity, self.permitted = affinity, permitted

    def sched_getaffinity(self, pid: int) -> set[int]:
        return set(self.affinity)

    def sched_setaffinity(self, pid: int, wanted: set[int]) -> None:
        if not wanted & self.permitted:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.affinity = wanted & self.permitted


def machine_of(folder: Path, online: str, isolated: str) -> Path:
    (folder / CPU).mkdir(parents=True, exist_ok=True)
    for name, text in (("online", online), ("isolated", isolated), ("nohz_full", isolated)):
        (folder / CPU / name).write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(("text", "numbers"), [("", ()), ("(null)", ()), ("3\n", (3,)), ("0-2,7", (0, 1, 2, 7))])
def test_a_list_of_cores(text: str, numbers: tuple[int, ...]) -> None:
    assert core_list(text) == numbers


ALL = set(range(8))


@pytest.mark.parametrize(("affinity", "permitted", "isolated", "usable"), [
    (ALL, ALL, "", ALL),
    ({0, 6, 7}, ALL, "1-5", ALL),  # as after a boot with isolcpus=1-5
    ({0, 6, 7}, {0, 1, 2, 6, 7}, "1-5", {0, 1, 2, 6, 7}),  # a cpuset that has some of them
    ({0, 6, 7}, {0, 6, 7}, "1-5", {0, 6, 7}),
    ({0, 6}, ALL, "1-5", {0, 6}),  # chosen by taskset
    ({0, 1, 2}, ALL, "1-5", {0, 1, 2}),
    (ALL, ALL, "1-5", ALL),  # taskset -c 0-7
    ({2, 3}, ALL, "(null)", {2, 3}),
])  # fmt: skip
def test_isolated_cores_are_used_where_nobody_has_chosen_others(
    affinity: set[int], permitted: set[int], isolated: str, usable: set[int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel(affinity, permitted)
    monkeypatch.setattr(cores.os, "sched_getaffinity", kernel.sched_getaffinity)
    monkeypatch.setattr(cores.os, "sched_setaffinity", kernel.sched_setaffinity)
    assert usable_cores(machine_of(tmp_path, "0-7", isolated)) == tuple(sorted(usable))
    assert kernel.affinity == affinity, "looking changes nothing"


def test_a_kernel_that_does_not_say(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == usable_cores() == tuple(sorted(os.sched_getaffinity(0)))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="of one core none can be isolated")
def test_this_kernel_gives_a_core_that_is_asked_for(tmp_path: Path) -> None:
    first, *others = sorted(os.sched_getaffinity(0))
    root = machine_of(tmp_path, ",".join(map(str, [first, *others])), ",".join(map(str, others)))
    done = subprocess.run(
        [sys.executable, "-c", f"""
import os
from pathlib import Path
from procs.cores import usable_cores
os.sched_setaffinity(0, {{{first}}})
print(usable_cores(Path({str(root)!r})), os.sched_getaffinity(0))
"""],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"{(first, *others)} {{{first}}}"


def _of_topic(findings: list[Finding], topic: str) -> Finding:
    (found,) = [finding for finding in findings if finding.topic == topic]
    return found


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_who_does_what_the_doctor_says_of_isolation_has_it(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read the remedy, boot with it, look again: the same stages on the same cores, and nothing left to do."""
    everything = set(range(count))
    kernel = Kernel(everything, everything)
    monkeypatch.setattr(cores.os, "sched_getaffinity", kernel.sched_getaffinity)
    monkeypatch.setattr(cores.os, "sched_setaffinity", kernel.sched_setaffinity)
    root = machine_of(tmp_path, f"0-{count - 1}", "")
    before = examine(Host(root, Settings(), cores=usable_cores(root)), machine.CHECKS)
    said = _of_topic(before, "isolated cores")
    assert said.level == Level.NOTE and said.effect
    isolated = said.remedy.partition("isolcpus=")[2].split()[0]
    kernel.affinity = everything - set(core_list(isolated))
    machine_of(tmp_path, f"0-{count - 1}", isolated)
    after = examine(Host(root, Settings(), cores=usable_cores(root)), machine.CHECKS)
    for topic in ("isolated cores", "cores without tick"):
        assert _of_topic(after, topic).level == Level.OK, _of_topic(after, topic)
    assert _of_topic(after, "cores") == _of_topic(before, "cores")


def test_isolated_cores_that_are_kept_from_us_are_named(tmp_path: Path) -> None:
    root = machine_of(tmp_path, "0-7", "1-5")
    found = _of_topic(examine(Host(root, Settings(), cores=(0, 6, 7)), machine.CHECKS), "isolated cores")
    assert found.level == Level.NOTE and "kept from this process: 1,2,3,4,5" in found.found
    assert "taskset" in found.remedy and found.effect


def test_one_core_cannot_be_isolated(tmp_path: Path) -> None:
    findings = examine(Host(machine_of(tmp_path, "0", ""), Settings(), cores=(0,)), machine.CHECKS)
    for topic in ("isolated cores", "cores without tick"):
        assert _of_topic(findings, topic).level == Level.OK
