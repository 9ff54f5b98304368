"""Snapshots made by hand, and the screens that are drawn from them: tests/console_screens/NAME.txt.

`python -m tests.console_snapshots` draws them anew; look at what has changed before it is kept.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shm.control import TripSource
from tools.console.canvas import plain_text
from tools.console.snapshot import (
    Account,
    Fill,
    Level,
    Market,
    Order,
    Position,
    Process,
    Ring,
    Safety,
    Snapshot,
    Trade,
)
from tools.console.view import Asking, View, screen

FOLDER = Path(__file__).resolve().parent / "console_screens"
NOON = 1_763_899_200_000_000_000  # 2025-11-23 12:00:00 UTC
S = 1_000_000_000
_HOPS = ("ingestion", "validation", "features", "ml", "execution", "decision", "wire", "checkpoint.execution")
_ROLES = (
    "supervisor", "ingestion", "validation", "features", "ml", "execution", "gateway", "killswitch", "monitoring",
    "recorder",
)


def processes() -> tuple[Process, ...]:
    """All of them, in order."""
    return tuple(
        Process(
            role, 4000 + place, "ready", place % 2, (place % 2,), 1.5 * place, 30.25 + place,
            None if role == "supervisor" else 1_500_000 * place, 0, None if role == "supervisor" else 111.0 * place,
        )
        for place, role in enumerate(_ROLES)
    )


def rings() -> tuple[Ring, ...]:
    """All of them; the first is in use."""
    names = ("market", "valid", "features", "predictions", "orders", "fills", "commands")
    return tuple(Ring(name, 1 << 14, 1000 * (9 - place), 3 - place if place < 3 else 0, 0, 62.5 * place)
                 for place, name in enumerate(names))


def market(symbol: str = "BTCUSDT") -> Market:
    """A book of twelve levels a side and a tape of thirty trades."""
    asks = tuple(Level(f"{60000 + n / 10:.2f}", f"0.{n:03d}", n / 12, 1 if n == 2 else 0) for n in range(1, 13))
    bids = tuple(Level(f"{60000 - n / 10:.2f}", f"1.{n:03d}", 1 - n / 13, 2 if n == 1 else 0) for n in range(12))
    trades = tuple(
        Trade(NOON - n * 123_456_789, 1 if n % 3 else -1, f"{60000 + n % 5 / 10:.2f}", f"0.{n:03d}") for n in range(30)
    )
    return Market(symbol, "VALID", asks, bids, "0.10", trades, 0)


def account() -> Account:
    """Two positions, three open orders, twenty fills."""
    positions = (
        Position("BTCUSDT", "0.015", "59999.50", "59998.94", "-0.02000000", "-0.00840000", "2.08000000"),
        Position("ETHUSDT", "0.000", "", "2999.62", "1.25000000", "0.00000000", "0.50000000"),
    )
    orders = (
        Order(156, "ETHUSDT", 1, "2999.58", "0.166", "0.000", "LIVE", 236_000_000),
        Order(155, "BTCUSDT", -1, "60000.30", "0.008", "0.002", "PARTIALLY_FILLED", 4 * S),
        Order(150, "BTCUSDT", 1, "59990.00", "0.008", "0.000", "UNKNOWN", 90 * S),
    )
    fills = tuple(
        Fill(NOON - n * 700_000_000, 150 - n, "BTCUSDT", 1 if n % 2 else -1, f"{59990 + n}.00", "0.008", "0.09600000",
             n % 4 != 0)
        for n in range(20)
    )
    counts = {
        "sent": 156, "filled": 41, "cancelled": 110, "rejected": 1, "denied": 0, "unknown": 1, "fills": 65,
    }
    pnl = {
        "realised": "1.23000000", "unrealised": "-0.00840000", "fees": "2.58000000", "funding": "-0.10000000",
    }
    return Account("99995.41000000", pnl, counts, positions, orders, fills, "")


def latency() -> dict[str, dict[str, float]]:
    """Hops, each ten times as slow as the one before."""
    return {
        hop: {"count": 10 * place + 1, "p50": 0.05 * 4**place, "p99": 0.2 * 4**place, "p99_9": 0.9 * 4**place,
              "max": 1.0 * 4**place}
        for place, hop in enumerate(_HOPS)
    }


def good() -> Snapshot:
    """An engine that trades."""
    whole = latency()
    return Snapshot(
        name="bot4", session="bot4-20251123-115500-000", symbols=("BTCUSDT", "ETHUSDT"), paper=True, now_ns=NOON,
        up_ns=305 * S, supervised=True,
        safety=Safety(
            "NORMAL", dead_man_s=19.6, asked=True, control={
                "holds": [], "emergency": None, "not_armed": "", "locked": "", "now_ns": NOON,
            },
            budget=(("weight_60s", 461, 2400), ("orders_60s", 1100, 1200)),
        ),
        frames_per_second=258.4, processes=processes(), rings=rings(), market=market(), account=account(),
        last_second={hop: whole[hop] for hop in ("decision", "wire", "ml")}, since_start=whole,
        log=tuple(f"supervisor: 2026-11-23T11:20:{n:02d}.026Z line {n}" for n in range(30)),
    )


def tripped() -> Snapshot:
    """An emergency from three sources, one of them a bit that has no name; the kill switch is dead."""
    word = 5 << 16 | 1 << TripSource.HARDWARE | 1 << TripSource.DEAD_MAN | 1 << 13
    control = {
        "holds": [
            {"mode": "PAUSE", "by": "operator", "since_ns": NOON - 9 * S, "cause": "operator", "reason": "lunch",
             "clear_since_ns": None, "stale": False},
        ],
        "emergency": {
            "sources": ["HARDWARE", "DEAD_MAN"], "since_ns": NOON - 4 * S, "reason": "button", "acknowledged_by": "",
        },
        "reset_needs": [{"need": "trigger released", "why": "hardware is held"}], "not_armed": "", "locked": "",
        "now_ns": NOON,
    }
    base = good()
    dead = tuple(
        replace(item, pid=0, readiness="none", core=None, cpu=None, heartbeat_ns=None, restarts=3)
        if item.role == "killswitch" else item for item in base.processes
    )
    return replace(
        base, processes=dead,
        safety=Safety("EMERGENCY", word, ("HARDWARE",), False, 0.0, True, control, 12.0, base.safety.budget),
    )


def nothing() -> Snapshot:
    """An engine of which nothing can be read yet, and whose supervisor has gone."""
    return Snapshot(
        name="bot4", session="s", symbols=("BTCUSDT",), paper=False, now_ns=NOON, up_ns=0, supervised=False,
        safety=Safety("EMERGENCY"),
    )


def many() -> Snapshot:
    """As much as there can be: four strategies of Python, 16 instruments, many orders and fills, an emergency with
    holds and needs. What is wrong, and what is held, stands at the end of its list."""
    base, control = tripped(), dict(tripped().safety.control or {})
    strategies = tuple(
        Process(f"strategy_{number}", 4009 + number, "ready", 0, (0,), 1.0, 60.0, 2_000_000, 0, 40.0)
        for number in range(1, 5)
    )
    targets = tuple(
        Ring(f"targets_{number}", 1 << 10, 100 * number, 0, 7 * (number == 4), 1.0) for number in range(1, 5)
    )
    symbols = tuple(f"COIN{number}USDT" for number in range(16))
    positions = tuple(
        Position(name, "-987.000" if number in (8, 15) else "0.000", "100.00" if number in (8, 15) else "", "101.00",
                 "0.00000000", "0.00000000", "0.00000000")
        for number, name in enumerate(symbols)
    )
    orders = tuple(
        Order(200 - number, symbols[number % 16], 1, f"{100 + number}.00", "0.008", "0.000",
              "UNKNOWN" if number == 21 else "LIVE", (1 + number) * S)
        for number in range(24)
    )
    control["holds"] = [
        dict(control["holds"][0], reason=f"reason {number}, which somebody explained at more length than a row has")
        for number in range(3)
    ]
    control["reset_needs"] = [
        {"need": need, "why": "not yet"} for need in (
            "trigger released", "cause acknowledged", "venue reconciliation clean", "cooldown over",
            "every process ready",
        )
    ]
    return replace(
        base, symbols=symbols, supervised=False,
        processes=(*base.processes, *strategies[:-1], replace(strategies[-1], readiness="starting")),
        rings=(*base.rings, *targets), market=market(symbols[0]),
        account=replace(base.account, positions=positions, orders=orders, holding="balance, fees"),
        safety=replace(base.safety, control=control, budget=(
            ("weight_60s", 461, 2400), ("orders_10s", 1, 300), ("orders_60s", 1100, 1200), ("raw_300s", 5, 61000),
        )),
    )


def huge() -> Snapshot:
    """Names and figures as long as they can get, and signs that are not ASCII."""
    name, most = "n" * 32, 2**63 - 1
    symbol = "1000000\u5e01\u5b89\u4eba\u751fWORMHOLEUSDT_261225"
    money = "-92233720368.54775807"
    base = good()
    order = Order(most, symbol, -1, str(most), str(most), str(most), "PARTIALLY_FILLED", most)
    fill = Fill(NOON, most, symbol, 1, str(most), str(most), money, True)
    figures = {key: float(most) for key in ("count", "p50", "p99", "p99_9", "max")}
    return replace(
        base, name=name, symbols=(symbol,) * 16, up_ns=most, frames_per_second=1e18,
        processes=tuple(
            replace(item, pid=4194304, cpu=1600.0, pss_mb=1e6, heartbeat_ns=most, restarts=most, per_second=1e18)
            for item in base.processes
        ),
        rings=tuple(Ring(ring.name, most, most, most, most, 1e18) for ring in base.rings),
        market=Market(
            symbol, "CHECKSUM_MISMATCH", (Level(str(most), str(most), 1.0, most),) * 40, (), "", (
                Trade(NOON, 0, str(most), str(most)),
            ) * 40, most,
        ),
        account=Account(
            money, dict.fromkeys(base.account.pnl, money), dict.fromkeys(base.account.counts, most),
            (Position(symbol, f"-{most}", str(most), str(most), money, money, money),) * 16, (order,) * 64,
            (fill,) * 64,
            "balance, fees, positions, open orders",
        ),
        last_second=dict.fromkeys(base.since_start, figures), since_start=dict.fromkeys(base.since_start, figures),
        log=("venue: " + "\u00b5\x1b[31m" * 100,) * 50,
    )


SCREENS: dict[str, tuple[View, Snapshot]] = {
    **{f"pane_{number}": (View(pane=number - 1), good()) for number in range(1, 7)},
    "tripped_engine": (View(pane=0), tripped()),
    "tripped_safety": (View(pane=4), tripped()),
    **{f"nothing_{number}": (View(pane=number - 1), nothing()) for number in range(1, 7)},
    **{f"huge_{number}": (View(pane=number - 1), huge()) for number in range(1, 7)},
    **{f"many_{number}": (View(pane=number - 1), many()) for number in range(1, 7)},
    **{f"many_{number}_scrolled": (View(pane=number - 1, scroll=7), many()) for number in range(1, 7)},
    **{f"many_{number}_end": (View(pane=number - 1, scroll=10_000), many()) for number in range(1, 7)},
    "many_symbols": (View(asking=Asking.SYMBOL, typed="usd", picked=2), replace(many(), symbols=many().symbols * 2)),
    "help": (View(asking=Asking.HELP), good()),
    "help_of_run": (View(asking=Asking.HELP, owner=True), good()),
    "symbols": (View(asking=Asking.SYMBOL, typed="usd", picked=1), good()),
    "kill": (View(pane=2, asking=Asking.KILL, typed="KIL"), good()),
    "pause": (View(pane=1, asking=Asking.PAUSE, typed="the spread is mad"), good()),
    "leave": (View(asking=Asking.LEAVE, owner=True), good()),
    "failed": (View(pane=4, notice="not paused: the supervisor hangs", alarm=True), good()),
}
SIZES = ((80, 24), (120, 40))


def drawn(name: str) -> str:
    """A screen in both sizes, as its file has it."""
    view, snapshot = SCREENS[name]
    return "".join(
        f"--- {width}x{height} ---\n{plain_text(screen(view, snapshot, width, height))}\n" for width, height in SIZES
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for one in SCREENS:
        (FOLDER / f"{one}.txt").write_text(drawn(one), encoding="utf-8")
