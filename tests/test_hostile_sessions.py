"""Hostile sessions in virtual time: a hundred seeds are sound, a seed is the same session each time, and every check of
the oracle finds the fault that it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ccxt
import numpy as np
import pytest

from engine.reasons import Reason
from engine.records import OrderAction, ReportKind
from procs.budget import Budget
from procs.embedded.mix import FATES, HTTP_ACTIONS, TIMED
from procs.gateway_core import GatewayCore
from procs.venues.binance_usdm import account_history
from procs.venues.binance_usdm.account_history import AccountHistory
from procs.venues.binance_usdm.order_check import OrderCheck
from procs.venues.binance_usdm.reports import from_user_trade, report
from procs.venues.binance_usdm.trading import TradingClient
from procs.virtual import hostile
from procs.virtual.gateway import VirtualGateway
from procs.virtual.hostile import Burst, HostileSession, Outcome, Script, run_hostile_session, script_of
from procs.virtual.loop import Loop

ROOT = Path(__file__).resolve().parent.parent
SEEDS = 100
OUTCOMES: dict[int, Outcome] = {}


def outcome(seed: int) -> Outcome:
    if seed not in OUTCOMES:
        OUTCOMES[seed] = run_hostile_session(seed)
    return OUTCOMES[seed]


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_a_hostile_session_ends_equal_to_the_venue(first: int) -> None:
    unsound = {seed: outcome(seed).violations for seed in range(first, first + 10) if outcome(seed).violations}
    assert unsound == {}


def test_the_sessions_were_hostile_and_traded() -> None:
    """Otherwise the test above would prove nothing."""
    outcomes = [outcome(seed) for seed in range(SEEDS)]
    faults: Counter[str] = Counter()
    for item in outcomes:
        faults.update(item.faults)
    known = {*HTTP_ACTIONS, *(f"{fate}_{channel}" for fate in FATES for channel in ("depth", "user")), "disconnect",
             *TIMED, "kill_gateway", "kill_execution", "expire_listen_key"}
    assert set(faults) == known and min(faults.values()) >= 5
    assert sum(item.orders for item in outcomes) > 5_000
    assert sum(item.fills for item in outcomes) > 1_500
    assert sum(item.unknown for item in outcomes) > 350
    assert sum(item.exposure > 0.9 for item in outcomes) > 30  # the limit was in reach
    assert min(item.fills for item in outcomes) > 0


def test_a_seed_is_the_same_session_each_time() -> None:
    """Also in another process, with other hashes of text."""
    assert run_hostile_session(3) == outcome(3)
    script = "from procs.virtual.hostile import run_hostile_session\nprint(run_hostile_session(3).event_hash)"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == outcome(3).event_hash
    assert len({outcome(seed).event_hash for seed in range(SEEDS)}) == SEEDS


def test_the_hash_tells_of_a_nanosecond(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Loop.after
    late: list[int] = []

    def after(loop: Loop, delay_ns: int, action: Any) -> None:
        # A few in a row: some wait for what has come by then and does not care any more.
        if len(late) < 10 and loop.now_ns > hostile.START_NS + 3_000_000_000:
            late.append(1)
            delay_ns += 1
        whole(loop, delay_ns, action)

    monkeypatch.setattr(Loop, "after", after)
    assert run_hostile_session(3).event_hash != outcome(3).event_hash


# --- what must be found ---------------------------------------------------------------------------------------------


RUTHLESS = Script(
    symbols=("BTCUSDT",), position_limit=1_000.0, quote_life_ms=50, loop_interval_ms=50,
    bursts=(Burst(2_000, 8_000, {
        "error_after": 0.2, "hang_after": 0.1, "hang_before": 0.1, "garbage_after": 0.1, "drop_user": 0.6,
        "disconnect": 0.2,
    }, delay_ms=3_000, duration_ms=1_000),),
    gateway_kills_ms=(5_000,), execution_kills_ms=(), key_expiry_ms=0, stop_ms=22_000,
)


def ruthless(seed: int) -> tuple[str, ...]:
    """Violations of a session in which much is lost, then time to find it."""
    return HostileSession(seed, RUTHLESS).run().violations


def found(*expected: str) -> bool:
    """Whether one of a few ruthless sessions has a violation that says one of these."""
    return any(words in line for seed in range(8) for line in ruthless(seed) for words in expected)


def test_ruthless_sessions_are_sound() -> None:
    """What the tests below find is what they have broken."""
    assert [ruthless(seed) for seed in range(8)] == [()] * 8


def test_a_client_that_sends_again_blindly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    perform = TradingClient.perform

    def blind(client: TradingClient, order: np.void) -> list[np.ndarray]:
        reports = perform(client, order)
        if order["kind"] == OrderAction.NEW and reports[0]["kind"][0] == ReportKind.UNKNOWN:
            return perform(client, order)
        return reports

    monkeypatch.setattr(TradingClient, "perform", blind)
    assert found("above the limit", "done for execution")


def test_a_client_that_takes_no_answer_for_a_no_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = TradingClient._failure

    def hasty(client: TradingClient, action: int, order_id: int, index: int, error: ccxt.BaseError) -> np.ndarray:
        made = failure(client, action, order_id, index, error)
        lost = made["kind"][0] == ReportKind.UNKNOWN
        wrong = lost and action == OrderAction.NEW
        return report(ReportKind.REJECTED, order_id, index, Reason.VENUE_UNREACHABLE) if wrong else made

    monkeypatch.setattr(TradingClient, "_failure", hasty)
    assert found("above the limit", "done for execution")


def test_a_query_that_takes_no_answer_for_a_no_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reconciliation mends what follows from it later on, so what is told is compared as it is told."""
    perform = TradingClient.perform

    def hasty(client: TradingClient, order: np.void) -> list[np.ndarray]:
        reports = perform(client, order)
        if order["kind"] == OrderAction.QUERY and reports[0]["kind"][0] == ReportKind.UNKNOWN:
            order_id, index = int(order["order_id"]), int(order["instrument"])
            reports = [report(ReportKind.NOT_FOUND, order_id, index, Reason.UNKNOWN_ORDER, aux=order["recv_ts_ns"])]
        return reports

    monkeypatch.setattr(TradingClient, "perform", hasty)
    assert found("is told as not found")


