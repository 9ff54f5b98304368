"""Order against intent at the last moment: whatever changes between the decision and the socket is not sent.

Named after Knight Capital (2012): 212 parent orders became millions of child orders because nothing compared what left
with what had been decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
import orjson
import pytest

from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import ORDER, Flag, OrderAction, OrderType, ReportKind, TimeInForce
from engine.safety.mode import Mode
from procs.gateway_core import GatewayCore
from procs.journal.layout import NO_WAY
from procs.states import GATEWAY_STATE
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints
from procs.venues.binance_usdm.trading import TradingClient
from tests.instance_memory import own_budget
from tests.trading_desk import BTC, ETH, KEY, SECRET, SESSION, ScriptedServer

NEVER = 2**63 - 1


class Place:
    """Where the core runs: everything is allowed, and what it asks for is kept."""

    def __init__(self) -> None:
        self.trips = self.left = self.calls = self.journaled = 0
        self.word, self.current_mode, self.time_ns = 0, Mode.NORMAL, 5
        self.reports: list[np.ndarray] = []

    def now_ns(self) -> int:
        return self.time_ns

    def emergency_word(self) -> int:
        return self.word

    def mode(self) -> Mode:
        return self.current_mode

    def trip(self, why: str) -> None:
        self.trips += 1

    def gate_is_shut(self, word: int) -> None:
        assert word == self.word

    def order_leaves(self, cause: int) -> tuple[int, ...]:
        self.left += 1
        return NO_WAY

    def call_ended(self, took_ns: int) -> None:
        assert took_ns >= 0
        self.calls += 1

    def hand_over(self, job: Any) -> None:
        raise AssertionError("nobody asked for it")

    prolong_listen_key = reconnect_stream = stream_is_up = order_leaves

    def publish(self, reports: np.ndarray) -> int:
        self.reports.append(reports)
        return len(reports)

    @property
    def ordinal(self) -> int:
        return self.journaled

    def write(self, *entry: Any, **more: Any) -> bool:
        self.journaled += 1
        return True


class Desk:
    """A gateway's core before a server that accepts everything."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server, self.place = server, Place()
        self.state = np.zeros(1, GATEWAY_STATE)
        instruments: list[Instrument] = [BTC, ETH]

        def make_client(before_order: Callable[[], None]) -> TradingClient:
            return TradingClient(
                Endpoints(server.url, ""), Credentials(KEY, SECRET), instruments, SESSION, before_order, 1000, 1000,
                own_budget(),
            )

        self.core = GatewayCore(self.place, self.state, instruments, self.place, make_client)  # type: ignore[arg-type]
        self.exchange: Any = self.core.client._exchange

    def perform(self, order: np.ndarray) -> tuple[ReportKind, Reason]:
        answer = self.core.perform(order)
        assert answer is not None
        return ReportKind(int(answer.reports[0]["kind"][0])), Reason(int(answer.reports[0]["reason"][0]))

    def alter(self, change: Callable[[dict[str, str]], None]) -> None:
        """Change what leaves after ccxt has made it: the body of the prepared request."""
        sign = self.exchange.sign

        def signed(*args: Any, **kwargs: Any) -> dict[str, Any]:
            made = sign(*args, **kwargs)
            fields = dict(parse_qsl(made["body"] or ""))
            change(fields)
            return made | {"body": urlencode(fields)}

        self.exchange.sign = signed

    def not_sent(self, order: np.ndarray) -> None:
        before = len(self.server.requests)
        assert self.perform(order) == (ReportKind.DENIED, Reason.DENIED_INTENT)
        assert len(self.server.requests) == before
        assert self.state["breaches"][0] == self.place.trips == 1


@pytest.fixture
def desk() -> Iterator[Desk]:
    answer = {"orderId": 7, "status": "NEW", "executedQty": "0", "side": "BUY", "updateTime": 5}
    with ScriptedServer(lambda method, path: (200, orjson.dumps(answer))) as server:
        made = Desk(server)
        yield made
        made.core.client.close()


def an_order(**values: int) -> np.ndarray:
    order = np.zeros(1, ORDER)
    order["kind"], order["order_id"], order["side"] = OrderAction.NEW, 12, 1
    order["price"], order["size"], order["time_in_force"] = 6_000_010, 1_234, TimeInForce.GTX
    order["deadline_ns"] = NEVER
    for name, value in values.items():
        order[name] = value
    return order


@pytest.mark.parametrize(
    "values",
    [{}, {"side": -1}, {"flags": Flag.REDUCE_ONLY}, {"order_type": OrderType.MARKET}, {"instrument": 1},
     {"time_in_force": TimeInForce.IOC}],
    ids=str,
)  # fmt: skip
def test_what_was_decided_leaves(desk: Desk, values: dict[str, int]) -> None:
    kind, _ = desk.perform(an_order(**values))
    assert kind == ReportKind.ACCEPTED and len(desk.server.requests) == 1
    assert (desk.place.trips, desk.place.left, desk.place.calls) == (0, 1, 1)
    assert desk.state["calls"][0] == 1 and desk.state["call_errors"][0] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("symbol", "ETHUSDT"), ("side", "SELL"), ("type", "MARKET"), ("price", "60000.20"), ("price", "60000.100001"),
        ("price", "x"), ("quantity", "1.235"), ("quantity", "12.34"), ("quantity", "-1.234"), ("timeInForce", "GTC"),
        ("newClientOrderId", f"b4{SESSION}-13"), ("newClientOrderId", "b400000000-12"), ("reduceOnly", "true"),
        ("reduceOnly", "false"), ("closePosition", "true"), ("positionSide", "SHORT"), ("stopPrice", "1"),
        ("newOrderRespType", "RESULT"), ("price", None), ("quantity", None), ("symbol", None), ("side", None),
        ("timeInForce", None), ("newClientOrderId", None), ("type", None),
    ],
)  # fmt: skip
def test_knight_2012_each_field_that_changes_on_its_way_is_caught(desk: Desk, field: str, value: str | None) -> None:
    def change(fields: dict[str, str]) -> None:
        fields.pop(field, None)
        if value is not None:
            fields[field] = value

    desk.alter(change)
    desk.not_sent(an_order())


