"""curses: lines onto a terminal, keys from it, and the terminal given back as it was, whatever has happened.

A context: entering takes the terminal, leaving gives it back, after an error and after a signal too. SIGTERM, SIGHUP
and SIGQUIT (Ctrl-\\) end what runs inside with `Signalled`. A signal that ends a process without asking it, SIGKILL
before all, leaves no time for it; then `reset` is what helps, or the `bot4 run` beside (tools/beside.py).
"""

from __future__ import annotations

import codecs
import contextlib
import curses
import os
import signal
import sys
import termios
from collections import deque
from collections.abc import Sequence
from types import FrameType

from tools.console.canvas import Line, Style, text_width
from tools.usage import UsageError

_ESCAPE, _ESCAPE_MS = 27, 25
_BYTE_FROM, _BYTE_TO = 0x80, 0xFF  # a part of a character that is not ASCII
_BLUE, _ORANGE = 1, 2  # pairs
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_KEYS = {
    9: "TAB", curses.KEY_BTAB: "BACKTAB", 10: "ENTER", 13: "ENTER", curses.KEY_ENTER: "ENTER",
    curses.KEY_BACKSPACE: "BACKSPACE", 8: "BACKSPACE", 127: "BACKSPACE", curses.KEY_UP: "UP", curses.KEY_DOWN: "DOWN",
    curses.KEY_PPAGE: "PAGEUP", curses.KEY_NPAGE: "PAGEDOWN", curses.KEY_LEFT: "LEFT", curses.KEY_RIGHT: "RIGHT",
    curses.KEY_HOME: "HOME", curses.KEY_END: "END",
}  # fmt: skip
_ATTRIBUTES = {
    Style.BOLD: curses.A_BOLD, Style.REVERSE: curses.A_REVERSE, Style.DIM: curses.A_DIM,
    Style.UNDERLINE: curses.A_UNDERLINE,
}


class Signalled(BaseException):
    """A signal asks this process to end."""

    def __init__(self, signum: int) -> None:
        self.name = signal.Signals(signum).name
        super().__init__(self.name)


def check_terminal() -> None:
    """Raise UsageError where there is no terminal that curses can draw on."""
    for stream, name in ((sys.stdin, "standard input"), (sys.stdout, "standard output")):
        if not stream.isatty():
            raise UsageError(f"console: {name} is no terminal; `bot4 status` and `bot4 latency` print what is there")
    kind = os.environ.get("TERM", "")
    try:
        curses.setupterm(kind or "unknown", sys.stdout.fileno())
        usable = bool(kind) and curses.tigetstr("cup") is not None and curses.tigetstr("clear") is not None
    except curses.error:
        usable = False
    if not usable:
        raise UsageError(f"console: TERM = {kind!r}: a terminal that is known is needed, such as xterm-256color")


