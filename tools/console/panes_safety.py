"""The pane on safety: mode and who holds it, readiness, the emergency word with its sources. Pure, as in panes.py."""

from __future__ import annotations

from procs.table import VITAL
from shm.control import SOURCE_BITS, TripSource, trip_count, tripped_sources
from tools.console.canvas import BAD, GOOD, TITLE, Drawn, Line, Style, bar, columns, fit, line, lines_of, wrapped
from tools.console.lists import Lists, shares
from tools.console.snapshot import Snapshot
from tools.control import control_lines

_LIMIT_WIDTHS = (30, 16, -10, -10)
Limit = tuple[str, int, int]  # its name, used, bound


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


def _word(snapshot: Snapshot, width: int) -> list[Line]:
    safety = snapshot.safety
    if not safety.word:
        return [line(" emergency word   0: not tripped", GOOD)]
    return [
        line(f"!emergency word   0x{safety.word & (1 << 64) - 1:016x}", BAD),
        *lines_of(f"!  tripped by     {sources_in_words(safety.word)}", width, BAD),
        line(f"   trips          {trip_count(safety.word)} since it was last cleared"),
        line("   kill switch    has cancelled, and confirmed it" if safety.dealt_with else
             "!  kill switch    at work, or not there", Style.PLAIN if safety.dealt_with else BAD),
    ]


def _triggers(snapshot: Snapshot, width: int) -> list[Line]:
    held = ", ".join(snapshot.safety.held)
    return lines_of(f"!held now         {held}", width, BAD) if held else [line(" held now         no trigger")]


def _readiness(snapshot: Snapshot, width: int) -> list[Line]:
    """Processes, the venue's dead-man switch, a ban."""
    safety, missing = snapshot.safety, missing_processes(snapshot)
    if missing:
        lines = lines_of(f"!not ready        {', '.join(missing)}: no entries", width, BAD)
    else:
        lines = [line(" ready            all processes that trading needs", GOOD)]
    if not snapshot.supervised:
        lines.append(line("!supervisor       there is none: nobody replaces what dies", BAD))
    armed = safety.dead_man_s > 0
    lines.append(line(
        f" dead-man switch  the venue cancels in {safety.dead_man_s:.0f} s without us" if armed else
        "!dead-man switch  not armed at the venue", Style.PLAIN if armed else BAD,
    ))
    if safety.banned_s:
        lines.append(line(f"!rate limits      banned by the venue for {safety.banned_s:.0f} s", BAD))
    return lines


def _spent(limit: Limit) -> bool:
    """Whether most of a rate limit is used."""
    _, used, bound = limit
    return 0 < 0.8 * bound <= used


def _limit(limit: Limit) -> Line:
    name, used, bound = limit
    mark, style = ("!", BAD) if _spent(limit) else (" ", Style.PLAIN)
    return columns([mark + name, bar(used / bound if bound else 0.0, 16), str(used), str(bound)], _LIMIT_WIDTHS, style)


def safety_pane(snapshot: Snapshot, width: int, height: int, scroll: int) -> Drawn:
    """Everything that says whether orders may leave. Where there is no room, titles are left out, and then rows of who
    holds the mode and of rate limits."""
    safety = snapshot.safety
    normal = safety.mode == "NORMAL"
    mode = line(f"{' ' if normal else '!'}{safety.mode}", GOOD if normal else BAD)
    told = control_lines(safety.control) if safety.asked else ["  asking the supervisor who holds it"]
    silent = safety.asked and safety.control is None
    holders = [("!" if silent else " ") + row for text in told for row in wrapped(text, width - 1)]
    word = [*_word(snapshot, width), *_triggers(snapshot, width)]
    readiness = _readiness(snapshot, width)
    room = height - 1 - len(word) - len(readiness) - 1
    lists = Lists(scroll)
    titles = [[line(fit(" " + title, width), TITLE)] for title in ("mode", "emergency", "readiness")]
    if room < len(titles) + len(holders) + len(safety.budget):
        titles = [[] for _ in titles]
    else:
        room -= len(titles)
    for_holders, for_limits = shares(room, (len(holders), len(safety.budget)))
    return lists.drawn([
        *titles[0], mode,
        *lists.rows(holders, for_holders, lambda text: line(text, BAD if silent else Style.PLAIN), lambda text: silent),
        *titles[1], *word, *titles[2], *readiness,
        columns([" rate limit", "used", "", "of"], _LIMIT_WIDTHS, TITLE),
        *lists.rows(safety.budget, for_limits, _limit, _spent),
    ])
