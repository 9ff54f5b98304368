"""What the long suites have done so far: a JSON file that is replaced whole after every piece.

A piece that was cut short leaves no trace: its seed, which is the number of pieces before it, comes again. Counts add
up, of a worst value the largest is kept, every violation is kept with the command that shows it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

_VERSION = 1


class TallyError(RuntimeError):
    """The file cannot be used; the message says why."""


@dataclass(frozen=True)
class Violation:
    """Something that must hold and did not, and the command that shows it again where that is not the piece."""

    what: str
    again: str = ""


@dataclass
class Piece:
    """One run of a suite: what it is given, and what it has to say."""

    seed: int
    seconds: float  # it should not take longer
    folder: Path  # its own, empty at the start; kept when there was a violation
    counts: dict[str, float] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, what: str, number: float = 1) -> None:
        """Something was done; it adds up over all pieces."""
        self.counts[what] = self.counts.get(what, 0) + number

    def measure(self, what: str, value: float) -> None:
        """A figure of which the largest is kept."""
        self.worst[what] = max(value, self.worst.get(what, value))

    def note(self, text: str) -> None:
        """A sentence for the person who watches; it is not kept."""
        self.notes.append(text)

    def hold(self, kept: bool, otherwise: str, again: str = "") -> None:
        """Something that must be so; when it is not, that is a violation, in the words of `otherwise`."""
        if not kept:
            self.violations.append(Violation(otherwise, again))


@dataclass
class Record:
    """All pieces of one suite."""

    pieces: int = 0
    seconds: float = 0.0
    counts: dict[str, float] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)  # pieces by the beginning of the kernel digest
    violations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, piece: Piece, seconds: float, code: str, again: str) -> None:
        """Take a piece in."""
        self.pieces += 1
        self.seconds += seconds
        self.codes[code] = self.codes.get(code, 0) + 1
        for what, number in piece.counts.items():
            self.counts[what] = self.counts.get(what, 0) + number
        for what, value in piece.worst.items():
            self.worst[what] = max(value, self.worst.get(what, value))
        self.violations += [
            {"seed": piece.seed, "code": code, "what": one.what, "again": one.again or again}
            for one in piece.violations
        ]


class Tally:
    """The file and what it holds."""

    def __init__(self, path: Path) -> None:
        """Load, or begin a new one. Raises TallyError when there is something else at that place."""
        self.path = path
        self.records: dict[str, Record] = {}
        self.last = ""  # the suite that ran last; the next one is its successor in the table
        try:
            content = orjson.loads(path.read_bytes())
            if content["version"] != _VERSION:
                raise TallyError(f"{path}: version {content['version']}; this code writes {_VERSION}")
            self.last = content["last"]
            self.records = {name: Record(**entry) for name, entry in content["suites"].items()}
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (ValueError, KeyError, TypeError) as error:
            raise TallyError(f"{path} is no tally: {error}; move it away") from None

    def of(self, suite: str) -> Record:
        """The record of a suite."""
        return self.records.setdefault(suite, Record())

    def save(self) -> None:
        """Replace the file: a reader, or a restart after a crash, sees the old one or the new one."""
        content = {
            "version": _VERSION, "last": self.last,
            "suites": {name: asdict(record) for name, record in self.records.items()},
        }
        beside = self.path.with_suffix(".new")
        with beside.open("wb") as file:
            file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    @property
    def violations(self) -> int:
        """How many there have been."""
        return sum(len(record.violations) for record in self.records.values())

    def report(self, goals: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
        """Lines for people. goals: by suite, the counts that are wanted."""
        for name in [*goals, *(name for name in self.records if name not in goals)]:
            record = self.records.get(name, Record())
            wanted = goals.get(name, {})
            yield (
                f"{name}: {record.pieces} pieces in {record.seconds / 60:.1f} min, "
                f"{len(record.codes)} versions of the code, {len(record.violations)} violations"
            )
            for what in [*wanted, *(what for what in record.counts if what not in wanted)]:
                goal = f" of {wanted[what]:,}" if what in wanted else ""
                yield f"    {what:<28}{record.counts.get(what, 0):>16,.10g}{goal}"
            for what, value in record.worst.items():
                yield f"    {'worst ' + what:<40}{value:>12.4g}"
            for entry in record.violations:
                yield f"    VIOLATION seed {entry['seed']}, code {entry['code']}: {entry['what']}"
                yield f"        again: {entry['again']}"
