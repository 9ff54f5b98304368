"""The terms of an instrument: what a venue may change of it while it is traded, in the units of this session.

Units are fixed for the life of a session. A tick or lot that became finer than they are cannot be said in them: such an
instrument is a MISFIT, which takes no orders and keeps its old terms, until a new session begins with new units.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from engine.instruments import Instrument
from engine.records import Status
from engine.units import INT64_MAX

_LAYOUT = struct.Struct("<qqqq")


@dataclass(frozen=True)
class Terms:
    """Tick in price units, lot in size units, least value of an order in 1e-8 quote, and the Status."""

    tick_size: int
    lot_size: int
    min_notional: int
    status: int

    def to_bytes(self) -> bytes:
        """As they stand in a journal."""
        return _LAYOUT.pack(self.tick_size, self.lot_size, self.min_notional, self.status)

    @classmethod
    def from_bytes(cls, data: bytes) -> Terms:
        """The terms that `to_bytes` has written. Raises struct.error for anything else."""
        return cls(*_LAYOUT.unpack(data))


def _in_units(value: int, exp: int, ours: int) -> int:
    """A number of 10^-exp in units of 10^-ours, or 0 where it is no whole number of them that int64 holds."""
    if exp <= ours:
        scaled = int(value) * 10 ** (ours - exp)
        return scaled if scaled <= INT64_MAX else 0
    whole, rest = divmod(value, 10 ** (exp - ours))
    return 0 if rest else whole


def terms_after(instrument: Instrument, held: Terms, news: Instrument | Status | None) -> Terms:
    """What it means for us that a venue lists an instrument so now, or says its status alone; else as `terms_of`."""
    if not isinstance(news, Status):
        return terms_of(instrument, held, news)
    stays = held.status == Status.MISFIT and news != Status.CLOSED  # what it trades in, we cannot say
    return held if stays else replace(held, status=int(news))


def terms_of(instrument: Instrument, held: Terms, listed: Instrument | None) -> Terms:
    """What the venue's present listing of an instrument means for us.

    instrument: as it was when the session began; held: the terms that hold; listed: as it is now, None where it is not
    listed any more.
    """
    if listed is None:
        return replace(held, status=int(Status.CLOSED))
    tick_size = _in_units(listed.tick_size, listed.price_exp, instrument.price_exp)
    lot_size = _in_units(listed.lot_size, listed.size_exp, instrument.size_exp)
    if not tick_size or not lot_size or listed.contract_value != instrument.contract_value:
        return replace(held, status=int(Status.MISFIT))
    return Terms(tick_size, lot_size, listed.min_notional, int(listed.status))
