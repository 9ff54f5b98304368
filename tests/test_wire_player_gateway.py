"""The engine's gateway against a played recording: real rings, the real gateway in a thread, no other process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.matching.settings import VenueSettings
from engine.records import OrderAction, ReportKind, TimeInForce
from procs.embedded.server import VenueAddress
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.wire_player.recording import Recording
from procs.wire_player.server import PlaySettings, WirePlayer
from procs.wire_player.trading import Trading
from tests.gateway_desk import Desk
from tests.instance_memory import small_instance
from tests.recordings import USDM_CAPTURES, require_capture
from tests.waiting import until


@contextmanager
def playing(recording: Recording) -> Iterator[tuple[VenueAddress, Trading]]:
    """A player with an account in a thread of its own, at the recorded speed; it plays though nobody listens."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    player = WirePlayer(recording, PlaySettings(speed=1.0, account=VenueSettings(weight_limit_1m=1_000_000)))
    try:
        asyncio.run_coroutine_threadsafe(player.start(), loop).result(60)
        loop.call_soon_threadsafe(player.begin)
        trading = player.trading
        assert trading is not None
        place = f"127.0.0.1:{player.port}"
        yield VenueAddress(f"http://{place}", f"ws://{place}", trading.key, trading.secret), trading
    finally:
        asyncio.run_coroutine_threadsafe(player.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.mark.recordings
def test_the_gateway_trades_beside_a_recording(tmp_path: Path) -> None:
    recording = Recording([require_capture(USDM_CAPTURES[0])])
    with playing(recording) as (address, trading):
        until(lambda: trading.market.queues[0]["in_sequence"][0], "book", 30.0)
        endpoints = Endpoints(address.rest_url, address.ws_url)
        with small_instance(tmp_path, endpoints, instruments=recording.venue.instruments) as plan:
            desk = Desk(SimpleNamespace(address=address), plan)  # type: ignore[arg-type]
            try:
                desk.start()
                _, _, ask, _ = trading.market.touch(0)
                limit = {"side": 1, "size": 30}
                taking = desk.send(
                    OrderAction.NEW, 1, price=ask * 1003 // 10_000 * 10, time_in_force=TimeInForce.IOC, **limit
                )
                desk.wait(taking, ReportKind.FILL, 30.0)
                resting = desk.send(
                    OrderAction.NEW, 2, price=ask * 97 // 1_000 * 10, time_in_force=TimeInForce.GTX, **limit
                )
                desk.wait(resting, ReportKind.ACCEPTED, 30.0)
                assert [order.client_id for order in trading.exchange.open.values()] == [desk.client_id(resting)]
                desk.send(OrderAction.CANCEL, resting)
                desk.wait(resting, ReportKind.CANCELLED, 30.0)
                sizes = [int(one["size"][0]) for one in desk.reports if one["kind"][0] == ReportKind.FILL]
                assert sum(sizes) == 30 == trading.exchange.position(0)
                assert len(desk.fills(taking)) == len(trading.exchange.fills) and desk.failure is None
            finally:
                desk.stop()
