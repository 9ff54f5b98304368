"""The kill switch at work: a real venue and its own connections, in a thread of the test, also on days of trouble."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from procs.instance import Mapping, ProcessContext
from procs.kill_credentials import KillCredentials
from procs.killswitch import KillSwitch
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints
from procs.venues.binance_usdm.signed import SignedSession
from shm.clock import sleep
from shm.control import Readiness, Stop, TripSource
from tests.embedded_venue import RunningVenue
from tests.gateway_desk import clear, signed
from tests.instance_memory import small_instance
from tests.waiting import until


@pytest.fixture
def resting(venue: RunningVenue) -> Iterator[Callable[[], int]]:
    """A function that counts what rests; three orders do at first."""
    clear(venue)
    place(venue, 3)
    session = signed(venue)

    def count() -> int:
        return len(session.call("GET", "/fapi/v1/openOrders", symbol="BTCUSDT"))

    assert count() == 3
    yield count
    session.close()
    clear(venue)


def place(venue: RunningVenue, count: int) -> None:
    session = signed(venue)
    bid = Decimal(venue.get("/fapi/v1/ticker/bookTicker?symbol=BTCUSDT").json()["bidPrice"])
    for step in range(count):
        price = f"{int(bid * Decimal('0.96')) - step}.00"
        session.call(
            "POST", "/fapi/v1/order", symbol="BTCUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.010",
            price=price,
        )
    session.close()


@contextlib.contextmanager
def kill_switch(venue: RunningVenue, folder: Path) -> Iterator[tuple[KillSwitch, Mapping]]:
    """A kill switch that is made and not yet run."""
    who = Credentials(venue.address.api_key, venue.address.secret)
    with small_instance(folder, Endpoints(venue.address.rest_url, venue.address.ws_url)) as plan:
        mapping = Mapping(plan)
        switch = KillSwitch(ProcessContext(plan, Role.KILLSWITCH), KillCredentials(who, who))
        thread = threading.Thread(target=switch.run, daemon=True)
        thread.start()
        until(lambda: mapping.control.readiness(Role.KILLSWITCH) == Readiness.READY, "armed kill switch")
        try:
            yield switch, mapping
        finally:
            mapping.control.request_stop(Role.KILLSWITCH, Stop.NOW)
            thread.join(10)
            alive = thread.is_alive()
            mapping.close()
        assert not alive


def test_a_kill_switch_that_spins_does_not_keep_its_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("procs.killswitch._LONGEST_SPIN_US", 200_000)
    who = Credentials("k", "s")
    with small_instance(tmp_path) as plan:
        pid = os.fork()
        if not pid:
            signal.alarm(10)
            try:
                KillSwitch(ProcessContext(plan, Role.KILLSWITCH), KillCredentials(who, who)).settle()
                while os.sched_getscheduler(0) == os.SCHED_FIFO:
                    continue
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        pytest.skip("real-time priority is not permitted here")
    assert os.WTERMSIG(status) == signal.SIGKILL


def notes(folder: Path) -> list[dict]:
    """What the kill switch has noted so far; its first note makes the file."""
    if not (folder / "killswitch.jsonl").exists():
        return []
    return [orjson.loads(line) for line in (folder / "killswitch.jsonl").read_bytes().splitlines()]


def test_a_trip_cancels_everything_and_what_comes_late(
    venue: RunningVenue, resting: Callable[[], int], tmp_path: Path
) -> None:
    with kill_switch(venue, tmp_path) as (_, mapping):
        sleep(0.1)
        assert resting() == 3, "armed is not tripped"
        mapping.control.trip(TripSource.OPERATOR)
        until(lambda: resting() == 0, "cancel of everything", 2.0)
        sleep(0.5)
        place(venue, 1)  # a request that was under way, its signature still valid
        until(lambda: resting() == 0, "cancel of the late order", 2.0)
        until(lambda: notes(tmp_path)[-1]["event"] == "stopped", "end of the stop")
        mapping.control.trip(TripSource.RISK)
        until(lambda: [note["event"] for note in notes(tmp_path)].count("tripped") == 2, "second trip")
    events = notes(tmp_path)
    assert events[0]["event"] == "tripped" and events[0]["sources"] == ["OPERATOR"] and events[0]["count"] == 1


def test_after_a_reset_the_same_word_is_a_new_trip(
    venue: RunningVenue, resting: Callable[[], int], tmp_path: Path
) -> None:
    """The count begins again, so a word comes back; a token does not, also when nobody saw the word at 0."""
    with kill_switch(venue, tmp_path) as (_, mapping):
        control = mapping.control

        def dealt_with() -> bool:
            return control.gate_epoch(Role.KILLSWITCH) == control.token

        word = control.trip(TripSource.OPERATOR)
        until(dealt_with, "word of acknowledgement")
        assert resting() == 0
        assert control.reset(word)
        place(venue, 1)
        assert control.trip(TripSource.OPERATOR) == word
        until(lambda: resting() == 0, "cancel of everything", 2.0)
        until(dealt_with, "another acknowledgement")
        assert control.reset(word)
        until(dealt_with, "armed kill switch")
        assert control.gate_epoch(Role.KILLSWITCH) == control.token == 2 << 44


def test_the_kill_switch_tries_until_the_venue_answers(
    venue: RunningVenue, resting: Callable[[], int], tmp_path: Path
) -> None:
    venue.fault(fault="http", action="error_before", path="/fapi/v1/allOpenOrders", method="DELETE", count=3)
    with kill_switch(venue, tmp_path) as (_, mapping):
        mapping.control.trip(TripSource.DEAD_MAN)
        until(lambda: resting() == 0, "cancel of everything", 5.0)
    failed = [note for note in notes(tmp_path) if note["event"] == "cancel failed"]
    assert failed and failed[0]["error"] == "DELETE /fapi/v1/allOpenOrders: HTTP 503, not JSON"


def test_a_full_disk_does_not_stop_the_cancels(
    venue: RunningVenue, resting: Callable[[], int], tmp_path: Path
) -> None:
    class FullDisk(io.RawIOBase):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    with kill_switch(venue, tmp_path) as (switch, mapping):
        switch.notes._file = FullDisk()  # type: ignore[assignment]
        mapping.control.trip(TripSource.STORAGE)
        until(lambda: resting() == 0, "cancel of everything", 2.0)
        place(venue, 1)
        until(lambda: resting() == 0, "cancel after the note that could not be written", 2.0)


def test_an_answer_that_is_no_list_of_orders_is_not_taken_for_an_empty_one(
    venue: RunningVenue, resting: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies = 4
    receive_all = SignedSession.receive_all

    def lying(self: SignedSession, sent: Sequence[Any], urgent: bool = True) -> list[Any]:
        nonlocal lies
        answers = receive_all(self, sent, urgent)
        if sent[0].call.path.endswith("openOrders") and lies:
            lies -= 2
            return [{} for _ in answers]
        return answers

    with kill_switch(venue, tmp_path) as (_, mapping):
        monkeypatch.setattr(SignedSession, "receive_all", lying)
        mapping.control.trip(TripSource.OPERATOR)
        until(lambda: notes(tmp_path)[-1:] and notes(tmp_path)[-1]["event"] == "stopped", "end of the stop")
        monkeypatch.undo()
    assert [note["error"] for note in notes(tmp_path) if note["event"] == "cancel failed"] == [
        "GET /fapi/v1/openOrders: the answer is no list"
    ] * 2