class Terminal:
    """The terminal of standard input and output, while it is ours."""

    def __init__(self, stoppable: bool = True) -> None:
        """stoppable: Ctrl-Z stops this process and Ctrl-\\ ends it; not so where an engine would go with it."""
        self._stoppable = stoppable
        self._colours = False
        self._taken = False
        self._keys: deque[str] = deque()  # that came with others, and wait

    def __enter__(self) -> Terminal:
        self._saved = termios.tcgetattr(sys.stdin)
        self._handlers = {signum: signal.signal(signum, self._on_signal) for signum in _ENDING}
        try:
            self._window = curses.initscr()
            self._taken = True
            self._take_encoding()
            curses.noecho()
            curses.cbreak()
            curses.set_escdelay(_ESCAPE_MS)
            self._window.keypad(True)
            with contextlib.suppress(curses.error):  # a terminal that cannot hide its cursor
                curses.curs_set(0)
            self._take_colours()
            if not self._stoppable:
                modes = termios.tcgetattr(sys.stdin)
                modes[6][termios.VSUSP] = modes[6][termios.VQUIT] = b"\0"
                termios.tcsetattr(sys.stdin, termios.TCSANOW, modes)
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._give_back()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        raise Signalled(signum)

    def _give_back(self) -> None:
        for signum in _ENDING:  # a second one must not come between
            signal.signal(signum, signal.SIG_IGN)
        with contextlib.suppress(curses.error):  # it was never taken, or has gone
            if self._taken:  # a terminal without a second screen would keep what was drawn
                self._window.erase()
                self._window.refresh()
            curses.endwin()
        with contextlib.suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)

    def _take_encoding(self) -> None:
        """That of the locale. Where it is ASCII keys are understood as UTF-8, which most terminals send."""
        self._encoding = codecs.lookup(self._window.encoding).name
        typed = "utf-8" if self._encoding == "ascii" else self._encoding
        self._decoder = codecs.getincrementaldecoder(typed)("replace")

    def _take_colours(self) -> None:
        """Blue and orange where the terminal has colours and nobody asked for none (https://no-color.org)."""
        if os.environ.get("NO_COLOR") or not curses.has_colors():
            return
        try:
            curses.start_color()
            curses.use_default_colors()
            many = curses.COLORS >= 256
            curses.init_pair(_BLUE, 75 if many else curses.COLOR_CYAN, -1)
            curses.init_pair(_ORANGE, 208 if many else curses.COLOR_YELLOW, -1)
            self._colours = True
        except curses.error:
            self._colours = False

    def _attribute(self, style: Style) -> int:
        found = 0
        for flag, attribute in _ATTRIBUTES.items():
            if style & flag:
                found |= attribute
        if self._colours and style & (Style.BLUE | Style.ORANGE):
            found |= curses.color_pair(_BLUE if style & Style.BLUE else _ORANGE)
        return found

    def size(self) -> tuple[int, int]:
        """(columns, lines) at this moment; curses is told when they have changed."""
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
        if lines > 0 and columns > 0 and curses.is_term_resized(lines, columns):
            curses.resizeterm(lines, columns)
            self._window.clear()
        height, width = self._window.getmaxyx()
        return width, height

    def show(self, lines: Sequence[Line]) -> None:
        """Draw a screen; curses sends what has changed."""
        self._window.erase()
        for row, content in enumerate(lines):
            column = 0
            for text, style in content:
                with contextlib.suppress(curses.error):  # the last cell of all, or a terminal that has just shrunk
                    self._window.addstr(row, column, self._encodable(text), self._attribute(style))
                column += text_width(text)
        self._window.refresh()

    def _encodable(self, text: str) -> str:
        """The text, with '?' in every column of a sign that the locale does not have."""
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            known = (sign.encode(self._encoding, "ignore") for sign in text)
            return "".join(sign if found else "?" * text_width(sign) for sign, found in zip(text, known, strict=True))
        return text

    def key(self, wait_ms: int) -> str:
        """The next key (view.py names them), waiting so long at the most; empty when there was none, a part of one, or
        a resize. Bytes that are no character of the locale are the key U+FFFD."""
        if self._keys:
            return self._keys.popleft()
        self._window.timeout(max(wait_ms, 0))
        code = self._window.getch()
        if code < 0 or code == curses.KEY_RESIZE:
            return ""
        if _BYTE_FROM <= code <= _BYTE_TO:
            self._keys += self._decoder.decode(bytes([code]))
            return self._keys.popleft() if self._keys else ""
        self._keys += self._decoder.decode(b"", final=True)  # what began here is not going on
        self._decoder.reset()
        self._keys.append(self._plain_key(code))
        return self._keys.popleft()

    def _plain_key(self, code: int) -> str:
        """A key of ASCII, or one that curses knows; empty for others."""
        if code == _ESCAPE:
            self._window.timeout(0)
            rest = [key for key in iter(self._window.getch, -1) if key != curses.KEY_RESIZE]
            return "" if rest else "ESC"  # a key that nobody knows, or the one
        if code in _KEYS:
            return _KEYS[code]
        return chr(code) if ord(" ") <= code <= ord("~") else ""
