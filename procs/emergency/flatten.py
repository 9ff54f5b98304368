"""Bringing positions to zero with collared reduce-only orders, clip by clip. Never a market order.

A clip is an immediate-or-cancel limit order at the edge of the collar around the mark price, no larger than a share of
what the book shows within it. Where the book shows nothing there, nothing is sent: wait, price again, go on.
Invariants: at most one clip of an instrument is not known to be done; one whose outcome is UNKNOWN is asked for by its
client id before another is sent. Clips are reduce-only: what arrives twice or late cannot turn a position round.
Where the venue says that a clip is off its grid, tick and lot have changed and are asked for anew.
An answer that fails keeps back its own instrument alone. While nothing is answered the pauses grow; and the calls are
of a level of the rate budget that leaves the cancels their share.
A clip's client id is that of an order of the session with a number from a range of its own, so that the gateway reports
its fills and the ledger books them; a successor goes on counting where the venue's list of orders ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from engine.binance_listing import instrument_from_binance
from engine.instruments import Instrument
from engine.records import Side
from engine.safety.trip_settings import TripSettings
from engine.units import format_units, parse_units
from procs.budget import Level
from procs.clocks import SYSTEM_CLOCKS, Clocks
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.reports import ClientIds
from procs.venues.binance_usdm.signed import Call, Refused, SignedSession
from procs.venues.terms import Terms, terms_of

_POSITIONS = "/fapi/v3/positionRisk"
_DEPTH = "/fapi/v1/depth"
_ORDER = "/fapi/v1/order"
_ALL_ORDERS = "/fapi/v1/allOrders"
_LISTING = "/fapi/v1/exchangeInfo"
_LEVELS = 20
_ORDERS_PAGE = 1000
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0  # while the venue says nothing
# Readings in a row without a position: an answer that is cut short looks like none.
_FLAT_READINGS = 2
# An order that the venue does not know cannot appear any more after this: its signature is valid for 1,000 ms.
_LATEST_ARRIVAL_NS = 2_000_000_000
_NO_SUCH_ORDER = -2013
# Codes by which the venue says that it does not know whether the order took effect.
_UNKNOWN_CODES = (-1000, -1001, -1006, -1007)
# Codes by which it says that a price is not on its ticks, or a size not on its lots.
_OFF_GRID_CODES = (-1111, -4014, -4023)
# Numbers of clips: this, the instrument, and a count.
FIRST_CLIP = 1 << 50
_CLIPS_OF_INSTRUMENT = 1 << 32


@dataclass(frozen=True)
class Clip:
    """One order that reduces; integers in the instrument's units."""

    side: Side
    price: int
    size: int


