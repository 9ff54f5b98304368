"""What the kernel says about a core and a thread on it, to explain gaps: text files of /proc, taken apart.

Steal and interrupt times are counted in ticks (10 ms as a rule), so little of them may not show. What the firmware
does, and what a hypervisor does not tell, shows in no file.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field
from pathlib import Path

_MOST_SOURCES = 6  # of interrupts that are named
_STAT = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True)
class CoreFacts:
    """Counts so far; `since` gives what was added."""

    voluntary: int  # switches of the thread that it asked for
    involuntary: int  # switches of the thread because others were to run
    waited_ns: int  # how long the thread could have run and had no core; -1: the kernel does not say
    times_ms: dict[str, float]  # of the core, by the names of /proc/stat; empty: not said
    interrupts: dict[str, int]  # of the core, by source; empty: not said

    def since(self, before: CoreFacts) -> CoreFacts:
        """What was added since an earlier look."""
        interrupts = {name: count - before.interrupts.get(name, 0) for name, count in self.interrupts.items()}
        most = sorted((item for item in interrupts.items() if item[1] > 0), key=lambda item: -item[1])
        waited = -1 if min(self.waited_ns, before.waited_ns) < 0 else self.waited_ns - before.waited_ns
        return CoreFacts(
            self.voluntary - before.voluntary, self.involuntary - before.involuntary, waited,
            {name: round(ms - before.times_ms.get(name, 0.0), 1) for name, ms in self.times_ms.items()},
            dict(most[:_MOST_SOURCES]),
        )


@dataclass(frozen=True)
class Proc:
    """Where the files lie: /proc, or in a test a folder that looks like it."""

    root: Path = field(default_factory=lambda: Path("/proc"))

    def text(self, name: str) -> str:
        """A file; empty where it is not there or must not be read."""
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def core_times_ms(text: str, core: int, ticks_a_second: int) -> dict[str, float]:
    """The times of a core from /proc/stat; empty where it is not in it."""
    for line in text.splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            ticks = [int(number) for number in fields[: len(_STAT)]]
            return {kind: 1000 * count / ticks_a_second for kind, count in zip(_STAT, ticks, strict=False)}
    return {}


def core_interrupts(text: str, core: int) -> dict[str, int]:
    """The interrupts of a core by source, from /proc/interrupts: its name where the kernel gives one."""
    lines = text.splitlines()
    heads = lines[0].split() if lines else []
    if f"CPU{core}" not in heads:
        return {}
    column = heads.index(f"CPU{core}")
    counts: dict[str, int] = {}
    for line in lines[1:]:
        source, _, rest = line.partition(":")
        fields = rest.split(None, len(heads))
        if len(fields) > column and fields[column].isdigit() and len(fields) >= len(heads):
            words = " ".join(fields[len(heads)].split()) if len(fields) > len(heads) else source.strip()
            counts[words] = counts.get(words, 0) + int(fields[column])
    return counts


def look(core: int, proc: Proc | None = None) -> CoreFacts:
    """Counts so far of a core and of the calling thread."""
    proc = proc or Proc()
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    schedule = proc.text("thread-self/schedstat").split()
    times = core_times_ms(proc.text("stat"), core, os.sysconf("SC_CLK_TCK"))
    return CoreFacts(
        usage.ru_nvcsw, usage.ru_nivcsw, int(schedule[1]) if len(schedule) == 3 else -1, times,
        core_interrupts(proc.text("interrupts"), core),
    )
