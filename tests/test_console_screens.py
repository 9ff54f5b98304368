"""What the console draws: whole screens compared, and what holds for every screen; keys and what they do."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm.control import TripSource
from tests.console_snapshots import FOLDER, SCREENS, drawn, good, huge, many, nothing, tripped
from tools.console.canvas import (
    Style,
    bar,
    clock,
    count,
    cut,
    duration,
    fit,
    plain_text,
    shown,
    text_width,
    width_of,
    wrapped,
)
from tools.console.lists import shares
from tools.console.panes_safety import missing_processes, sources_in_words
from tools.console.snapshot import LATENCY, LOG, MARKET, Snapshot
from tools.console.view import PANES, Asking, Do, View, matching, press, screen, settled

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_what_its_file_shows(name: str) -> None:
    kept = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert drawn(name) == kept, "`python -m tests.console_snapshots` draws them anew"


def test_every_file_is_compared() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(SCREENS)


def text_of(view: View, snapshot: Snapshot, width: int = 80, height: int = 24) -> str:
    return plain_text(screen(view, snapshot, width, height))


@given(
    st.integers(1, 240), st.integers(1, 80), st.integers(0, len(PANES) - 1), st.sampled_from(list(Asking)),
    st.sampled_from([good(), tripped(), nothing(), huge(), many()]), st.text(max_size=200), st.integers(0, 5000),
)  # fmt: skip
@settings(max_examples=300)
def test_every_screen_fills_its_terminal_exactly(
    width: int, height: int, pane: int, asking: Asking, snapshot: Snapshot, typed: str, scroll: int
) -> None:
    view = View(pane=pane, asking=asking, typed=typed, notice=typed, scroll=scroll, picked=scroll % 7)
    lines = screen(view, snapshot, width, height)
    assert len(lines) == height and {width_of(content) for content in lines} == {width}
    for sign in "".join(text for content in lines for text, _ in content):
        assert sign.isprintable() and unicodedata.category(sign) not in ("Mn", "Me"), ascii(sign)


@pytest.mark.parametrize(("width", "height"), [(79, 24), (80, 23), (20, 3), (1, 1)])
def test_a_terminal_that_is_too_small_is_told_so_in_one_line(width: int, height: int) -> None:
    lines = text_of(View(), good(), width, height).split("\n")
    assert lines[0] == cut(((f"{width}x{height}: needs 80x24", Style.BOLD),), width)[0][0]
    assert not any(lines[1:])


def test_nothing_is_said_by_colour_alone() -> None:
    """Wherever blue or orange is used a word or a sign says it too: taken away, good and bad still differ."""
    for pane in range(len(PANES)):
        for content in screen(View(pane=pane), tripped(), 120, 40):
            spans = [(text, style) for text, style in content if style & Style.ORANGE and text.strip()]
            for text, style in spans:
                is_sale = pane in (1, 2) and ("-" in text or "sell" in text or "unknown" in text or "#" in text)
                assert "!" in text or is_sale, (pane, text, style)


def test_an_unknown_bit_of_the_word_is_named_by_its_number() -> None:
    assert sources_in_words(1 << TripSource.OPERATOR | 3 << 16) == "OPERATOR"
    assert sources_in_words(1 << 12 | 1 << 14 | 1 << TripSource.RISK) == "RISK, UNKNOWN (bit 12, 14)"
    assert sources_in_words(1 << TripSource.UNKNOWN) == "UNKNOWN (bit 15)"
    assert sources_in_words(1 << 16) == "a trip that is just being made"
    assert "0x" + "f" * 16 in text_of(View(pane=4), replace(good(), safety=replace(good().safety, word=-1)))


def test_a_process_of_which_nothing_is_known_is_missing() -> None:
    assert missing_processes(good()) == []
    assert missing_processes(tripped()) == ["killswitch"]
    assert set(missing_processes(nothing())) == {
        "ingestion", "validation", "features", "ml", "execution", "gateway", "killswitch",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12, "12"), (62.5, "62.5"), (258.4, "258"), (99_999, "99999"), (100_000, "100k"), (4_567_890, "4.57M"),
     (45_678_900, "45.7M"), (2**63, "9.22E"), (-1_234_567, "-1.23M"), (1e21, "1000E")],
)  # fmt: skip
def test_counts(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [(None, "-"), (0, "0ns"), (999, "999ns"), (1000, "1.0us"), (45_100_000, "45.1ms"), (999_400, "999us"),
     (999_600, "1.0ms"), (12 * 10**9, "12.0s"), (303 * 10**9, "5m03s"), (27 * 3600 * 10**9, "27h"),
     (12 * 86400 * 10**9, "12d"), (-1_270_000_000, "-1.3s"), (2**63, "99999d")],
)  # fmt: skip
def test_durations(ns: float | None, text: str) -> None:
    assert duration(ns) == text


@given(st.integers(-(2**63), 2**63))
def test_figures_stay_in_their_columns(value: int) -> None:
    assert len(count(value)) <= 6 + (value < 0) and len(duration(value)) <= 6 + (value < 0)


def test_pieces() -> None:
    assert bar(0, 6) == "[....]" and bar(1e-9, 6) == "[#...]" and bar(1, 6) == bar(7, 6) == "[####]"
    assert clock(1_763_899_200_123_456_789) == "12:00:00" and clock(1_763_899_200_123_456_789, 3) == "12:00:00.123"
    assert fit("abc", 5, right=True) == "  abc" and fit("abcdef", 4) == "abc~" and fit("abc", 0) == ""
    assert fit("\u5e01\x1b[2J", 9) == "\u5e01?[2J   "


def test_signs_of_two_columns_take_two() -> None:
    assert text_width("a中\U0001f600ü") == 6 and width_of((("中", Style.PLAIN), ("x", Style.BOLD))) == 3
    assert fit("中文字", 4) == "中~ " and fit("中文字", 4, right=True) == " 中~" and fit("中文", 5) == "中文 "
    assert cut((("中文字", Style.BOLD),), 4) == (("中~", Style.BOLD), (" ", Style.PLAIN))
    assert wrapped("中" * 9, 10) == ("中" * 5, "    " + "中" * 3, "    " + "中")


def test_signs_that_cannot_stand_alone_are_composed_or_marked() -> None:
    assert shown("Gru\u0308\xdfe") == "Gr\xfc\xdfe"
    assert shown("q\u0308 a\xa0b\u202ec\u200d\x1b\ud800") == "q? a?b?c???"


@given(st.text(max_size=30), st.integers(0, 20), st.booleans())
def test_what_fits_has_its_width(text: str, width: int, right: bool) -> None:
    assert text_width(fit(text, width, right)) == width == width_of(cut(((text, Style.PLAIN),), width))


# --- keys -----------------------------------------------------------------------------------------------------------


def typed(view: View, *keys: str) -> tuple[View, list[Do]]:
    """What keys make of a view, and everything that is to be done."""
    done = []
    for key in keys:
        view, do = press(view, key, SYMBOLS)
        if do is not None:
            done.append(do)
    return view, done


def test_panes_by_number_and_in_turn() -> None:
    view, done = typed(View(), "3")
    assert view.pane == 2 and not done
    assert typed(view, "TAB")[0].pane == 3 and typed(view, "BACKTAB", "BACKTAB", "BACKTAB")[0].pane == len(PANES) - 1
    assert typed(view, "9")[0].pane == 2, "there is no ninth"
    assert [PANES[number].needs for number in (1, 3, 5)] == [{MARKET}, {LATENCY}, {LOG}]


def test_symbols_in_turn_and_by_a_part_of_their_names() -> None:
    assert View().symbol_of(SYMBOLS) == "BTCUSDT"
    assert typed(View(), "RIGHT")[0].symbol_of(SYMBOLS) == "ETHUSDT"
    assert typed(View(), "LEFT")[0].symbol_of(SYMBOLS) == "SOLUSDT"
    view, _ = typed(View(), "s", "o", "l", "ENTER")
    assert view.symbol_of(SYMBOLS) == "SOLUSDT" and MARKET in view.needs and view.asking is Asking.NOTHING
    assert typed(View(), "s", "DOWN", "ENTER")[0].symbol == 1 and typed(View(), "s", "UP", "ENTER")[0].symbol == 2
    view, _ = typed(View(), "s", "x", "q", "ENTER")
    assert view.asking is Asking.SYMBOL and view.alarm and matching(view, SYMBOLS) == []
    assert typed(view, "BACKSPACE", "BACKSPACE", "ENTER")[0].asking is Asking.NOTHING
    assert typed(View(symbol=1), "s", "x", "ESC")[0].symbol == 1


def test_a_kill_needs_its_word_to_the_letter() -> None:
    word = tuple("KILL")
    assert typed(View(), "K", *word, "ENTER")[1] == [Do("kill")]
    for keys in (
        ("K", "ENTER"), ("K", *"kill", "ENTER"), ("K", *"KIL", "ENTER"), ("K", *word, " ", "ENTER"),
        ("K", *word, "ESC"), ("K", *word), ("k", *word, "ESC", "ENTER"), ("K", *"KILLL", "ENTER"), ("K", "y"),
    ):
        assert typed(View(), *keys)[1] == [], keys
    assert typed(View(), "K", *"KILLX", "BACKSPACE", "ENTER")[1] == [Do("kill")]
    assert "not killed" in typed(View(), "K", *"kill", "ENTER")[0].notice


@given(st.lists(st.sampled_from([*"pqsK?123xy ", "ENTER", "ESC", "TAB", "BACKSPACE", "UP"]), max_size=40))
def test_no_row_of_other_keys_kills(keys: list[str]) -> None:
    assert Do("kill") not in typed(View(), *keys)[1]


def test_a_pause_needs_a_reason() -> None:
    assert typed(View(), "p", *"fed day", "ENTER")[1] == [Do("pause", "fed day")]
    for keys in (("p", "ENTER"), ("p", " ", "ENTER"), ("p", *"why", "ESC")):
        view, done = typed(View(), *keys)
        assert done == [] and view.asking is Asking.NOTHING and view.notice
    assert typed(View(), "p", *"Grüße 中 x\xa0y", "ENTER")[1] == [Do("pause", "Grüße 中 x\xa0y")]
    assert "say why, then ENTER (ESC: no): Grüße 中?x_" in text_of(typed(View(), "p", *"Grüße 中\xa0x")[0], good())
    reason = typed(View(), "p", *("x" * 500), "ENTER")[1][0].reason
    assert reason == "x" * 120
    assert "no more fits" in text_of(typed(View(), "p", *("x" * 120))[0], good())
    assert "no more fits" not in text_of(typed(View(), "p", *("x" * 119))[0], good())


def test_leaving_a_console_of_ones_own_and_that_of_a_run() -> None:
    assert typed(View(), "q")[1] == [Do("quit")]
    owner = View(owner=True)
    assert typed(owner, "q")[1] == [] and typed(owner, "q", "x")[1] == [] and typed(owner, "q", "ESC")[1] == []
    assert typed(owner, "q", "s")[1] == [Do("stop")] and typed(owner, "q", "l")[1] == [Do("quit")]


def test_help_closes_by_any_key_and_does_nothing() -> None:
    for key in ("q", "K", "ESC", "1"):
        view, done = typed(View(), "?", key)
        assert view == View() and done == []


def test_no_word_of_the_help_is_cut_off() -> None:
    for owner in (False, True):
        shown = text_of(View(asking=Asking.HELP, owner=owner), good()).split(" keys\n")[1]
        assert [text for text in shown.split("\n") if text.endswith("~")] == []


def turned(view: View, snapshot: Snapshot, *keys: str) -> View:
    """What keys make of a view that is drawn after each, as in the loop."""
    for key in keys:
        view = settled(typed(view, key)[0], snapshot, 80, 24)
    return view


def test_logs_scroll_back_and_stop_at_their_ends() -> None:
    view = turned(View(pane=5), good(), "UP", "UP")
    shown = text_of(view, good())
    assert "line 27" in shown and "line 28" not in shown
    assert "line 29" in text_of(turned(view, good(), "END"), good())
    assert "line 0" in text_of(turned(view, good(), "HOME"), good())
    assert turned(view, good(), *["DOWN"] * 9).scroll == 0


@pytest.mark.parametrize("pane", range(len(PANES)))
@pytest.mark.parametrize(("far", "back"), [("PAGEUP", "PAGEDOWN"), ("PAGEDOWN", "PAGEUP"), ("HOME", "END")])
def test_a_key_back_is_seen_at_once_however_often_one_scrolled_beyond_an_end(pane: int, far: str, back: str) -> None:
    """Beyond an end there is nothing: neither an empty pane, nor keys that do nothing until one is back at it."""
    before = turned(View(pane=pane), good(), *[far] * 50)
    after = turned(before, good(), back)
    scrolls = before.scroll != turned(before, good(), *[back] * 50).scroll
    assert scrolls == (pane in (1, 2, 5)) and scrolls == (text_of(after, good()) != text_of(before, good()))


def pieces_of(text: str) -> set[str]:
    """What stands on a pane, without the bars, whose length is that of the room: halves of rows, for two stand beside
    each other on the market."""
    rows = [row for row in text.split("\n")[3:-1] if not row.startswith(" order ")]  # a heading that counts
    halves = [half for row in rows for half in re.split(r"\[[#.]+\] *| {12,}", row)]
    return {half.strip() for half in halves if half and "..." not in half} - {""}


@pytest.mark.parametrize("pane", range(len(PANES)))
@pytest.mark.parametrize("snapshot", [good(), tripped(), nothing(), many()], ids=["good", "tripped", "nothing", "many"])
def test_what_there_is_no_room_for_is_said_and_can_be_reached(pane: int, snapshot: Snapshot) -> None:
    """Page by page everything is seen that a terminal of a thousand lines shows at once."""
    snapshot = replace(snapshot, log=snapshot.log if pane == 5 else ())
    whole = pieces_of(text_of(View(pane=pane), snapshot, 80, 1000))
    view = settled(View(pane=pane), snapshot, 80, 24)
    back = "PAGEUP" if pane == 5 else "PAGEDOWN"
    seen: set[str] = set()
    for _ in range(100):
        shown = text_of(view, snapshot)
        missing = whole - pieces_of(shown) - SECTIONS
        assert (re.search(r"\.\.\. .*(PgDn|PgUp)", shown) is not None) == bool(missing), missing
        seen |= pieces_of(shown)
        view = turned(view, snapshot, back)
    assert whole - seen - SECTIONS == set()


SECTIONS = {"mode", "emergency", "readiness"}  # titles, which are the first to go


def test_what_is_wrong_and_what_is_held_come_first() -> None:
    shown = [text_of(View(pane=pane), many()) for pane in range(len(PANES))]
    for pane, words in (
        (0, "!killswitch"), (0, "!strategy_4"), (0, "!targets_4"), (2, "COIN8USDT       -987.000"),
        (2, "COIN15USDT      -987.000"), (2, "unknown"), (2, "!HOLDING"), (4, "!dead-man switch  not armed"),
        (4, "!rate limits      banned"), (4, "!orders_60s"), (4, "!supervisor       there is none"),
    ):
        assert words in shown[pane], words
    positions = tuple(replace(item, entry="1.00") for item in many().account.positions)
    held = replace(many(), account=replace(many().account, positions=positions))
    assert "!... 1" in text_of(View(pane=2), held), "open positions are among those that are not shown"
    assert "!..." not in shown[2] and "!..." not in shown[0]


def test_a_list_that_became_shorter_is_not_looked_at_beyond_its_end() -> None:
    view = turned(View(pane=2), good(), "END")
    fewer = replace(good(), account=replace(good().account, fills=good().account.fills[:12]))
    assert "11:59:52.300" in text_of(view, fewer), "the oldest of the twelve"
    assert settled(view, fewer, 80, 24).scroll < view.scroll


def test_a_strategy_that_fails_is_named() -> None:
    assert "faults" not in text_of(View(pane=2), good())
    failing = replace(good(), account=replace(good().account, faults={"crasher": 97, "leaner": 1}))
    assert "!faults of strategies, which lost their quotes for them: crasher 97, leaner 1" in text_of(
        View(pane=2), failing
    )


def test_long_texts_are_parted_between_words() -> None:
    assert wrapped("one two three four", 10) == ("one two", "    three", "    four")
    assert wrapped("one two", 7) == ("one two",) and wrapped("", 7) == ("",)
    assert wrapped("a" * 15, 10) == ("a" * 10, "    " + "a" * 5)


@given(st.text("ab  ", max_size=60), st.integers(6, 30))
def test_nothing_of_a_parted_text_is_lost(text: str, width: int) -> None:
    rows = wrapped(text, width)
    assert all(len(row) <= width for row in rows)
    assert "".join("".join(rows).split()) == "".join(text.split())


def test_shares_of_rows() -> None:
    assert shares(18, (14, 11)) == [9, 9] and shares(18, (10, 8)) == [10, 8] and shares(18, (11, 8)) == [10, 8]
    assert shares(12, (16, 24, 20)) == [4, 4, 4] and shares(12, (1, 24, 3)) == [1, 8, 3]


def test_a_long_line_of_a_log_is_shown_whole() -> None:
    said = "supervisor: " + "word-" * 60 + "end"
    shown = text_of(View(pane=5), replace(good(), log=("first", said)))
    assert "".join(row.removeprefix(" ").removeprefix("    ") for row in shown.split("\n")[4:9]) == said
    assert "first" in shown and "~" not in shown


def test_fills_scroll_the_other_way_and_stop_at_the_oldest() -> None:
    view = turned(View(pane=2), good(), "DOWN", "DOWN")
    assert view.scroll == 2 and "12:00:00.000" not in text_of(view, good()).split("UTC")[1]
    for keys in (["PAGEDOWN"] * 9, ["END"]):
        view = turned(view, good(), *keys)
        shown = text_of(view, good())
        assert "11:59:46.700" in shown and "none yet" not in shown
    assert turned(view, good(), "HOME").scroll == 0
