"""Observers at work on an instance's memory, killed and stopped as they come; monitoring and its metrics.

What they count and write is compared with what the test itself put into rings and states.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from engine.reasons import Reason
from engine.records import Kind, OrderAction, ReportKind
from engine.stage import as_bytes
from procs.children import Child, fork_child, kill
from procs.deaths import Deaths
from procs.instance import Mapping, Plan, ProcessContext
from procs.metrics import SEEN, as_plain
from procs.monitoring import Monitoring
from procs.ports import Inlet, Outlet, record_latency
from procs.recorder import Recorder
from procs.summary import follower_counts
from procs.table import HOPS, PROCESS_BY_ROLE, RING_BY_NAME, STRATEGIES, VITAL, Role
from shm.control import Readiness, Stop, TripSource
from shm.seqlock import SEQUENCE
from tests.instance_memory import small_instance
from tests.session_records import json_lines
from tests.waiting import until

CAPACITY = 64


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with small_instance(tmp_path, capacity=CAPACITY) as made:
        yield made


class Traffic:
    """Both ends of a ring, in the hands of a test: what is given is consumed at once, so that it never fills up."""

    def __init__(self, mapping: Mapping, ring: str) -> None:
        self._outlet = Outlet(mapping, ring)
        consumer = ProcessContext(mapping.plan, RING_BY_NAME[ring].consumer)
        self._inlet = Inlet(consumer, ring, CAPACITY)
        self._dtype = RING_BY_NAME[ring].dtype
        self.count = 0

    def pass_by(self, count: int, **fields: int) -> None:
        while count:
            records = np.zeros(min(count, CAPACITY), self._dtype)
            records["ingest_id"] = np.arange(self.count, self.count + len(records))
            for name, value in fields.items():
                records[name] = value
            assert self._outlet.give(as_bytes(records), len(records)) == len(records)
            while self._inlet.take():
                self._inlet.release()
            self.count += len(records)
            count -= len(records)


def counts(mapping: Mapping, role: Role, ring: str) -> tuple[int, int]:
    row = follower_counts(mapping)[role.label][ring]
    return row["read"], row["lapped"]


# --- followers ------------------------------------------------------------------------------------------------------


def test_observers_are_those_that_nobody_needs_and_they_consume_nothing() -> None:
    for role, process in PROCESS_BY_ROLE.items():
        assert bool(process.follows) == (role not in VITAL)
        assert not (process.follows and (process.inputs or process.hot))
        assert not (process.follows and process.outputs) or role in STRATEGIES, "they alone say something"
        assert set(process.follows) <= set(RING_BY_NAME)


def test_every_record_is_read_or_counted_as_lapped_over_any_number_of_lives(plan: Plan) -> None:
    dice = random.Random(1)
    mapping = Mapping(plan)
    traffic = {name: Traffic(mapping, name) for name in PROCESS_BY_ROLE[Role.MONITORING].follows}
    expected = {name: [0, 0] for name in traffic}
    for _ in range(8):
        monitoring = Monitoring(ProcessContext(plan, Role.MONITORING))  # the one before it just vanished
        for _ in range(dice.randint(1, 6)):
            for name, ring in traffic.items():
                count = dice.choice([0, 3, 40, 64, 65, 500])
                ring.pass_by(count)
                expected[name][0] += min(count, CAPACITY)
                expected[name][1] += max(0, count - CAPACITY)
            while monitoring.follow():
                pass
            for name in traffic:
                assert counts(mapping, Role.MONITORING, name) == tuple(expected[name])
    assert min(lapped for _, lapped in expected.values()) > 0
    mapping.close()


def start(plan: Plan, role: Role, successor: bool = False) -> Child:
    body = {Role.MONITORING: Monitoring, Role.RECORDER: Recorder}[role]
    return fork_child(plan, role, lambda context: body(context).run(), successor)


@pytest.mark.parametrize("role", [Role.MONITORING, Role.RECORDER])
def test_a_stopped_process_counts_exactly_what_passed_meanwhile(plan: Plan, role: Role) -> None:
    mapping = Mapping(plan)
    traffic = Traffic(mapping, "predictions")
    child = start(plan, role)
    try:
        for number in range(1, 6):
            before = traffic.count
            traffic.pass_by(CAPACITY)
            until(lambda: sum(counts(mapping, role, "predictions")) == traffic.count)
            read, lapped = counts(mapping, role, "predictions")
            os.kill(child.pid, signal.SIGSTOP)
            until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            traffic.pass_by(1000 + number)
            assert counts(mapping, role, "predictions") == (read, lapped)
            os.kill(child.pid, signal.SIGCONT)
            until(lambda: sum(counts(mapping, role, "predictions")) == traffic.count)
            assert counts(mapping, role, "predictions") == (read + CAPACITY, lapped + 1000 + number - CAPACITY)
            assert traffic.count == before + CAPACITY + 1000 + number
        mapping.control.request_stop(role, Stop.DRAIN)
        until(lambda: not Path(f"/proc/{child.pid}/fd").exists() or has_ended(child))
    finally:
        kill(child)
    assert child.status == 0
    mapping.close()


def has_ended(child: Child) -> bool:
    """Whether a child has ended and nobody has reaped it yet."""
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


# --- monitoring -----------------------------------------------------------------------------------------------------


def test_the_metrics_are_what_lies_in_memory(plan: Plan) -> None:
    mapping = Mapping(plan)
    monitoring = Monitoring(ProcessContext(plan, Role.MONITORING))
    control = mapping.control
    Deaths(mapping.deaths()).add(Role.ML, 5)
    control.set_pid(Role.ML, os.getpid())
    control.set_readiness(Role.ML, Readiness.READY)
    control.add_progress(Role.ML, 77)
    mapping.state(Role.INGESTION)["frames"] = 12
    validation = mapping.state(Role.VALIDATION)
    validation["records_in"], validation["processed"] = 1000, 998
    validation["quarantined"][0, Reason.PRICE_RANGE], validation["dropped"][0, Reason.NO_SNAPSHOT] = 1, 1
    validation["checks"]["verified"][0, 1] = 5
    execution = mapping.state(Role.EXECUTION)
    execution["sent"], execution["intents"] = 3, 4
    execution["ledger"]["realised"] = -150_000_000
    execution["ledger"]["positions"][0, 1]["size"] = -2500
    record_latency(mapping.histogram(*HOPS["wire"]), 40)
    Traffic(mapping, "valid").pass_by(5, kind=Kind.TRADE, instrument=1, price=123456)
    Traffic(mapping, "predictions").pass_by(3, kind=Kind.PREDICTION, bid_price=99, ask_price=101)
    Traffic(mapping, "orders").pass_by(2, kind=OrderAction.NEW)
    fills = Traffic(mapping, "fills")
    fills.pass_by(4, kind=ReportKind.FILL)
    fills.pass_by(1, kind=ReportKind.CANCELLED)
    monitoring.follow()
    monitoring.measure()
    block = Mapping(plan, read_only=True).metrics().read()
    assert block is not None
    plain = as_plain(block[0], plan.instruments)
    assert plain["interval_ms"] == 0 and plain["mode"] == "NORMAL"
    assert (plain["frames"], plain["sent"], plain["intents"]) == (12, 3, 4)
    assert plain["validation"] == {
        "in": 1000, "accepted": 998, "quarantined": 1, "dropped": 1, "checksums_verified": 5, "checksums_failed": 0,
        "rate": 0.998,
    }
    assert plain["pnl"]["realised"] == "-1.50000000"
    assert plain["latency_us"] == {"wire": {"count": 1, "p50": 0.04, "p99": 0.04, "p99_9": 0.04, "max": 0.04}}
    assert plain["seen"] == {"trades": 5, "predictions": 3, "orders": 2, "fills": 4}
    assert plain["rings"]["fills"] == {
        "produced": 5, "consumed": 5, "dropped": 0, "in_flight": 0, "fill": 0.0, "per_second": 0.0,
    }
    ml = plain["processes"]["ml"]
    assert (ml["pid"], ml["readiness"], ml["progress"], ml["restarts"]) == (os.getpid(), "ready", 77, 1)
    assert ml["pss_mb"] > 1 and ml["descriptors"] >= 3 and ml["heartbeat_age_ms"] is None
    bitcoin, ether = (plain["instruments"][item.symbol] for item in plan.instruments)
    assert (bitcoin["bid_price"], bitcoin["ask_price"]) == ("0.99", "1.01")
    assert (ether["trade_price"], ether["position"]) == ("1234.56", "-2.500")
    # The second time: rates, and latencies of the interval alone.
    Traffic(mapping, "orders").pass_by(10)
    mapping.state(Role.INGESTION)["frames"] = 20
    control.trip(TripSource.OPERATOR)
    monitoring.follow()
    monitoring.measure()
    again = Mapping(plan, read_only=True).metrics().read()
    assert again is not None
    plain = as_plain(again[0], plan.instruments)
    seconds = int(again[0]["interval_ns"]) / 1e9
    assert seconds > 0 and plain["latency_us"] == {}
    assert plain["frames_per_second"] == round(8 / seconds, 1)
    assert plain["rings"]["orders"]["per_second"] == round(10 / seconds, 1)
    assert plain["mode"] == "EMERGENCY" and plain["emergency_word"] == control.word
    written = json_lines(plan.path / "metrics.jsonl")
    assert len(written) == 2 and written[1] == orjson.loads(orjson.dumps(plain))
    mapping.close()


def test_a_successor_keeps_counting_and_makes_a_torn_block_whole(plan: Plan) -> None:
    mapping = Mapping(plan)
    orders = Traffic(mapping, "orders")
    orders.pass_by(7)
    first = Monitoring(ProcessContext(plan, Role.MONITORING))
    first.follow()
    first.measure()
    orders.pass_by(3)
    second = Monitoring(ProcessContext(plan, Role.MONITORING, successor=True))
    second.follow()
    second.measure()
    assert second.metrics[0]["seen"][SEEN.index("orders")] == 10
    block = mapping.metrics()
    block.words[SEQUENCE] |= 1  # it died in the middle of a write
    assert block.read() is None
    third = Monitoring(ProcessContext(plan, Role.MONITORING, successor=True))
    orders.pass_by(1)
    third.follow()
    third.measure()
    found = block.read()
    assert found is not None and found[0]["rings"]["produced"].sum() == 11
    assert len(json_lines(plan.path / "metrics.jsonl")) == 3
    mapping.close()


def test_a_process_writes_metrics_about_once_a_second(plan: Plan) -> None:
    mapping = Mapping(plan)
    child = start(plan, Role.MONITORING)
    try:
        until(lambda: mapping.metrics().version >= 3)
        mapping.control.request_stop(Role.MONITORING, Stop.DRAIN)
        until(lambda: has_ended(child))
    finally:
        kill(child)
    assert child.status == 0
    times = [line["at_ns"] for line in json_lines(plan.path / "metrics.jsonl")]
    assert len(times) == mapping.metrics().version and times == sorted(times)
    mapping.close()
