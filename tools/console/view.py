"""What a person looks at, what keys do to that, and the whole screen. Pure: no terminal, no engine, no clock.

A key is one character, or a name: TAB, BACKTAB, ENTER, ESC, BACKSPACE, UP, DOWN, PAGEUP, PAGEDOWN, LEFT,
RIGHT, HOME, END. What else a terminal sends is ignored. Nothing that acts is one key away: pausing wants a reason and
ENTER, killing the word KILL and ENTER.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from tools.console.canvas import (
    BAD,
    GOOD,
    TITLE,
    Drawn,
    Line,
    Style,
    clock,
    count,
    cut,
    duration,
    fit,
    line,
    shown,
    text_width,
)
from tools.console.panes import engine_pane, latency_pane, log_pane
from tools.console.panes_safety import missing_processes, safety_pane, sources_in_words
from tools.console.panes_trading import market_pane, trading_pane
from tools.console.snapshot import LATENCY, LOG, MARKET, Snapshot

LEAST_WIDTH, LEAST_HEIGHT = 80, 24
_HEAD_LINES = 3
_LONGEST_REASON = 120
_LONGEST_NAME = 20
_FAR = 1 << 30  # rows: further than any list is long


@dataclass(frozen=True)
class Pane:
    """One pane: its title, what of the engine it needs, and how it is drawn."""

    title: str
    needs: frozenset[str]
    draw: Callable[[Snapshot, int, int, int], Drawn]  # of width, height and rows scrolled
    newest_below: bool = False  # it begins at its end, and scrolling goes back


PANES = (
    Pane("Engine", frozenset({LOG}), engine_pane), Pane("Market", frozenset({MARKET}), market_pane),
    Pane("Trading", frozenset(), trading_pane), Pane("Latency", frozenset({LATENCY}), latency_pane),
    Pane("Safety", frozenset(), safety_pane), Pane("Log", frozenset({LOG}), log_pane, True),
)


class Asking(Enum):
    """What the line at the bottom, or the list in the middle, asks for."""

    NOTHING = 0
    HELP = 1
    SYMBOL = 2
    PAUSE = 3
    KILL = 4
    LEAVE = 5  # of `bot4 run`: stop the engine, or leave the console


@dataclass(frozen=True)
class Do:
    """What is to be done: "quit", "stop", "kill", or "pause" for a reason."""

    what: str
    reason: str = ""


@dataclass(frozen=True)
class View:
    """All that a person has chosen."""

    owner: bool = False  # opened by `bot4 run`: leaving asks what becomes of the engine
    pane: int = 0
    symbol: int = 0
    scroll: int = 0
    page: int = 1  # rows that a page key moves; as the pane was drawn last
    asking: Asking = Asking.NOTHING
    typed: str = ""
    picked: int = 0  # of the symbols that are shown in the list
    notice: str = ""
    alarm: bool = False  # the notice says that something failed

    @property
    def needs(self) -> frozenset[str]:
        """Parts of the engine that are shown."""
        return PANES[self.pane].needs

    def symbol_of(self, symbols: tuple[str, ...]) -> str:
        """The chosen symbol."""
        return symbols[self.symbol % len(symbols)]


def matching(view: View, symbols: tuple[str, ...]) -> list[str]:
    """The symbols that hold what was typed into the list."""
    return [name for name in symbols if view.typed.upper() in name.upper()]


def press(view: View, key: str, symbols: tuple[str, ...]) -> tuple[View, Do | None]:
    """What a key makes of a view, and what is to be done."""
    if view.asking is Asking.NOTHING:
        return _command(replace(view, notice="", alarm=False), key, symbols)
    if key == "ESC":
        return _back(view, "" if view.asking is Asking.HELP else "nothing was done"), None
    if view.asking is Asking.HELP:
        return _back(view), None
    if view.asking is Asking.LEAVE:
        answers = {"s": Do("stop"), "l": Do("quit")}
        return _back(view), answers.get(key.lower())
    if view.asking is Asking.SYMBOL:
        return _pick(view, key, symbols), None
    return _type(view, key)


def _back(view: View, notice: str = "") -> View:
    return replace(view, asking=Asking.NOTHING, typed="", picked=0, notice=notice, alarm=False)


def _command(view: View, key: str, symbols: tuple[str, ...]) -> tuple[View, Do | None]:
    if key in "123456789" and int(key) <= len(PANES):
        return replace(view, pane=int(key) - 1, scroll=0), None
    if key in ("TAB", "BACKTAB"):
        step = 1 if key == "TAB" else -1
        return replace(view, pane=(view.pane + step) % len(PANES), scroll=0), None
    if key in ("LEFT", "RIGHT", "[", "]"):
        step = 1 if key in ("RIGHT", "]") else -1
        return replace(view, symbol=(view.symbol + step) % len(symbols), scroll=0), None
    moves = {"UP": -1, "DOWN": 1, "PAGEUP": -view.page, "PAGEDOWN": view.page, "HOME": -_FAR, "END": _FAR}
    if key in moves:
        step = -moves[key] if PANES[view.pane].newest_below else moves[key]
        return replace(view, scroll=max(view.scroll + step, 0)), None
    if key in ("q", "Q"):
        return (replace(view, asking=Asking.LEAVE), None) if view.owner else (view, Do("quit"))
    asked = {"?": Asking.HELP, "h": Asking.HELP, "s": Asking.SYMBOL, "p": Asking.PAUSE, "K": Asking.KILL}.get(key)
    return (replace(view, asking=asked, typed="", picked=0), None) if asked else (view, None)


def _pick(view: View, key: str, symbols: tuple[str, ...]) -> View:
    found = matching(view, symbols)
    if key == "ENTER":
        if not found:
            return replace(view, notice="no symbol is called so", alarm=True)
        chosen = found[min(view.picked, len(found) - 1)]
        market = next(place for place, pane in enumerate(PANES) if MARKET in pane.needs)
        return replace(_back(view), symbol=symbols.index(chosen), pane=market)
    if key in ("UP", "DOWN"):
        step = 1 if key == "DOWN" else -1
        return replace(view, picked=(view.picked + step) % max(len(found), 1))
    return replace(view, typed=_edited(view.typed, key), picked=0, notice="", alarm=False)


def _edited(typed: str, key: str) -> str:
    if key == "BACKSPACE":
        return typed[:-1]
    return (typed + key)[:_LONGEST_REASON] if len(key) == 1 else typed


def _type(view: View, key: str) -> tuple[View, Do | None]:
    if key != "ENTER":
        return replace(view, typed=_edited(view.typed, key)), None
    if view.asking is Asking.KILL:
        if view.typed == "KILL":
            return _back(view, "killing"), Do("kill")
        return _back(view, "not killed: the word KILL was not typed"), None
    reason = view.typed.strip()
    if not reason:
        return _back(view, "not paused: no reason was given"), None
    return _back(view, "asking the supervisor for PAUSE"), Do("pause", reason)


# --- the screen -----------------------------------------------------------------------------------------------------


def too_small(width: int, height: int) -> str:
    """Why nothing can be shown; empty where the terminal is large enough."""
    if width >= LEAST_WIDTH and height >= LEAST_HEIGHT:
        return ""
    return f"{width}x{height}: needs {LEAST_WIDTH}x{LEAST_HEIGHT}"


def screen(view: View, snapshot: Snapshot, width: int, height: int) -> list[Line]:
    """The whole screen: `height` lines of `width` columns."""
    if words := too_small(width, height):
        lines: list[Line] = [line(words, Style.BOLD)]
    else:
        room = _room(height)
        inside = _inside(view, snapshot, width, room)[:room]
        lines = [*_head(view, snapshot, width), *inside, *([()] * (room - len(inside))), _foot(view, width)]
    lines += [()] * (height - len(lines))
    return [cut(content, width) for content in lines[:height]]


def settled(view: View, snapshot: Snapshot, width: int, height: int) -> View:
    """The view with its scrolling as far as there are rows, and pages as large as they are drawn."""
    if too_small(width, height):
        return view
    drawn = _pane(view, snapshot, width, _room(height))
    return replace(view, scroll=min(view.scroll, drawn.most), page=drawn.page)


def _room(height: int) -> int:
    """Lines between head and foot."""
    return height - _HEAD_LINES - 1


def _pane(view: View, snapshot: Snapshot, width: int, height: int) -> Drawn:
    return PANES[view.pane].draw(snapshot, width, height, view.scroll)


def _inside(view: View, snapshot: Snapshot, width: int, height: int) -> list[Line]:
    if view.asking is Asking.HELP:
        return _help(view)
    if view.asking is Asking.SYMBOL:
        return _symbols(view, snapshot, width, height)
    return _pane(view, snapshot, width, height).lines


def _head(view: View, snapshot: Snapshot, width: int) -> list[Line]:
    """Who and how it is; what is wrong, or else how it goes; the panes."""
    mode, missing = snapshot.safety.mode, missing_processes(snapshot)
    good = mode == "NORMAL" and not missing and snapshot.supervised
    state = "ready" if not missing else f"NOT READY ({len(missing)})"
    frames = "-" if snapshot.frames_per_second is None else count(snapshot.frames_per_second)
    left = f" {fit(snapshot.name, min(len(snapshot.name), _LONGEST_NAME))} ({'paper' if snapshot.paper else 'LIVE'})  "
    middle = f"{'' if good else '!'}{mode} {state}"
    rights = (f"  {frames} frames/s  up {duration(snapshot.up_ns)}", f"  up {duration(snapshot.up_ns)}", "")
    room = width - len(left) - len(middle) - len(now := f"  {clock(snapshot.now_ns)} UTC ")
    right = next(words for words in rights if len(words) <= room) + now
    middle = fit(middle, width - len(left) - len(right))
    first: Line = (
        (left, Style.REVERSE | Style.BOLD), (middle, Style.REVERSE | (GOOD if good else BAD)), (right, Style.REVERSE)
    )
    tabs: list[tuple[str, Style]] = []
    for number, pane in enumerate(PANES, 1):
        chosen = number - 1 == view.pane
        text = f"[{number} {pane.title}]" if chosen else f" {number} {pane.title} "
        tabs.append((text + " ", Style.BOLD | Style.REVERSE if chosen else Style.PLAIN))
    return [first, _how(snapshot, missing), tuple(tabs)]


def _how(snapshot: Snapshot, missing: list[str]) -> Line:
    """The second line: the worst that is to be said, or profit and orders."""
    if snapshot.tripped:
        return line(f"!EMERGENCY, tripped by {sources_in_words(snapshot.safety.word)}", BAD)
    if not snapshot.supervised:
        return line("!no supervisor: nobody replaces what dies", BAD)
    if missing:
        return line(f"!no entries: {', '.join(missing)} not ready", BAD)
    account = snapshot.account
    if account.holding:
        return line(f"!HOLDING, no entries: ledger and venue differ in {account.holding}", BAD)
    pnl, counts = account.pnl, account.counts
    figures = "  ".join(f"{key} {float(pnl.get(key, 0)):+.2f}" for key in ("realised", "unrealised"))
    return line(
        f" {figures}  fees {float(pnl.get('fees', 0)):.2f}   orders {count(counts.get('sent', 0))} "
        f"({len(account.orders)} open)  fills {count(counts.get('fills', 0))}"
    )


def _foot(view: View, width: int) -> Line:
    if view.asking is Asking.KILL:
        return line(f"!KILL cancels everything. Type the word KILL, then ENTER (ESC: no): {view.typed}_", BAD)
    if view.asking is Asking.PAUSE:
        end = " no more fits" if len(view.typed) >= _LONGEST_REASON else "_"
        words = shown(f" PAUSE: say why, then ENTER (ESC: no): {view.typed}{end}")
        if text_width(words) > width:
            while text_width(words) > width - 4:
                words = words[1:]
            words = f" ...{words}"
        return line(words, Style.BOLD)
    if view.asking is Asking.LEAVE:
        return line(" s: stop the engine   l: leave the console, it goes on with lines   ESC: back", Style.BOLD)
    if view.notice:
        return line(f"{'!' if view.alarm else ' '}{view.notice}", BAD if view.alarm else Style.BOLD)
    leave = "stop or leave" if view.owner else "detach"
    return line(f" ? help   1-{len(PANES)} TAB pane   s symbol   p pause   K kill   q {leave}", Style.DIM)


def _help(view: View) -> list[Line]:
    leave = "stop the engine or leave the console; Ctrl-C stops it" if view.owner else (
        "detach; the engine goes on (Ctrl-C does the same)"
    )
    keys = [
        (f"1 to {len(PANES)}", ", ".join(pane.title for pane in PANES)), ("TAB, shift-TAB", "the next pane, the last"),
        ("s", "pick a symbol: type a part of its name, arrows, ENTER"), ("left, right", "the last symbol, the next"),
        ("up, down, pages", "scroll what there was no room for; HOME, END: its ends"),
        ("p", "PAUSE: no entries; asks why. `bot4 mode normal` goes on"),
        ("K", "KILL: emergency, cancels everything; asks for a word"), ("q", leave),
    ]
    lines: list[Line] = [line(" keys", TITLE)]
    lines += [((f"  {fit(key, 18)}", Style.BOLD), (words, Style.PLAIN)) for key, words in keys]
    return [
        *lines, (), line(" signs", TITLE),
        line("  !  something that wants to be looked at      *2  two orders of ours rest there"),
        line("  +  bids, buyers      -  asks, sellers      ~  a text that was cut off"),
        line("  ... 3 more  rows there is no room for; what wants to be looked at is first"), (),
        line(" The console only looks: the engine never waits for it. Any key goes back.", Style.DIM),
    ]


def _symbols(view: View, snapshot: Snapshot, width: int, height: int) -> list[Line]:
    found = matching(view, snapshot.symbols)
    lines: list[Line] = [line(fit(f" symbol: {view.typed}_", width), TITLE)]
    rows = height - len(lines) - 1
    first = max(view.picked - rows + 1, 0)
    for place, name in enumerate(found[first : first + rows], first):
        chosen = place == view.picked
        lines.append(line(f" {'>' if chosen else ' '} {name}", Style.BOLD if chosen else Style.PLAIN))
    if not found:
        lines.append(line("  no symbol is called so", BAD))
    hidden = len(found) - rows
    more = f"   ... {hidden} more: up, down" if hidden > 0 else ""
    lines.append(line(f" ENTER takes it, ESC goes back{more}", Style.DIM))
    return lines
