"""The processor, its clock, its memory and the kernel's scheduler."""

from __future__ import annotations

from collections.abc import Iterator

from engine.settings import SettingsError
from procs.cores import ISOLATED, core_list
from procs.table import PROCESSES, placement
from tools.doctor.finding import Finding, Host, Level

_CPU = "sys/devices/system/cpu"
_GOOD_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "xen")
_SLEEPS_DEEPLY_US = 50
_RT_WHOLE_US = -1
_HOT = sum(process.hot for process in PROCESSES)


def check_cores(host: Host) -> Iterator[Finding]:
    """How many there are, and who will sit where."""
    count = len(host.cores)
    try:
        reason = placement(host.cores, host.settings.engine.placement)[2]
    except SettingsError as error:
        yield Finding("cores", Level.PROBLEM, str(error), "the engine does not start", "engine.placement = 'auto'")
        return
    if count > _HOT:
        yield Finding("cores", Level.OK, reason)
        return
    yield Finding(
        "cores", Level.WARNING, reason, f"{_HOT} hot stages share a core and sleep: a hop costs a switch of processes",
        f"{_HOT + 1} cores or more: each hot stage spins on its own",
    )


def _quota(host: Host, folder: str) -> tuple[int, int] | None:
    """Microseconds of each period that a control group has on all its cores together; None where it has no limit."""
    words = (host.text(f"{folder}/cpu.max") or "").split()  # cgroup v2
    if not words:
        words = [host.text(f"{folder}/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]  # v1
    return None if words[0] in ("", "max", "-1") else (int(words[0]), int(words[1]))


def _groups(host: Host) -> Iterator[str]:
    """Folders of the control groups that may limit this process: its own and all above it, in each hierarchy of cores.

    A container may be shown the path that its group has outside, below a mount that begins with the group: the walk
    ends at the mount, so that it is looked at then too.
    """
    for line in (host.text("proc/self/cgroup") or "0::/").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts = ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            mounts = list(dict.fromkeys(f"sys/fs/cgroup/{name}" for name in (controllers, "cpu")))
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            yield from ("/".join([mount, *parts[:length]]) for length in range(len(parts), -1, -1))


def check_quota(host: Host) -> Iterator[Finding]:
    """Whether a control group takes cores away for a part of the time: the tightest of all that this process is in."""
    limits = [(*found, folder) for folder in _groups(host) if (found := _quota(host, folder)) is not None]
    if not limits:
        yield Finding("cpu quota", Level.OK, "none")
        return
    quota, period, folder = min(limits, key=lambda limit: limit[0] / limit[1])
    share = quota / period
    level = Level.OK if share >= len(host.cores) else Level.WARNING
    yield Finding(
        "cpu quota", level, f"{share:.2f} cores' time in each {period / 1000:.0f} ms (/{folder})",
        "" if level == Level.OK else "all processes stand still for the rest of a period once it is used up",
        "" if level == Level.OK else "start the engine outside of it, or lift its quota (`CPUQuota=` of systemd)",
    )


def check_siblings(host: Host) -> Iterator[Finding]:
    """Whether two of the cores are one."""
    seen: dict[tuple[int, ...], int] = {}
    for core in host.cores:
        text = host.text(f"{_CPU}/cpu{core}/topology/thread_siblings_list")
        if text is not None:
            siblings = core_list(text)
            seen[siblings] = seen.get(siblings, 0) + 1
    doubled = [siblings for siblings, count in seen.items() if count > 1]
    if not doubled:
        yield Finding("hyper-threads", Level.OK, "no two of the usable cores are threads of one")
        return
    pairs = " ".join("+".join(map(str, siblings)) for siblings in doubled[:8])
    yield Finding(
        "hyper-threads", Level.NOTE, f"threads of one core: {pairs}{' ...' if len(doubled) > 8 else ''}",
        "two processes that spin there slow each other down",
        "switch them off (`echo off > /sys/devices/system/cpu/smt/control`), or leave one of each pair out (`taskset`)",
    )


def check_isolation(host: Host) -> Iterator[Finding]:
    """Whether the scheduler and its tick leave the cores of the hot stages alone."""
    try:
        assigned, spinning, _ = placement(host.cores, host.settings.engine.placement)
    except SettingsError:
        return
    isolated, without_tick = (set(core_list(host.text(path) or "")) for path in (ISOLATED, f"{_CPU}/nohz_full"))
    hot = {core for process in PROCESSES if process.hot for core in assigned[process.role]}
    wanted = _listed(hot)
    if len(host.cores) == 1:
        yield Finding("isolated cores", Level.OK, "one core: there is nothing to keep others away from")
    elif kept := isolated - set(host.cores):
        yield Finding(
            "isolated cores", Level.NOTE, f"kept from this process: {_listed(kept)}",
            "the engine does not use them", "start it with an affinity that has them (`taskset --cpu-list`), in a "
            "control group whose cpuset has them; or isolate no core that it may not use",
        )
    elif missing := hot - isolated:
        yield Finding(
            "isolated cores", Level.NOTE, f"not: {_listed(missing)}",
            "other work and interrupts of the kernel run on the cores of the hot stages and show in p99.9",
            f"isolcpus={wanted} rcu_nocbs={wanted} on the kernel's command line; the engine finds them by itself",
        )
    else:
        yield Finding("isolated cores", Level.OK, f"all cores of the hot stages: {wanted}")
    if not spinning:
        yield Finding("cores without tick", Level.OK, "not needed: hot stages that share a core need its tick")
    elif missing := hot - without_tick:
        yield Finding(
            "cores without tick", Level.NOTE, f"not: {_listed(missing)}",
            "the kernel's timer interrupts the hot stages some hundred times a second",
            f"nohz_full={wanted} rcu_nocbs={wanted} on the kernel's command line",
        )
    else:
        yield Finding("cores without tick", Level.OK, f"all cores of the hot stages: {wanted}")


def _listed(cores: set[int]) -> str:
    return ",".join(map(str, sorted(cores)))


def check_governor(host: Host) -> Iterator[Finding]:
    """Whether the cores run at full speed."""
    governors = {host.text(f"{_CPU}/cpu{core}/cpufreq/scaling_governor") for core in host.cores} - {None}
    slow = sorted(name for name in governors if name and name != "performance")
    if not governors:
        yield Finding("governor", Level.OK, "none; the hypervisor or the firmware decides")
    elif not slow:
        yield Finding("governor", Level.OK, "performance")
    else:
        yield Finding(
            "governor", Level.WARNING, ", ".join(slow), "a core that has slept is slow for the first milliseconds",
            "`cpupower frequency-set --governor performance`",
        )


def check_sleep_states(host: Host) -> Iterator[Finding]:
    """How long a sleeping core takes to wake up."""
    deepest = ("none", 0)
    core = host.cores[-1]
    for number in range(16):
        folder = f"{_CPU}/cpu{core}/cpuidle/state{number}"
        latency, disabled = host.text(f"{folder}/latency"), host.text(f"{folder}/disable")
        if latency is None:
            break
        if disabled != "1" and int(latency) > deepest[1]:
            deepest = (host.text(f"{folder}/name") or f"state {number}", int(latency))
    if deepest[1] <= _SLEEPS_DEEPLY_US:
        yield Finding("sleep states", Level.OK, f"deepest {deepest[0]}, wakes up in {deepest[1]} us")
        return
    yield Finding(
        "sleep states", Level.NOTE, f"deepest {deepest[0]}, wakes up in {deepest[1]} us",
        "a process that waits without spinning answers that much later",
        f"`cpupower idle-set --disable-by-latency {_SLEEPS_DEEPLY_US}`, or hold /dev/cpu_dma_latency open with 0 in it",
    )


def check_clock_source(host: Host) -> Iterator[Finding]:
    """What the kernel tells the time with."""
    source = host.text("sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source is None or source in _GOOD_CLOCKS:
        yield Finding("clock source", Level.OK, source or "not said")
        return
    yield Finding(
        "clock source", Level.WARNING, source, "reading the clock takes a system call of a microsecond, not 25 ns",
        "boot with clocksource=tsc tsc=reliable, where the processor's counter is invariant",
    )


def check_huge_pages(host: Host) -> Iterator[Finding]:
    """Whether the kernel moves memory under the engine's feet."""
    enabled = host.chosen("sys/kernel/mm/transparent_hugepage/enabled")
    defrag = host.chosen("sys/kernel/mm/transparent_hugepage/defrag")
    if enabled != "always" or defrag in ("defer", "never", "madvise", "defer+madvise", None):
        yield Finding("huge pages", Level.OK, f"transparent {enabled or 'not offered'}, defragmented {defrag or '-'}")
        return
    yield Finding(
        "huge pages", Level.NOTE, f"transparent {enabled}, defragmented {defrag}",
        "a page fault may wait while the kernel tidies memory up",
        "`echo madvise > /sys/kernel/mm/transparent_hugepage/defrag`",
    )


def check_swap(host: Host) -> Iterator[Finding]:
    """Whether memory may be on a disk."""
    lines = (host.text("proc/swaps") or "").splitlines()[1:]
    if not lines:
        yield Finding("swap", Level.OK, "none")
        return
    yield Finding(
        "swap", Level.WARNING, ", ".join(line.split()[0] for line in lines),
        "a page that was put there costs milliseconds when it is needed",
        "`swapoff -a`, or `sysctl vm.swappiness=1`",
    )


def check_numa(host: Host) -> Iterator[Finding]:
    """Whether the kernel moves pages between memories."""
    nodes = core_list(host.text("sys/devices/system/node/online") or "0")
    balancing = host.text("proc/sys/kernel/numa_balancing")
    if len(nodes) == 1 or balancing in (None, "0"):
        yield Finding("memory nodes", Level.OK, f"{len(nodes)}, balancing {'off' if balancing != '1' else 'on'}")
        return
    yield Finding(
        "memory nodes", Level.NOTE, f"{len(nodes)}, balancing on",
        "pages of the rings are taken away to see who uses them: a fault of microseconds",
        "`sysctl kernel.numa_balancing=0`, and the engine on the cores of one node",
    )


def check_autogroup(host: Host) -> Iterator[Finding]:
    """Whether each terminal has a share of its own, whatever the priorities."""
    on = host.text("proc/sys/kernel/sched_autogroup_enabled") == "1"
    if not on or len(host.cores) > _HOT:
        yield Finding("scheduler", Level.OK, f"a group for each session: {'on' if on else 'off'}")
        return
    yield Finding(
        "scheduler", Level.NOTE, "a group for each session: on",
        "on few cores another terminal's work gets as much time as the engine, however nice it is",
        "`sysctl kernel.sched_autogroup_enabled=0`",
    )


def check_real_time(host: Host) -> Iterator[Finding]:
    """What the kernel leaves to a process of real-time priority, as the kill switch is."""
    text = host.text("proc/sys/kernel/sched_rt_runtime_us")
    if text is None or int(text) == _RT_WHOLE_US or int(text) > 0:
        yield Finding("real-time share", Level.OK, f"{text or 'not said'} us of each second")
        return
    yield Finding(
        "real-time share", Level.WARNING, "none", "the kill switch cannot have real-time priority",
        "`sysctl kernel.sched_rt_runtime_us=950000`",
    )


def check_load(host: Host) -> Iterator[Finding]:
    """Who else is at work."""
    text = host.text("proc/loadavg") or "0"
    load = float(text.split()[0])
    level = Level.OK if load <= len(host.cores) else Level.WARNING
    yield Finding(
        "load", level, f"{load:.1f} on {len(host.cores)} cores",
        "" if level == Level.OK else "stages wait for a core; latency and stall times grow",
        "" if level == Level.OK else "stop what else runs here; look at `top`",
    )


CHECKS = (
    check_cores, check_quota, check_siblings, check_isolation, check_governor, check_sleep_states, check_clock_source,
    check_huge_pages, check_swap, check_numa, check_autogroup, check_real_time, check_load,
)
