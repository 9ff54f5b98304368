"""What a check says, and where it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from engine.config import Settings
from procs.config_file import DEFAULT_FILE
from procs.cores import usable_cores


class Level(IntEnum):
    """How much a finding matters."""

    OK = 0
    NOTE = 1  # could be better; nothing is lost by it but time
    WARNING = 2  # latency or safety is worse than it need be
    PROBLEM = 3  # the engine will not start, or must not trade, like this


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str  # short and the same on every machine, such as "clock source"
    level: Level
    found: str
    effect: str = ""  # what it means for the engine; empty where all is well
    remedy: str = ""  # what to do about it


@dataclass(frozen=True)
class Host:
    """A machine to look at: this one, or in a test a folder that looks like one.

    root      the folder that holds proc, sys and dev
    settings  of the engine that shall run
    config    the file that they were read from; it need not be there
    cores     that processes of an engine which is started here may be placed on
    """

    root: Path
    settings: Settings
    config: Path = Path(DEFAULT_FILE)
    cores: tuple[int, ...] = field(default_factory=usable_cores)

    def text(self, path: str) -> str | None:
        """A small file without the white space around it; None where it is not there or must not be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def chosen(self, path: str) -> str | None:
        """The choice in brackets of a file such as `always [madvise] never`."""
        text = self.text(path)
        if text is None or "[" not in text:
            return None
        return text[text.index("[") + 1 : text.index("]")]


Check = Callable[[Host], Iterator[Finding]]


def examine(host: Host, checks: Iterable[Check]) -> list[Finding]:
    """What the checks find, in their order. A check that cannot look says so and stops no other."""
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check(host)
        except (OSError, ValueError) as error:
            topic = check.__name__.removeprefix("check_").replace("_", " ")
            findings.append(Finding(topic, Level.NOTE, f"could not be looked at: {type(error).__name__}: {error}"))
    return findings
