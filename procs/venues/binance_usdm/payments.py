"""Payments into and out of the wallet that no trade explains: funding, insurance, transfers. REST tells them all.

The private stream says that something was paid, for a crossed position not even for which contract; the income history
says what, with an id. It is asked when the stream says so, after a reconnect, and when a comparison differs. What was
told before may be told again: execution books each id once.
Source: Binance USD-M futures, "Get Income History", "Event: Balance and Position Update".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ccxt
import numpy as np

from engine.instruments import Instrument
from engine.records import ReportKind
from engine.units import MONEY_EXP, parse_units
from procs.venues.binance_usdm.reports import report

_PAGE = 1000
_BY_TRADES = ("REALIZED_PNL", "COMMISSION")
_FUNDING = "FUNDING_FEE"
# A transaction id is unique within its type only.
_TYPES = (
    _FUNDING, "INSURANCE_CLEAR", "TRANSFER", "WELCOME_BONUS", "REFERRAL_KICKBACK", "COMMISSION_REBATE", "API_REBATE",
    "CONTEST_REWARD", "CROSS_COLLATERAL_TRANSFER", "INTERNAL_TRANSFER", "AUTO_EXCHANGE", "COIN_SWAP_DEPOSIT",
    "COIN_SWAP_WITHDRAW", "POSITION_LIMIT_INCREASE_FEE", "DELIVERED_SETTELMENT",
)  # fmt: skip
_QUIET_MS = 60_000


def payment_id(entry: Mapping[str, Any]) -> int:
    """One number for transaction id and type. An undocumented type shares the last number."""
    kind = str(entry["incomeType"])
    return int(entry["tranId"]) * (len(_TYPES) + 1) + (_TYPES.index(kind) if kind in _TYPES else len(_TYPES))


def from_income(entry: Mapping[str, Any], instruments: Mapping[str, Instrument]) -> np.ndarray | None:
    """The report of an entry of the income history; None for what the trades tell, or another asset than is traded."""
    kind = str(entry["incomeType"])
    if kind in _BY_TRADES or entry["asset"] not in {item.quote for item in instruments.values()}:
        return None
    instrument = instruments.get(entry.get("symbol") or "")
    return report(
        ReportKind.FUNDING if kind == _FUNDING else ReportKind.ADJUSTMENT,
        0,
        instrument.index if instrument else 0,
        trade_id=payment_id(entry),
        exch_ts_ns=int(entry["time"]) * 1_000_000,
        aux=parse_units(entry["income"], MONEY_EXP),
    )


class Payments:
    """The payments of a session. For the thread that asks."""

    def __init__(self, exchange: ccxt.binanceusdm, instruments: Iterable[Instrument]) -> None:
        self._exchange = exchange
        self._instruments = {item.symbol: item for item in instruments}
        self.opened_ms = 0  # payments up to here are part of the opening balance; 0: not opened
        self._told_ms = 0

    def begin(self) -> None:
        """What was paid up to now is not of this session. Raises ccxt errors."""
        newest = self._exchange.fapiPrivateGetIncome({"limit": _PAGE})
        # Where nothing was ever paid the venue's own clock tells where to begin.
        times = [int(entry["time"]) for entry in newest]
        self.resume(max(times) if times else int(self._exchange.fapiPublicGetTime()["serverTime"]) - _QUIET_MS)

    def resume(self, opened_ms: int) -> None:
        """Take up a session that another has begun."""
        self.opened_ms = self._told_ms = opened_ms

    def since_told(self) -> list[np.ndarray]:
        """Reports of what was paid since `told` was called last, that moment included. Raises ccxt errors."""
        reports: list[np.ndarray] = []
        since_ms = self._told_ms
        while self.opened_ms:
            page = self._exchange.fapiPrivateGetIncome({"startTime": since_ms, "limit": _PAGE})
            for entry in page:
                since_ms = max(since_ms, int(entry["time"]))
                made = from_income(entry, self._instruments)
                if made is not None and int(entry["time"]) > self.opened_ms:
                    reports.append(made)
            if len(page) < _PAGE:
                break
        return reports

    def told(self, reports: Iterable[np.ndarray]) -> None:
        """These are on their way to execution."""
        times = [
            int(one["exch_ts_ns"][0]) // 1_000_000 for one in reports
            if one["kind"][0] in (ReportKind.FUNDING, ReportKind.ADJUSTMENT)
        ]
        self._told_ms = max([self._told_ms, *times])
