"""What a person or a report wants to know of an execution state, as plain Python values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.execution.decision_hash import chain_hex
from engine.execution.ledger import unrealised
from engine.execution.order_states import OrderStatus
from engine.execution.reconcile import Mismatch
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.risk.gate import value_or_max
from engine.strategies.relay import relay_counts
from engine.units import MONEY_EXP, format_units


def decision_hash(state: np.ndarray) -> str:
    """The decision hash of an EXECUTION_STATE, 32 hex digits."""
    return chain_hex(state[0]["hash"])


def reason_counts(counters: np.ndarray) -> dict[str, int]:
    """Counters by reason as {NAME: n}, zeros left out."""
    names = {int(reason): reason.name for reason in Reason}
    return {names.get(i, f"REASON_{i}"): int(n) for i, n in enumerate(counters) if n}


def unrealised_profit(state: np.ndarray, instrument: Instrument) -> int:
    """Profit of an open position at mark price, where none is known at mid; 1e-8 quote, 0 without either."""
    view = state[0]["views"][instrument.index]
    position = state[0]["ledger"]["positions"][instrument.index]
    size, cost = int(position["size"]), int(position["cost"])
    if size == 0:
        return 0
    if view["mark_price"] > 0:
        value = value_or_max(int(view["mark_price"]), abs(size), MONEY_EXP + instrument.size_exp)
    elif view["bid_price"] > 0 and view["ask_price"] > 0:
        twice_mid = int(view["bid_price"] + view["ask_price"])
        value = value_or_max(twice_mid, abs(size), instrument.price_exp + instrument.size_exp) // 2
    else:
        return 0
    return int(unrealised(size, cost, value))


def reconciliation_summary(state: np.ndarray, instruments: Sequence[Instrument]) -> dict[str, Any]:
    """How often ledger and venue were compared, and what the last comparison found; amounts are decimal text.

    holding: a difference was confirmed, and nothing is entered until an answer agrees.
    """
    record = state[0]["reconcile"]

    def side(balance: int, fees: int, orders: int, positions: np.ndarray) -> dict[str, Any]:
        return {
            "balance": format_units(int(balance), MONEY_EXP), "fees": format_units(int(fees), MONEY_EXP),
            "open_orders": int(orders),
            "positions": {item.symbol: format_units(int(positions[item.index]), item.size_exp) for item in instruments},
        }

    return {
        "compared": int(record["compared"]), "mismatches": int(record["mismatches"]),
        "confirmed": int(record["confirmed"]), "failed": int(record["failed"]), "holding": bool(record["holding"]),
        "differs": [item.name.lower() for item in Mismatch if item.name and int(record["mismatch"]) & item.value],
        "ours": side(
            record["our_balance"], record["our_fees"], record["our_open_orders"], record["our_position"]
        ),
        "venue": side(
            record["balance"], record["fees"] - record["fees_at_opening"], record["open_orders"], record["position"]
        ),
    }


def strategy_summary(state: np.ndarray, names: Sequence[str], instruments: Sequence[Instrument]) -> dict[str, Any]:
    """What each strategy decided and holds, by its name; amounts are decimal text.

    cash: what its fills brought in less what they cost, before fees; with the value of its positions, its profit.
    process: of one in a process of its own, what execution took of it (engine/strategies/relay.py).
    """
    table = state[0]["strategies"]
    summaries = {}
    for place, name in enumerate(names):
        books = table["books"][place]
        summaries[name] = {
            **{key: int(books[key].sum()) for key in ("signals", "intents", "denied", "faults", "fills")},
            "cash": format_units(int(books["cash"].sum()), MONEY_EXP),
            "fees": format_units(int(books["fees"].sum()), MONEY_EXP),
            "positions": {
                item.symbol: format_units(int(books["position"][item.index]), item.size_exp) for item in instruments
            },
        }
        if table["apart"][place]:
            summaries[name]["process"] = relay_counts(table["memory"][place])
    return summaries


def execution_summary(state: np.ndarray, instruments: Sequence[Instrument]) -> dict[str, Any]:
    """The keys decisions, orders, fills, positions, cash, pnl, ledger_matches_venue and decision_hash of a summary.

    Amounts are decimal text. ledger_matches_venue is None while nothing was compared.
    """
    record = state[0]
    orders, ledger, reconcile = record["orders"], record["ledger"], record["reconcile"]
    by_status = orders["status_count"]
    open_profit = sum(unrealised_profit(state, instrument) for instrument in instruments)

    def amount(value: int) -> str:
        return format_units(int(value), MONEY_EXP)

    return {
        "decisions": {"signals": int(record["signals"]), "intents": int(record["intents"])},
        "orders": {
            "sent": int(record["sent"]),
            "acked": int(orders["acked"]),
            "filled": int(by_status[OrderStatus.FILLED]),
            "partially_filled": int(orders["partially_filled"]),
            "cancelled": int(by_status[OrderStatus.CANCELLED]),
            "expired": int(by_status[OrderStatus.EXPIRED]),
            "rejected": int(by_status[OrderStatus.REJECTED]),
            "unknown": int(orders["unknown"]),
            "denied": reason_counts(record["denied"]),
            "rejected_by": reason_counts(record["rejected_by"]),
            "illegal_transitions": int(orders["illegal_transitions"]),
            "cumulative_mismatches": int(orders["cumulative_mismatches"]),
            "orphan_reports": int(record["orphan_reports"]),
        },
        "fills": int(ledger["fills"]),
        "duplicate_fills": int(ledger["duplicate_fills"]),
        "positions": {
            item.symbol: format_units(int(ledger["positions"][item.index]["size"]), item.size_exp)
            for item in instruments
        },
        "cash": amount(ledger["balance"]),
        "pnl": {
            "realised": amount(ledger["realised"]),
            "unrealised": amount(open_profit),
            "fees": amount(ledger["fees"]),
            "funding": amount(ledger["funding"]),
        },
        "adjustments": amount(ledger["adjustments"]),
        "ledger_matches_venue": bool(reconcile["mismatch"] == 0) if reconcile["compared"] else None,
        "reconciliation": reconciliation_summary(state, instruments),
        "decision_hash": decision_hash(state),
    }
