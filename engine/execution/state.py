"""The state of the execution stage: one record, made here from settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.execution.decision_hash import DECISION_HASH, open_chain
from engine.execution.ledger import LEDGER
from engine.execution.orders import ORDER_TABLE, fill_order_table
from engine.execution.reconcile import RECONCILE
from engine.execution.reducing import REDUCING
from engine.execution.settings import ExecutionSettings
from engine.execution.slippage import SLIPPAGES
from engine.instruments import MAX_INSTRUMENTS, Instrument, instruments_by_index
from engine.reasons import REASON_COUNT
from engine.records import ORDER, Status
from engine.risk.gate import GATE, fill_gate
from engine.risk.market_view import MARKET_VIEW
from engine.risk.settings import GateSettings, money
from engine.safety.mode import Mode
from engine.safety.settings import SafetySettings
from engine.stage import STATE_HEAD
from engine.strategies.plugin import Bound
from engine.strategies.quotes import QUOTE
from engine.strategies.settings import MAX_STRATEGIES, MakerSettings
from engine.strategies.table import STRATEGIES, default_strategies, fill_strategies

# In STATE_HEAD: now_ns is the largest receive time of any input; last_ingest_id the last one of the market chain,
# which is the causing id of whatever is decided next.
EXECUTION_STATE = np.dtype(
    STATE_HEAD
    + [
        ("written", "<i8"),  # records in the outbox of the step under way; 0 between steps
        ("max_decision_age_ns", "<i8"),
        ("mode", "<i8"),  # Mode
        ("backlog", "<i8"),  # how full the rings beside execution are: 0, 1 half, 2 nearly full
        ("backlogs", "<i8"),  # BACKLOG records taken: they come from no ring
        ("trips", "<i8"),  # TRIP records taken: they come from no ring
        ("not_ready", "<i8"),  # one bit for each process that is not ready: no entries while any is set
        ("signals", "<i8"),  # quote targets changed
        ("intents", "<i8"),  # orders that passed the gate, and cancels
        ("sent", "<i8"),  # NEW records emitted
        ("cancels_sent", "<i8"),
        ("queries_sent", "<i8"),
        ("orphan_reports", "<i8"),  # about orders that the table does not hold (any more)
        ("orphan_fills", "<i8"),  # fills of such orders; they are booked all the same
        ("denied", "<i8", (REASON_COUNT,)),  # by our gate and by the gateway's last gate
        ("rejected_by", "<i8", (REASON_COUNT,)),  # orders that the venue rejected, by reason
        ("open_loop", "u1"),  # 1: orders are taken as accepted at once, nobody answers
        ("opened", "u1"),  # 1: opening balance and positions are known
        ("tripped", "u1"),  # 1: the emergency word is set, nothing but questions is emitted
        ("quiescing", "u1"),  # 1: no entries, everything is being cancelled
        ("quiescent", "u1"),  # 1: ... and no order is open, unknown or owes us fills
        ("blank_order", ORDER),  # all zero: what every outgoing record starts from
        ("hash", DECISION_HASH),
        ("gate", GATE),
        ("strategies", STRATEGIES),
        ("reconcile", RECONCILE),
        ("reducing", REDUCING),
        ("slippages", SLIPPAGES),
        ("views", MARKET_VIEW, (MAX_INSTRUMENTS,)),
        ("quotes", QUOTE, (MAX_STRATEGIES, MAX_INSTRUMENTS, 2)),  # BID, ASK
        ("fair_price", "<i8", (MAX_STRATEGIES, MAX_INSTRUMENTS)),  # 1e-8 quote, 0: none
        ("ledger", LEDGER),
        ("orders", ORDER_TABLE),
    ],
    align=True,
)


def make_execution_state(
    execution: ExecutionSettings,
    gate: GateSettings,
    maker: MakerSettings,
    instruments: Sequence[Instrument],
    open_loop: bool = False,
    reduce_over_s: float = SafetySettings.reduce_over_s,
    strategies: Sequence[Bound] = (),
) -> np.ndarray:
    """A fresh state, EXECUTION_STATE of shape (1,).

    Trading starts when a reconciliation has brought the opening balance; with open_loop at once, from
    `open_loop_balance`, and every order counts as accepted, every cancel as done, in the moment it is decided.
    strategies: none for the maker alone. maker: its parameters then; its shortest quote life is that of REDUCE's orders
    in any case. Raises ValueError for a repeated instrument index or one out of range.
    """
    state = np.zeros(1, EXECUTION_STATE)
    record = state[0]
    record["max_decision_age_ns"] = int(execution.max_decision_age_ms * 1_000_000)
    record["mode"] = Mode.NORMAL
    by_index = instruments_by_index(instruments)
    for index, instrument in by_index.items():
        view = record["views"][index]
        for name in ("price_exp", "size_exp", "tick_size", "lot_size", "min_notional", "venue"):
            view[name] = getattr(instrument, name)
        view["unit_exp"] = instrument.price_exp + instrument.size_exp
        view["filter_epoch"] = instrument.epoch
        view["known"] = 1
        # All values here are price * size: an inverse contract, whose value is not, is watched and never traded.
        view["tradable"] = instrument.contract_value == 0
        view["trading"] = view["tradable"] and instrument.status == Status.TRADING
    open_chain(record["hash"])
    fill_gate(record["gate"], gate)
    symbols = {index: instrument.symbol for index, instrument in by_index.items()}
    fill_strategies(record["strategies"], strategies or default_strategies(maker), symbols)
    fill_order_table(record["orders"], execution)
    record["reconcile"]["every_ns"] = int(execution.reconcile_every_s * 1_000_000_000)
    record["reconcile"]["confirm_ns"] = int(execution.reconcile_confirm_s * 1_000_000_000)
    record["reducing"]["over_ns"] = int(reduce_over_s * 1_000_000_000)
    record["reducing"]["quote_life_ns"] = maker.min_quote_life_ms * 1_000_000
    if open_loop:
        record["open_loop"] = 1
        record["opened"] = 1
        record["ledger"]["opening_balance"] = record["ledger"]["balance"] = money(execution.open_loop_balance)
    return state