def test_a_reduce_only_flag_that_gets_lost_is_caught(desk: Desk) -> None:
    desk.alter(lambda fields: fields.pop("reduceOnly"))
    desk.not_sent(an_order(flags=Flag.REDUCE_ONLY))


@pytest.mark.parametrize("name", ["price", "size", "side", "instrument", "order_id"])
def test_a_record_that_changes_after_it_was_taken_is_caught(desk: Desk, name: str) -> None:
    order, post = an_order(), desk.core.client._new

    def late(record: np.void) -> np.ndarray:
        order[name] = -1 if name == "side" else 1
        return post(record)

    desk.core.client._new = late  # type: ignore[method-assign]
    desk.not_sent(order)


def test_knight_2012_one_order_is_never_sent_twice(desk: Desk) -> None:
    assert desk.perform(an_order())[0] == ReportKind.ACCEPTED
    desk.not_sent(an_order())


def test_what_a_library_sends_again_is_caught(desk: Desk) -> None:
    post = desk.exchange.fapiPrivatePostOrder

    def twice(params: dict[str, Any]) -> Any:
        post(params)
        return post(params)

    desk.exchange.fapiPrivatePostOrder = twice
    assert desk.perform(an_order()) == (ReportKind.DENIED, Reason.DENIED_INTENT)
    assert len(desk.server.requests) == 1 and desk.place.trips == 1


def test_what_a_predecessor_perhaps_sent_is_not_sent_again(desk: Desk) -> None:
    desk.core.client.was_perhaps_sent(12)
    desk.not_sent(an_order())
    assert desk.perform(an_order(order_id=13))[0] == ReportKind.ACCEPTED


def test_a_cancel_is_of_the_order_that_was_meant(desk: Desk) -> None:
    cancel = an_order(kind=OrderAction.CANCEL)
    assert desk.perform(cancel)[1] == Reason.NONE
    assert len(desk.server.requests) == 1
    delete = desk.exchange.fapiPrivateDeleteOrder
    desk.exchange.fapiPrivateDeleteOrder = lambda params: delete(params | {"origClientOrderId": f"b4{SESSION}-13"})
    desk.not_sent(cancel)


@pytest.mark.parametrize("call", ["fapiPrivatePostBatchOrders", "fapiPrivatePostLeverage", "fapiPrivatePutOrder"])
def test_a_request_that_nobody_decided_is_caught(desk: Desk, call: str) -> None:
    other = getattr(desk.exchange, call)
    desk.exchange.fapiPrivatePostOrder = lambda params: other({"symbol": "BTCUSDT", "leverage": 5})
    desk.not_sent(an_order())


def test_the_emergency_word_is_read_after_everything_else(desk: Desk) -> None:
    """A trip while the request is being built and signed: the order does not leave, and it is no breach."""
    sign = desk.exchange.sign

    def tripping(*args: Any, **kwargs: Any) -> Any:
        desk.place.word = 1 << 16 | 1
        return sign(*args, **kwargs)

    desk.exchange.sign = tripping
    assert desk.perform(an_order()) == (ReportKind.DENIED, Reason.DENIED_EMERGENCY)
    assert desk.server.requests == [] and desk.place.trips == 0


@pytest.mark.parametrize("mode", [Mode.REDUCE, Mode.PAUSE, Mode.EMERGENCY])
@pytest.mark.parametrize("flags", [0, int(Flag.REDUCE_ONLY)])
def test_the_mode_lets_out_what_only_reduces(desk: Desk, mode: Mode, flags: int) -> None:
    desk.place.current_mode = mode
    passes = flags and mode != Mode.EMERGENCY
    expected = (ReportKind.ACCEPTED, Reason.NONE) if passes else (ReportKind.DENIED, Reason.DENIED_MODE)
    assert desk.perform(an_order(flags=flags)) == expected
    assert len(desk.server.requests) == bool(passes)


def test_failed_calls_are_counted() -> None:
    answers = iter([(500, b"{}"), (429, b"{}"), (400, b'{"code": -5022, "msg": "x"}')])
    with ScriptedServer(lambda method, path: next(answers)) as server:
        desk = Desk(server)
        desk.perform(an_order())
        desk.core.client._gate._budget = own_budget()
        desk.perform(an_order(order_id=13))
        desk.core.client._gate._budget = own_budget()
        desk.perform(an_order(order_id=14))
        assert desk.state["calls"][0] == desk.place.calls == 3 and desk.state["call_errors"][0] == 2
    desk.core.client._gate._budget = own_budget()
    desk.perform(an_order(order_id=15))  # nobody is there any more
    assert desk.state["calls"][0] == 4 and desk.state["call_errors"][0] == 3
    desk.core.client.close()