def clip_of(
    position: int, mark: Decimal, levels: Iterable[tuple[int, int]], instrument: Instrument, rules: TripSettings
) -> Clip | None:
    """The next clip of a position that is not zero, or None where the book shows nothing within the collar.

    mark: in price units; levels: (price, size) of the side that the clip would take from.
    """
    collar = Decimal(str(rules.flatten_collar_bps)) / 10_000
    tick, lot = instrument.tick_size, instrument.lot_size
    if position > 0:
        edge = int((mark * (1 - collar) / tick).to_integral_value(ROUND_CEILING)) * tick
        visible = sum(size for price, size in levels if price >= edge)
    else:
        edge = int((mark * (1 + collar) / tick).to_integral_value(ROUND_FLOOR)) * tick
        visible = sum(size for price, size in levels if price <= edge)
    if visible <= 0 or edge <= 0:
        return None
    by_depth = int(Decimal(str(rules.flatten_depth_share)) * visible)
    unit = Decimal(10) ** (instrument.price_exp + instrument.size_exp)
    by_value = int(Decimal(str(rules.flatten_clip_value)) * unit / mark)
    size = max(min(by_depth, by_value) // lot, 1) * lot
    return Clip(Side.SELL if position > 0 else Side.BUY, edge, min(size, abs(position)))


@dataclass(frozen=True)
class Step:
    """What came of one step: whether the positions are surely zero, what failed, how long to wait."""

    flat: bool
    failed: str
    pause_s: float = _PAUSE_S


@dataclass
class _Desk:
    """What is known of one instrument."""

    instrument: Instrument
    next_number: int = 0  # of its clips; 0: the venue has not been asked yet
    unknown_id: str = ""  # client id of a clip whose outcome is not known
    sent_ns: int = 0
    off_grid: bool = False  # the venue has refused a clip for its tick or lot


class Flattener:
    """See the module. `begin` once for each trip, then `step` until it says that all is flat."""

    def __init__(
        self, session: SignedSession, instruments: Sequence[Instrument], rules: TripSettings, ids: ClientIds,
        note: Callable[..., None], turn: Callable[[], object], clocks: Clocks = SYSTEM_CLOCKS,
    ) -> None:
        """note: called with an event and its fields; turn: called before each wait."""
        session.level = Level.FLATTEN
        self._session = session
        self._desks = {item.symbol: _Desk(item) for item in instruments}
        self._rules = rules
        self._ids = ids
        self._note = note
        self._turn = turn
        self._clocks = clocks
        self._flat_readings = 0
        self._pause_s = _PAUSE_S
        self._failures: list[str] = []  # of this step

    def begin(self) -> None:
        """What an earlier time has found does not count."""
        self._flat_readings = 0
        self._pause_s = _PAUSE_S

    def step(self) -> Step:
        """Ask for what is UNKNOWN, read the positions, send one clip for each that is left.

        The step has failed with the first thing that did; what did not fail has been gone on with.
        """
        self._failures = []
        self._resolve()
        try:
            positions = self._positions()
        except VenueUnreachable as error:
            self._flat_readings = 0
            pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
            return Step(False, str(error), pause_s)
        self._pause_s = _PAUSE_S
        if positions or self._failures or any(desk.unknown_id for desk in self._desks.values()):
            self._flat_readings = 0
            self._send(self._clips(positions))
        else:
            self._flat_readings += 1
        return Step(self._flat_readings >= _FLAT_READINGS, self._failures[0] if self._failures else "")

    # --- asking ---------------------------------------------------------------------------------------------------

    def _ask(self, calls: dict[str, Call]) -> Iterator[tuple[_Desk, Any]]:
        """Make a call for each of a few symbols; the desks and the answers of those that have one."""
        if calls:
            self._turn()
        for symbol, answer in zip(calls, self._session.call_all(list(calls.values())), strict=True):
            if isinstance(answer, VenueUnreachable):
                self._failures.append(str(answer))
            else:
                yield self._desks[symbol], answer

    def _number_clips(self, symbols: Iterable[str]) -> None:
        """Find out which numbers are free: a predecessor, or an earlier trip, may have sent clips."""
        fresh = [symbol for symbol in symbols if not self._desks[symbol].next_number]
        calls = {symbol: Call("GET", _ALL_ORDERS, {"symbol": symbol, "limit": _ORDERS_PAGE}) for symbol in fresh}
        for desk, orders in self._ask(calls):
            first = FIRST_CLIP + desk.instrument.index * _CLIPS_OF_INSTRUMENT
            with self._understanding("GET", _ALL_ORDERS):
                numbers = [self._ids.number(str(order["clientOrderId"])) for order in orders]
                used = [number for number in numbers if first <= number < first + _CLIPS_OF_INSTRUMENT]
                desk.next_number = max(used, default=first - 1) + 1

    def _learn_grids(self) -> None:
        """Tick and lot of what was refused for them, as the venue lists them now."""
        if not any(desk.off_grid for desk in self._desks.values()):
            return
        self._turn()
        try:
            listing = self._session.call("GET", _LISTING, signed=False)
        except VenueUnreachable as error:
            self._failures.append(str(error))
            return
        with self._understanding("GET", _LISTING):
            for entry in listing["symbols"]:
                desk = self._desks.get(entry["symbol"])
                if desk is None or not desk.off_grid:
                    continue
                item = desk.instrument
                held = Terms(item.tick_size, item.lot_size, item.min_notional, item.status)
                terms = terms_of(item, held, instrument_from_binance(entry, item.index))
                desk.instrument = replace(item, tick_size=terms.tick_size, lot_size=terms.lot_size)
                desk.off_grid = False
                self._note("listed anew", symbol=item.symbol, tick=terms.tick_size, lot=terms.lot_size)

    def _resolve(self) -> None:
        """Ask for clips whose outcome is UNKNOWN."""
        for symbol, desk in self._desks.items():
            if not desk.unknown_id:
                continue
            self._turn()
            try:
                order = self._session.call("GET", _ORDER, symbol=symbol, origClientOrderId=desk.unknown_id)
            except Refused as refusal:
                if refusal.code != _NO_SUCH_ORDER:
                    self._failures.append(str(refusal))
                elif self._clocks.monotonic_ns() - desk.sent_ns > _LATEST_ARRIVAL_NS:
                    self._note("clip never arrived", id=desk.unknown_id)
                    desk.unknown_id = ""
                continue
            except VenueUnreachable as error:
                self._failures.append(str(error))
                return  # nobody answers: the others would wait in vain too
            with self._understanding("GET", _ORDER):
                self._note("clip found", id=desk.unknown_id, executed=order["executedQty"])
                desk.unknown_id = ""

    def _positions(self) -> dict[str, tuple[int, Decimal]]:
        """By symbol the size in its units and the mark price in price units, of what is not zero.

        Raises VenueUnreachable where the venue gives no list.
        """
        self._turn()
        entries = self._session.call("GET", _POSITIONS)
        if not isinstance(entries, list):
            raise VenueUnreachable(f"GET {_POSITIONS}: the answer is no list")
        positions = {}
        for entry in entries:
            with self._understanding("GET", _POSITIONS):
                desk = self._desks.get(entry["symbol"])
                if desk is not None and (size := parse_units(entry["positionAmt"], desk.instrument.size_exp)):
                    mark = Decimal(entry["markPrice"]).scaleb(desk.instrument.price_exp)
                    positions[entry["symbol"]] = (size, mark)
        return positions

    def _clips(self, positions: dict[str, tuple[int, Decimal]]) -> dict[str, Clip]:
        """By symbol the clip to send now."""
        self._number_clips(positions)
        self._learn_grids()
        wanted = [
            symbol for symbol in positions if self._desks[symbol].next_number and not self._desks[symbol].unknown_id
        ]
        calls = {
            symbol: Call("GET", _DEPTH, {"symbol": symbol, "limit": _LEVELS}, signed=False) for symbol in wanted
        }
        clips = {}
        for desk, book in self._ask(calls):
            item = desk.instrument
            size, mark = positions[item.symbol]
            with self._understanding("GET", _DEPTH):
                levels = [
                    (parse_units(price, item.price_exp), parse_units(amount, item.size_exp))
                    for price, amount in book["bids" if size > 0 else "asks"]
                ]
                clip = clip_of(size, mark, levels, item, self._rules)
                if clip is None:
                    self._note("nothing within the collar", symbol=item.symbol, position=size)
                else:
                    clips[item.symbol] = clip
        return clips

    @contextlib.contextmanager
    def _understanding(self, method: str, path: str) -> Iterator[None]:
        """An answer without what it must hold is one of the venue's failures; what follows goes on."""
        try:
            yield
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            self._failures.append(f"{method} {path}: the answer cannot be read: {type(error).__name__}")

    # --- sending --------------------------------------------------------------------------------------------------

    def _send(self, clips: dict[str, Clip]) -> None:
        calls = []
        for symbol, clip in clips.items():
            desk = self._desks[symbol]
            # UNKNOWN from before the first byte leaves until the venue has said what became of it.
            desk.unknown_id = self._ids.text(desk.next_number)
            desk.next_number += 1
            desk.sent_ns = self._clocks.monotonic_ns()
            calls.append(Call("POST", _ORDER, order_params(symbol, clip, desk.instrument, desk.unknown_id)))
        self._turn()
        outcomes = self._session.call_all(calls)
        for (symbol, clip), outcome in zip(clips.items(), outcomes, strict=True):
            desk = self._desks[symbol]
            known = _is_definite(outcome)
            executed = outcome["executedQty"] if known and isinstance(outcome, dict) else ""
            self._note(
                "clip", symbol=symbol, side=clip.side.name, price=clip.price, size=clip.size, id=desk.unknown_id,
                executed=executed, error=str(outcome) if isinstance(outcome, VenueUnreachable) else "", known=known,
            )
            if known:
                desk.unknown_id = ""
                desk.off_grid = isinstance(outcome, Refused) and outcome.code in _OFF_GRID_CODES


def order_params(symbol: str, clip: Clip, instrument: Instrument, client_id: str) -> dict[str, Any]:
    """The parameters of a clip's order, as the venue takes them."""
    return {
        "symbol": symbol, "side": clip.side.name, "quantity": format_units(clip.size, instrument.size_exp),
        "newClientOrderId": client_id, "newOrderRespType": "RESULT", "type": "LIMIT",
        "price": format_units(clip.price, instrument.price_exp), "timeInForce": "IOC", "reduceOnly": "true",
    }


def _is_definite(outcome: Any) -> bool:
    """Whether the outcome of a new order says what became of it."""
    if isinstance(outcome, Refused):
        return outcome.status < 500 and outcome.code < 0 and outcome.code not in _UNKNOWN_CODES
    return isinstance(outcome, dict) and "executedQty" in outcome
