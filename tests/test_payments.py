"""Funding and other payments, liquidations: from the venue's words to reports, and once each into the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from engine.matching.settings import VenueSettings
from engine.records import ORDER, OrderAction, OrderType, ReportKind
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints
from procs.venues.binance_usdm.payments import from_income, payment_id
from procs.venues.binance_usdm.reports import FORCED, ClientIds, from_order_update, owner_of
from procs.venues.binance_usdm.trading import TradingClient
from shm.clock import python_monotonic_ns, sleep
from tests.embedded_venue import RunningVenue, running_venue
from tests.execution_harness import START_NS, feed, opened_state
from tests.instance_memory import listed_instruments, own_budget
from tests.test_order_events import update

BTC, ETH = listed_instruments()
BY_NAME = {"BTCUSDT": BTC, "ETHUSDT": ETH}
IDS = ClientIds("0badcafe")


def entry(**changes: Any) -> dict[str, Any]:
    """An entry of the income history as the documentation prints it, with changes."""
    return {
        "symbol": "BTCUSDT", "incomeType": "FUNDING_FEE", "income": "-0.37500000", "asset": "USDT", "info": "",
        "time": "1570608000000", "tranId": "9689322392", "tradeId": "",
    } | changes


def test_entries_of_the_income_history() -> None:
    made = from_income(entry(), BY_NAME)
    assert made is not None
    assert (made["kind"][0], made["aux"][0], made["instrument"][0]) == (ReportKind.FUNDING, -37_500_000, 0)
    assert made["exch_ts_ns"][0] == 1570608000000_000_000
    other = from_income(entry(incomeType="INSURANCE_CLEAR", symbol="ETHUSDT"), BY_NAME)
    assert other is not None and (other["kind"][0], other["instrument"][0]) == (ReportKind.ADJUSTMENT, 1)
    transfer = from_income(entry(incomeType="TRANSFER", symbol=""), BY_NAME)
    assert transfer is not None and transfer["kind"][0] == ReportKind.ADJUSTMENT
    assert from_income(entry(incomeType="COMMISSION"), BY_NAME) is None, "the trades tell it"
    assert from_income(entry(asset="BNB"), BY_NAME) is None
    ids = {payment_id(entry(incomeType=kind)) for kind in ("FUNDING_FEE", "INSURANCE_CLEAR", "TRANSFER", "NEW_KIND")}
    assert len(ids) == 4 and payment_id(entry(tranId="9689322393")) not in ids


@pytest.mark.parametrize("client_id", ["autoclose-1570608000000", "adl_autoclose", "settlement_autoclose-5"])
def test_trades_that_the_venue_makes_for_our_account_are_ours(client_id: str) -> None:
    assert owner_of(client_id, IDS) == FORCED
    fill = from_order_update(
        update(c=client_id, x="TRADE", X="FILLED", l="0.004", z="0.004", L="9910.5", t=77, n="0.1"), BY_NAME, IDS
    )
    assert fill is not None and (fill["kind"][0], fill["order_id"][0], fill["size"][0]) == (ReportKind.FILL, 0, 4)
    assert from_order_update(update(c=client_id), BY_NAME, IDS) is None
    state = opened_state()
    fill["recv_ts_ns"] = START_NS
    feed(state, [(1, fill), (1, fill.copy())])
    ledger = state[0]["ledger"]
    assert (ledger["positions"][0]["size"], ledger["fills"], ledger["fees"]) == (-4, 1, 10_000_000)
    assert state[0]["orphan_fills"] == 1


@pytest.fixture(scope="module")
def venue() -> Iterator[RunningVenue]:
    """A venue that settles funding every two seconds."""
    with running_venue(VenueSettings(funding_rate="0.0007", funding_interval_s=2)) as running:
        yield running


def client_on(venue: RunningVenue, session: str) -> TradingClient:
    address = venue.address
    return TradingClient(
        Endpoints(address.rest_url, address.ws_url), Credentials(address.api_key, address.secret), [BTC, ETH],
        hashlib.sha256(session.encode()).hexdigest()[:8], lambda: None, 1000, 1000, own_budget(),
    )


def order(kind: OrderAction, **values: int) -> np.void:
    record = np.zeros(1, ORDER)
    record["kind"], record["order_type"] = kind, OrderType.MARKET
    for name, value in values.items():
        record[name] = value
    return record[0]


def funding_at(venue: RunningVenue) -> int:
    """What the venue has paid and taken as funding, 1e-8."""
    return int(venue.call(lambda: int(venue.venue.exchange.account["funding"][0])))


def test_funding_is_told_to_the_last_unit_and_booked_once(venue: RunningVenue) -> None:
    client = client_on(venue, "funding")
    assert client.payments() == [], "nothing before the opening"
    state = opened_state()
    opening = client.perform(order(OrderAction.RECONCILE, aux=1))
    before = funding_at(venue)
    balance = next(int(one["aux"][0]) for one in opening if one["kind"][0] == ReportKind.BALANCE)
    state[0]["ledger"]["balance"] = balance
    client.perform(order(OrderAction.NEW, order_id=1, instrument=0, side=1, size=40))
    deadline = python_monotonic_ns() + 30 * 10**9
    told: set[int] = set()
    while len(told) < 3 and python_monotonic_ns() < deadline:
        sleep(0.2)
        paid = client.payments()
        told |= {int(one["trade_id"][0]) for one in paid}
        for one in paid:
            one["recv_ts_ns"] = START_NS
        feed(state, [(1, one) for one in paid])
    client.perform(order(OrderAction.NEW, order_id=2, instrument=0, side=-1, size=40))
    answers = [*client.catch_up(), *client.perform(order(OrderAction.RECONCILE, aux=2))]
    for one in answers:
        one["recv_ts_ns"] = START_NS
    feed(state, [(1, one) for one in answers if one["kind"][0] in (ReportKind.FUNDING, ReportKind.ADJUSTMENT)])
    ledger = state[0]["ledger"]
    assert ledger["funding"] == funding_at(venue) - before != 0
    assert ledger["payments"] >= 3 and ledger["duplicate_payments"] > 0 and ledger["adjustments"] == 0
    history = venue.call(lambda: [
        one.amount for one in venue.venue.exchange.clearing.income if one.income.value == "FUNDING_FEE"
    ])
    assert Decimal(int(ledger["funding"])) == sum(history)
    client.close()
