"""The pane on safety: mode and who holds it, readiness, the emergency word with its sources. Pure, as in panes.py."""

from __future__ import annotations

from procs.table import VITAL
from shm.control import SOURCE_BITS, TripSource, trip_count, tripped_sources
from tools.console.canvas import BAD, GOOD, TITLE, Drawn, Line, Style, bar, columns, fit, line
from tools.console.snapshot import Snapshot
from tools.control import control_lines


def sources_in_words(word: int) -> str:
    """Who tripped: the names of the bits, the numbers of those that have none."""
    named = {source.value for source in TripSource if source is not TripSource.UNKNOWN}
    unknown = [bit for bit in range(SOURCE_BITS) if word >> bit & 1 and bit not in named]
    names = [source.name for source in tripped_sources(word) if source is not TripSource.UNKNOWN]
    if unknown:
        names.append(f"UNKNOWN (bit {', '.join(map(str, unknown))})")
    return ", ".join(names) or "a trip that is just being made"


def missing_processes(snapshot: Snapshot) -> list[str]:
    """Processes without which nothing is entered and that are not ready, or of which nothing is known."""
    ready = {item.role for item in snapshot.processes if not item.missing}
    return [role.label for role in VITAL if role.label not in ready]


def _word(snapshot: Snapshot) -> list[Line]:
    safety = snapshot.safety
    if not safety.word:
        return [line(" emergency word   0: not tripped", GOOD)]
    trips = trip_count(safety.word)
    lines = [
        line(f"!emergency word   0x{safety.word & (1 << 64) - 1:016x}", BAD),
        line(f"!  tripped by     {sources_in_words(safety.word)}", BAD),
        line(f"   trips          {trips} since it was last cleared"),
        line("   kill switch    has cancelled, and confirmed it" if safety.dealt_with else
             "!  kill switch    at work, or not there", Style.PLAIN if safety.dealt_with else BAD),
    ]
    return lines


def safety_pane(snapshot: Snapshot, width: int, height: int, scroll: int) -> Drawn:
    """Everything that says whether orders may leave."""
    safety, missing = snapshot.safety, missing_processes(snapshot)
    normal = safety.mode == "NORMAL"
    lines = [
        line(fit(" mode", width), TITLE),
        line(f"{' ' if normal else '!'}{safety.mode}", GOOD if normal else BAD),
    ]
    told = control_lines(safety.control) if safety.asked else ["  asking the supervisor who holds it"]
    lines += [line(" " + text, Style.PLAIN if text.startswith("  ") else BAD) for text in told]
    lines += [line(fit(" emergency", width), TITLE), *_word(snapshot)]
    held = ", ".join(safety.held)
    lines.append(line(f"!held now         {held}", BAD) if held else line(" held now         no trigger"))
    lines.append(line(fit(" readiness", width), TITLE))
    if missing:
        lines.append(line(f"!not ready        {', '.join(missing)}: no entries", BAD))
    else:
        lines.append(line(" ready            all processes that trading needs", GOOD))
    if not snapshot.supervised:
        lines.append(line("!supervisor       there is none: nobody replaces what dies", BAD))
    armed = safety.dead_man_s > 0
    lines.append(line(
        f" dead-man switch  the venue cancels in {safety.dead_man_s:.0f} s without us" if armed else
        "!dead-man switch  not armed at the venue", Style.PLAIN if armed else BAD,
    ))
    if safety.banned_s:
        lines.append(line(f"!rate limits      banned by the venue for {safety.banned_s:.0f} s", BAD))
    lines.append(columns([" rate limit", "used", "", "of"], [30, 16, -10, -10], TITLE))
    for name, used, bound in safety.budget:
        part = used / bound if bound else 0.0
        lines.append(columns(
            [(" " if part < 0.8 else "!") + name, bar(part, 16), str(used), str(bound)], [30, 16, -10, -10],
            Style.PLAIN if part < 0.8 else BAD,
        ))
    return Drawn(lines[:height])
