"""What is known of an engine at one moment, as plain values: all that panes are drawn from.

Prices, sizes and money are decimal text, exact as the engine has them; times are ns. None means not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Parts that are read only where they are shown.
MARKET, LATENCY, LOG = "market", "latency", "log"


@dataclass(frozen=True)
class Process:
    """One process of the engine."""

    role: str
    pid: int  # 0: there is none
    readiness: str
    core: int | None  # on which it ran last
    cores: tuple[int, ...]  # on which it may run; empty: on any
    cpu: float | None  # percent of one core since the snapshot before
    pss_mb: float | None  # at most some seconds old
    heartbeat_ns: int | None  # age
    restarts: int
    per_second: float | None  # work done

    @property
    def missing(self) -> bool:
        """Whether it does not serve."""
        return self.pid == 0 or self.readiness != "ready"


@dataclass(frozen=True)
class Ring:
    """One ring between two processes."""

    name: str
    capacity: int
    produced: int
    in_flight: int
    dropped: int
    per_second: float | None

    @property
    def fill(self) -> float:
        """Part of its places that is taken."""
        return self.in_flight / self.capacity if self.capacity else 0.0


@dataclass(frozen=True)
class Level:
    """One price of a book."""

    price: str
    size: str
    part: float  # of the largest size shown
    own: int = 0  # orders of ours that rest there


@dataclass(frozen=True)
class Trade:
    """One public trade."""

    at_ns: int
    side: int  # of the aggressor: 1 buyer, -1 seller
    price: str
    size: str


@dataclass(frozen=True)
class Market:
    """Book and tape of one symbol."""

    symbol: str
    book: str  # VALID, UNVERIFIED, or why not; empty before anything is known
    asks: tuple[Level, ...] = ()  # best first
    bids: tuple[Level, ...] = ()
    spread: str = ""
    trades: tuple[Trade, ...] = ()  # newest first
    missed: int = 0  # records of all symbols that passed unseen


@dataclass(frozen=True)
class Position:
    """What is held of one instrument."""

    symbol: str
    size: str
    entry: str  # average price; empty when flat
    price: str  # mark, or mid without one
    realised: str
    unrealised: str
    fees: str


@dataclass(frozen=True)
class Order:
    """One order that is not done."""

    order_id: int
    symbol: str
    side: int
    price: str
    size: str
    filled: str
    status: str
    age_ns: int


@dataclass(frozen=True)
class Fill:
    """One execution of ours."""

    at_ns: int
    order_id: int
    symbol: str
    side: int
    price: str
    size: str
    fee: str
    maker: bool


@dataclass(frozen=True)
class Account:
    """Money, counters and orders, all of one moment."""

    cash: str = "0"
    pnl: dict[str, str] = field(default_factory=dict)  # realised, unrealised, fees, funding
    counts: dict[str, int] = field(default_factory=dict)  # orders by what became of them, fills
    positions: tuple[Position, ...] = ()
    orders: tuple[Order, ...] = ()
    fills: tuple[Fill, ...] = ()  # newest first
    holding: str = ""  # why nothing is entered: ledger and venue differ
    faults: dict[str, int] = field(default_factory=dict)  # strategies that failed, and how often


Percentiles = dict[str, float]  # count, and in us p50, p99, p99_9, max


@dataclass(frozen=True)
class Safety:
    """What the engine may do, and why."""

    mode: str
    word: int = 0  # the emergency word
    held: tuple[str, ...] = ()  # triggers that are held at this moment
    dealt_with: bool = True  # the kill switch has dealt with the word as it is
    dead_man_s: float = 0.0  # until the venue cancels without us; 0: not armed
    asked: bool = False  # the supervisor was asked who holds the mode
    control: dict[str, Any] | None = None  # its answer; None where it gives none
    banned_s: float = 0.0  # by the venue, for too many calls
    budget: tuple[tuple[str, int, int], ...] = ()  # (limit, used, bound)


@dataclass(frozen=True)
class Snapshot:
    """Everything. A part that cannot be read yet is empty."""

    name: str
    session: str
    symbols: tuple[str, ...]
    paper: bool
    now_ns: int  # session time
    up_ns: int
    supervised: bool  # there is a supervisor
    safety: Safety
    frames_per_second: float | None = None
    processes: tuple[Process, ...] = ()
    rings: tuple[Ring, ...] = ()
    market: Market | None = None
    account: Account = Account()
    last_second: dict[str, Percentiles] = field(default_factory=dict)  # by hop
    since_start: dict[str, Percentiles] = field(default_factory=dict)
    log: tuple[str, ...] = ()  # oldest first

    @property
    def tripped(self) -> bool:
        """Whether the emergency word is set."""
        return self.safety.word != 0
