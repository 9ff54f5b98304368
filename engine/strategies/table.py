"""The strategies of a session: their codes, parameters, states and books, as execution keeps them, and the call of one.

A strategy's place is its place in the configuration. It enters orders, reports and the decision hash. Parameters and
states are words here; each strategy sees its own as records.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.strategies import maker
from engine.strategies.context import EVENT, OWN
from engine.strategies.plugin import PARAMETER_WORDS, STATE_WORDS, Bound, bind, words_of
from engine.strategies.quotes import ASK, BID
from engine.strategies.registry import address_of, call_strategy, registered
from engine.strategies.relay import STALE_NS
from engine.strategies.settings import MAX_STRATEGIES, MakerSettings

# What belongs to a strategy of what the account holds in an instrument, from its own fills.
BOOK = np.dtype(
    [
        ("position", "<i8"),  # size units, signed
        ("cash", "<i8"),  # 1e-8 quote: what its fills brought in less what they cost, without fees
        ("fees", "<i8"),  # 1e-8 quote, positive = paid
        ("fills", "<i8"),
        ("signals", "<i8"),
        ("intents", "<i8"),
        ("denied", "<i8"),
        ("faults", "<i8"),  # events after which its quotes were taken back because it failed
    ],
    align=True,
)

STRATEGIES = np.dtype(
    [
        ("count", "<i8"),
        ("clock_at", "<i8"),  # where the next CLOCK begins: place * MAX_INSTRUMENTS + instrument
        ("event", EVENT),  # the one under way
        ("codes", "<i8", (MAX_STRATEGIES,)),
        ("clocked", "u1", (MAX_STRATEGIES,)),  # 1: it is called at CLOCK records too
        ("apart", "u1", (MAX_STRATEGIES,)),  # which of those in a process of their own it is, from 1; 0: it is compiled
        ("trades", "u1", (MAX_STRATEGIES, MAX_INSTRUMENTS)),  # 1: it trades this instrument
        ("parameter_counts", "<i8", (MAX_STRATEGIES,)),
        ("parameters", "<i8", (MAX_STRATEGIES, PARAMETER_WORDS)),
        ("memory", "<i8", (MAX_STRATEGIES, MAX_INSTRUMENTS, STATE_WORDS)),
        ("own", OWN, (MAX_STRATEGIES, MAX_INSTRUMENTS)),
        ("books", BOOK, (MAX_STRATEGIES, MAX_INSTRUMENTS)),
    ],
    align=True,
)

# The code of a strategy that is shipped is its name: the engine's own digest covers its content.
MAKER_CODE = int.from_bytes(b"maker", "big")


def default_strategies(settings: MakerSettings | None = None) -> tuple[Bound, ...]:
    """What runs where none is configured: the maker, with the parameters of the section [maker]."""
    values = vars(settings) if settings is not None else {}
    return (bind("maker", maker.on_event, values, MAKER_CODE),)


def fill_strategies(table: np.record, strategies: Sequence[Bound], symbols: dict[int, str]) -> None:
    """Write the strategies of a session into an empty STRATEGIES record. symbols: by instrument index.

    Raises ValueError for too many.
    """
    if not 1 <= len(strategies) <= MAX_STRATEGIES:
        raise ValueError(f"{len(strategies)} strategies: 1 to {MAX_STRATEGIES} are allowed")
    table["count"] = len(strategies)
    apart = 0
    for place, bound in enumerate(strategies):
        words = words_of(bound)
        if bound.stale_ms:
            apart += 1
            table["apart"][place] = apart
            table["memory"][place, :, STALE_NS] = bound.stale_ms * 1_000_000
        table["codes"][place] = bound.code
        table["clocked"][place] = bound.strategy.clock
        table["parameter_counts"][place] = len(words)
        table["parameters"][place, : len(words)] = words
        for index, symbol in symbols.items():
            table["trades"][place, index] = not bound.symbols or symbol in bound.symbols


def missing_strategies(table: np.record) -> list[int]:
    """Places of the strategies that this process cannot run."""
    return [place for place in range(int(table["count"])) if not registered(int(table["codes"][place]))]


@kernel()
def position_of(table: np.record, strategy: int, instrument: int, account_position: int) -> int:
    """What a strategy holds. What belongs to none, such as an opening position, is the first one's."""
    if strategy > 0:
        return table.books[strategy, instrument].position
    for other in range(1, table.count):
        account_position -= table.books[other, instrument].position
    return account_position


@kernel()
def _sound(quote: np.record) -> bool:
    """False for a target that no strategy can mean."""
    if quote.fault != 0 or quote.target_size < 0 or quote.target_price < 0:
        return False
    if quote.target_size > 0 and quote.target_price == 0:
        return False
    return quote.target_order_type <= 1 and quote.target_time_in_force <= 3


@kernel()
def run_strategy(table: np.record, strategy: int, instrument: int, view: np.record, quotes: np.ndarray) -> bool:
    """Let one strategy write the targets of its quotes of one instrument; the event and `own` are filled in.

    False when it is not there, raised an error or wanted what is no price or size: both targets are then withdrawn.
    """
    address = address_of(table.codes[strategy])
    if address != 0 and call_strategy(
        address, table.event, view, table.own[strategy, instrument], table.parameters[strategy],
        table.memory[strategy, instrument], quotes,
    ):
        if _sound(quotes[BID]) and _sound(quotes[ASK]):
            return True
    for place in range(2):
        quotes[place].fault = 0
        quotes[place].at_once = 0
        quotes[place].target_price = 0
        quotes[place].target_size = 0
    table.books[strategy, instrument].faults += 1
    return False