def test_a_lost_fill_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = VirtualGateway.publish

    def lossy(gateway: VirtualGateway, reports: np.ndarray) -> int:
        publish(gateway, reports[~((reports["kind"] == ReportKind.FILL) & (reports["trade_id"] % 5 == 0))])
        return len(reports)

    monkeypatch.setattr(VirtualGateway, "publish", lossy)
    assert found("trades never told")


def test_a_fill_that_counts_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(*arguments: Any) -> np.ndarray:
        record = from_user_trade(*arguments)
        record["trade_id"] += 1
        return record

    monkeypatch.setattr(account_history, "from_user_trade", renamed)
    assert found("told and never made")


def test_a_gateway_that_never_asks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    perform = TradingClient.perform

    def mute(client: TradingClient, order: np.void) -> list[np.ndarray]:
        return [] if order["kind"] == OrderAction.QUERY else perform(client, order)

    monkeypatch.setattr(TradingClient, "perform", mute)
    assert found("is UNKNOWN for")


def test_a_successor_that_sends_everything_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    take_up = GatewayCore.take_up

    def from_the_start(core: GatewayCore, *arguments: Any) -> int:
        take_up(core, *arguments)
        return 0

    monkeypatch.setattr(GatewayCore, "take_up", from_the_start)
    monkeypatch.setattr(VirtualGateway, "now_ns", lambda gateway: 0)  # and that looks at no deadline
    assert not found("times")  # the last gate knows what was sent under each number
    monkeypatch.setattr(OrderCheck, "_count", lambda *arguments: None)
    assert found("times")


def test_a_catch_up_that_looks_at_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TradingClient, "catch_up", lambda client: [])
    monkeypatch.setattr(AccountHistory, "query", lambda history, order_id, index: [
        report(ReportKind.CANCELLED, order_id, index)
    ])
    assert found("at the venue")


def test_an_exposure_beyond_the_limit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle holds the engine to a limit a tenth below the one that the engine knows."""
    money = hostile.money
    monkeypatch.setattr(hostile, "money", lambda value: money(value) * 9 // 10)
    assert found("above the limit")


def test_a_ban_that_the_client_earned_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "take", lambda *arguments: 0)
    script = replace(script_of(4), weight_limit_1m=60, bursts=())
    assert any("bans (418)" in line for line in HostileSession(4, script).run().violations)


# --- what the sessions have taught ----------------------------------------------------------------------------------


def calm_script(**changes: Any) -> Script:
    """A session without any fault but those that a test adds."""
    script = replace(
        script_of(1), symbols=("BTCUSDT",), bursts=(), gateway_kills_ms=(), execution_kills_ms=(), key_expiry_ms=0,
        stop_ms=12_000, position_limit=10_000.0, weight_limit_1m=2_400, order_limit_10s=300,
    )
    return replace(script, **changes)


@pytest.mark.parametrize("fault", ["gone", "ban", "clock", "half_open", "maintenance"])
def test_a_successor_that_starts_while_the_venue_is_away_waits_for_it(fault: str) -> None:
    """It used to die with the first question that was not answered, and three deaths end a session."""
    burst = Burst(3_000, 5_000, {fault: 1.0}, delay_ms=200, duration_ms=9_000)
    made = HostileSession(5, calm_script(bursts=(burst,), gateway_kills_ms=(4_200,))).run()
    assert made.violations == ()
    assert made.faults["kill_gateway"] == 1 and made.faults[fault] >= 1


def test_a_calm_session_has_nothing_unknown() -> None:
    made = HostileSession(1, calm_script()).run()
    assert made.violations == () and made.unknown == 0 and made.faults == {} and made.fills > 5
