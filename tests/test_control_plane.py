"""The control plane: requests, secrets, conditions, latch and audit log together, and what a death leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from engine.records import Kind
from engine.safety.mode import Mode
from procs import control_plane
from procs.audit import AuditError, check_chain, entries_of, read_log
from procs.control_plane import keep_what_was_tripped
from procs.table import Role
from shm.control import MODE, TripSource, set_asserted
from tests.control_desk import SECRET, Desk, S, control_desk, latched


@pytest.fixture
def desk() -> Iterator[Desk]:
    with control_desk() as made:
        made.keep_secret()
        yield made


def needs(answer: dict[str, Any]) -> list[str]:
    assert answer["ok"] is False
    return [item["need"] for item in answer.get("missing", [])]


def events(desk: Desk) -> list[dict[str, Any]]:
    content, head = read_log(desk.folder)
    check_chain(content, head)
    return entries_of(content)


def trip_and_sweep(desk: Desk) -> None:
    desk.control.trip(TripSource.HARDWARE)
    desk.tick()
    desk.sweep()


def test_towards_safer_needs_nobodys_secret_and_is_everywhere_at_once(desk: Desk) -> None:
    answer = desk.ask(command="mode", mode="pause", reason="looking")
    assert answer == {"ok": True, "mode": "PAUSE"}
    assert desk.control.mode == Mode.PAUSE == latched(desk)
    assert desk.commands[-1] == (Kind.MODE, int(Mode.PAUSE))
    last = events(desk)[-1]
    assert (last["event"], last["source"], last["target"], last["by"]) == ("mode", "NORMAL", "PAUSE", "operator")
    assert (last["reason"], last["uid"], last["pid"]) == ("looking", os.geteuid(), os.getpid())


def test_towards_less_safe_needs_the_secret(desk: Desk) -> None:
    desk.ask(command="mode", mode="pause", reason="looking")
    answer = desk.ask(command="mode", mode="normal", reason="go on")
    assert answer["needs"] == "secret"
    answer = desk.ask(command="mode", mode="normal", reason="go on", secret="wrong")
    assert needs(answer) == ["operator authorised"] and "2 more may be tried" in answer["error"]
    assert desk.plane.mode == Mode.PAUSE
    answer = desk.ask(command="mode", mode="normal", reason="go on", secret=SECRET)
    assert answer == {"ok": True, "mode": "NORMAL"}
    assert desk.control.mode == Mode.NORMAL == latched(desk) and desk.commands[-1] == (Kind.MODE, 0)
    assert [entry["event"] for entry in events(desk)] == ["start", "mode", "wrong secret", "refused", "mode"]


def test_without_a_secret_that_was_set_nobody_is_an_operator() -> None:
    with control_desk() as desk:
        desk.ask(command="mode", mode="pause", reason="looking")
        answer = desk.ask(command="mode", mode="normal", reason="go on", secret="x")
        assert needs(answer) == ["operator authorised"] and "`bot4 secret` sets one" in answer["error"]
    with control_desk(operator_secret="none") as desk:
        desk.ask(command="mode", mode="pause", reason="looking")
        assert desk.ask(command="mode", mode="normal", reason="go on")["ok"]


def test_three_wrong_secrets_lock_it_over_restarts_for_ten_minutes(desk: Desk) -> None:
    desk.ask(command="mode", mode="pause", reason="looking")
    request = {"command": "mode", "mode": "normal", "reason": "go on"}
    assert "1 more" in [desk.ask(**request, secret=word)["error"] for word in ("a", "b")][1]
    desk.die()
    desk.start(adopted=True)
    assert "locked for another 600 s" in desk.ask(**request, secret="c")["error"]
    for adopted in (True, False):
        answer = desk.ask(**request, secret=SECRET)
        assert "operator authorised" in needs(answer) and "locked" in answer["error"]
        assert desk.ask(command="status")["locked"]
        desk.die()
        desk.start(adopted=adopted)
    assert desk.ask(command="mode", mode="pause", reason="safer is free")["ok"]
    desk.now += 601 * S
    assert desk.ask(**request, secret=SECRET)["ok"]
    assert desk.plane.latch.attempts == ()


def test_a_supervisor_that_is_killed_while_it_checks_has_counted_the_attempt(desk: Desk) -> None:
    desk.ask(command="mode", mode="pause", reason="looking")
    for number in (1, 2, 3):
        desk.requests._checker.begin = lambda secret: Future()  # type: ignore[method-assign]
        caller = desk.begin(command="mode", mode="normal", reason="go on", secret="wrong")
        desk.requests.serve()
        assert not caller.answered
        desk.die()
        desk.start(adopted=True)
        assert len(desk.plane.latch.attempts) == number
    assert "locked" in desk.ask(command="mode", mode="normal", reason="go on", secret=SECRET)["error"]


def test_a_reset_names_what_is_missing_and_lands_in_pause(desk: Desk) -> None:
    trip_and_sweep(desk)
    assert latched(desk) == Mode.EMERGENCY == desk.control.mode
    assert desk.commands[-1] == (Kind.MODE, int(Mode.EMERGENCY))
    request = {"command": "reset", "reason": "fixed"}
    assert desk.ask(**request)["needs"] == "secret"
    assert needs(desk.ask(**request, secret="wrong")) == [
        "cause acknowledged", "venue reconciliation clean", "cooldown over", "operator authorised",
    ]
    set_asserted(desk.control.words, 1 << TripSource.HARDWARE)
    desk.mismatch = 3
    answer = desk.ask(**request, secret=SECRET)
    assert needs(answer) == [
        "trigger released", "cause acknowledged", "venue reconciliation clean", "cooldown over",
    ]
    assert "hardware is held" in answer["error"] and "differ in balance, position" in answer["error"]
    set_asserted(desk.control.words, 0)
    desk.mismatch = 0
    assert needs(desk.ask(**request, secret=SECRET)) == ["cause acknowledged", "cooldown over"]
    assert desk.ask(command="acknowledge", reason="the red button", secret=SECRET)["ok"]
    desk.now += 299 * S
    assert needs(desk.ask(**request, secret=SECRET)) == ["cooldown over"]
    desk.now += S
    answer = desk.ask(**request, secret=SECRET)
    assert answer == {"ok": True, "mode": "PAUSE", "after": "ledger and venue agree"}
    assert desk.control.word == 0 and desk.control.mode == Mode.PAUSE == latched(desk)
    assert [item for item in desk.commands if item[0] == Kind.MODE][-1] == (Kind.MODE, int(Mode.PAUSE))
    kinds = [entry["event"] for entry in events(desk)]
    assert kinds[-2:] == ["reset", "mode"] and "acknowledged" in kinds and kinds.count("refused") == 4
    assert desk.ask(command="mode", mode="normal", reason="go on", secret=SECRET)["mode"] == "NORMAL"


def test_a_kill_switch_that_is_not_done_holds_the_reset_back(desk: Desk) -> None:
    desk.control.trip(TripSource.RISK)
    desk.tick()
    desk.now += 600 * S
    answer = desk.ask(command="reset", reason="fixed", secret=SECRET, acknowledge=True)
    assert needs(answer) == ["venue reconciliation clean"] and "kill switch" in answer["error"]
    desk.sweep()
    desk.answers = False
    caller = desk.begin(command="reset", reason="fixed", secret=SECRET)
    for _ in range(2000):
        desk.tick()
        if desk.commands[-1][0] == Kind.RECONCILE:
            break
    assert desk.commands[-1][0] == Kind.RECONCILE and not caller.answered
    desk.execution["reconcile"]["failed"] += 1
    while not caller.answered:
        desk.tick()
    assert b"not whole" in caller.outgoing


def test_a_trip_while_the_conditions_are_checked_makes_the_reset_fail(desk: Desk) -> None:
    trip_and_sweep(desk)
    desk.now += 600 * S
    desk.on_reconcile = lambda: desk.control.trip(TripSource.RISK)
    answer = desk.ask(command="reset", reason="fixed", secret=SECRET, acknowledge=True)
    assert set(needs(answer)) == {"cause acknowledged", "cooldown over", "venue reconciliation clean"}
    assert desk.plane.mode == Mode.EMERGENCY == latched(desk) and desk.control.tripped


def test_a_trip_right_before_the_exchange_makes_it_fail(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    trip_and_sweep(desk)
    desk.now += 600 * S
    clear = control_plane.ControlPlane.clear_word

    def too_late(plane: control_plane.ControlPlane, seen: int) -> bool:
        desk.control.trip(TripSource.PANIC)
        return clear(plane, seen)

    monkeypatch.setattr(control_plane.ControlPlane, "clear_word", too_late)
    answer = desk.ask(command="reset", reason="fixed", secret=SECRET, acknowledge=True)
    assert "somebody tripped" in answer["error"]
    assert desk.control.tripped and desk.plane.mode == Mode.EMERGENCY == latched(desk)


def test_an_emergency_outlives_session_and_supervisor(desk: Desk) -> None:
    trip_and_sweep(desk)
    desk.end()
    desk.start()
    assert desk.control.tripped and desk.control.mode == Mode.EMERGENCY
    assert desk.plane.kept_word == desk.control.word
    assert "EMERGENCY, as it was left (hardware" in desk.said[-1]
    desk.die()
    assert desk.control.reset(desk.control.word)  # as one that died after the exchange and before it wrote that down
    desk.start(adopted=True)
    desk.tick()
    assert desk.control.tripped and desk.plane.mode == Mode.EMERGENCY


def test_a_trip_that_no_supervisor_saw_is_kept_by_whoever_frees_the_memory(desk: Desk) -> None:
    desk.die()
    name = desk.settings.engine.name
    keep_what_was_tripped(desk.folder, name, 0)
    assert latched(desk) == Mode.NORMAL
    keep_what_was_tripped(desk.folder, name, desk.control.trip(TripSource.DEAD_MAN))
    assert latched(desk) == Mode.EMERGENCY
    desk.start()
    assert desk.plane.state.emergency is not None and desk.plane.state.emergency.sources == ("DEAD_MAN",)


@pytest.mark.parametrize(
    ("kept", "word", "expected"),
    [
        (Mode.NORMAL, Mode.PAUSE, Mode.PAUSE), (Mode.PAUSE, Mode.NORMAL, Mode.PAUSE),
        (Mode.REDUCE, Mode.PAUSE, Mode.PAUSE), (Mode.NORMAL, Mode.NORMAL, Mode.NORMAL),
        (Mode.NORMAL, 77, Mode.EMERGENCY), (Mode.PAUSE, Mode.EMERGENCY, Mode.EMERGENCY),
    ],
)
def test_of_latch_and_mode_word_the_safer_one_is_right(desk: Desk, kept: Mode, word: int, expected: Mode) -> None:
    if kept != Mode.NORMAL:
        desk.ask(command="mode", mode=kept.name, reason="before")
    desk.die()
    desk.control.mode = word
    desk.start(adopted=True)
    desk.tick()
    assert desk.plane.mode == desk.control.mode == latched(desk) == expected
    desk.now += 10**6 * S
    desk.tick()
    assert desk.plane.mode == expected, "nothing of that goes back by itself"


def test_words_that_nobody_may_have_written_are_an_emergency(desk: Desk) -> None:
    desk.control.words[MODE] = 12345
    desk.tick()
    assert desk.plane.mode == Mode.EMERGENCY and desk.plane.state.emergency is not None
    assert desk.plane.state.emergency.sources == ("INTEGRITY",)
    assert desk.control.reset(desk.control.word), "a stray reset"
    desk.tick()
    assert desk.control.tripped and "cleared by nobody who may" in desk.plane.state.emergency.reason  # type: ignore[union-attr]


def test_without_an_audit_log_nothing_gets_less_safe(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(event: str, **fields: Any) -> None:
        raise AuditError("audit.jsonl: cannot be written: No space left on device")

    desk.ask(command="mode", mode="pause", reason="looking")
    monkeypatch.setattr(desk.plane.audit, "append", full)
    answer = desk.ask(command="mode", mode="normal", reason="go on", secret=SECRET)
    assert "No space left" in answer["error"] and desk.plane.mode == Mode.PAUSE == desk.control.mode
    trip_and_sweep(desk)
    assert desk.plane.mode == Mode.EMERGENCY == latched(desk), "a trip does not wait for it"
    desk.now += 600 * S
    assert not desk.ask(command="reset", reason="fixed", secret=SECRET, acknowledge=True)["ok"]
    assert desk.control.tripped


def test_a_monitor_is_known_by_its_process_and_its_mode_goes_back_by_itself(desk: Desk) -> None:
    request = {"command": "monitor", "cause": "spread:BTCUSDT", "reason": "4.2x, limit 3x"}
    assert "none of this engine" in desk.ask(**request, mode="reduce")["error"]
    desk.control.set_pid(Role.MONITORING, 4_000_001)
    monitor = {"pid": 4_000_001, **request}
    written = desk.plane.audit.count
    for _ in range(3):
        assert desk.ask(**monitor, mode="reduce") == {"ok": True, "mode": "REDUCE"}
    assert desk.plane.audit.count == written + 1, "once"
    assert desk.ask(**monitor, mode=None)["ok"]
    desk.now += 299 * S
    desk.tick()
    assert desk.plane.mode == Mode.REDUCE
    desk.now += S
    desk.tick()
    assert desk.plane.mode == Mode.NORMAL == desk.control.mode == latched(desk)
    last = events(desk)[-1]
    assert (last["event"], last["by"], last["cause"], last["target"]) == ("mode", "auto", "spread:BTCUSDT", "NORMAL")
    assert desk.ask(**monitor, mode="emergency")["mode"] == "EMERGENCY"
    assert "spread:BTCUSDT: 4.2x" in desk.plane.state.emergency.reason  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "command: one of status, mode"),
        ({"command": ["mode"]}, "command: one of"),
        ({"command": "status", "x": 1}, "'x': status knows no keys"),
        ({"command": "mode", "mode": "normal"}, "reason: a text of 1 to 400"),
        ({"command": "mode", "mode": "faster", "reason": "x"}, "mode: one of NORMAL, REDUCE, PAUSE, EMERGENCY"),
        ({"command": "mode", "mode": 0, "reason": "x"}, "mode: one of"),
        ({"command": "mode", "mode": "pause", "reason": "a\nb"}, "printable"),
        ({"command": "mode", "mode": "pause", "reason": "x" * 401}, "reason: a text"),
        ({"command": "reset", "reason": "x", "secret": 5}, "secret: a text"),
        ({"command": "reset", "reason": "x", "acknowledge": "yes"}, "acknowledge: true or false"),
        ({"command": "reset", "reason": "x", "mode": "normal"}, "'mode': reset knows acknowledge, reason, secret"),
    ],
)
def test_a_request_that_cannot_be_understood_is_told_what_is_wrong(
    desk: Desk, request_: dict[str, Any], words: str
) -> None:
    answer = desk.ask(**request_)
    assert answer["ok"] is False and words in answer["error"]
    assert desk.plane.mode == Mode.NORMAL


def test_status_says_who_why_since_when_and_what_a_reset_needs(desk: Desk) -> None:
    desk.ask(command="mode", mode="reduce", reason="careful")
    status = desk.ask(command="status")
    assert [(item["cause"], item["mode"], item["reason"]) for item in status["holds"]] == [
        ("operator", "REDUCE", "careful")
    ]
    assert status["reset_needs"] == [] and status["last_change"]["target"] == "REDUCE"
    trip_and_sweep(desk)
    status = desk.ask(command="status")
    assert status["emergency"]["sources"] == ["HARDWARE"]
    assert [item["need"] for item in status["reset_needs"]] == [
        "cause acknowledged", "venue reconciliation clean", "cooldown over", "operator authorised",
    ]


def test_a_latch_that_could_not_be_written_is_written_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the trip: without another try the next session would have begun in NORMAL."""
    write = control_plane.write_latch

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(control_plane, "write_latch", full)
    desk.control.trip(TripSource.HARDWARE)
    desk.tick()
    assert desk.plane.mode == Mode.EMERGENCY and latched(desk) == Mode.NORMAL
    monkeypatch.setattr(control_plane, "_SECOND", 0)
    for _ in range(3):
        desk.tick()
    assert sum("latch cannot be written" in words for words in desk.said) == 1
    monkeypatch.setattr(control_plane, "write_latch", write)
    monkeypatch.setattr(desk.plane, "_keep_again_ns", 1)
    desk.tick()
    assert latched(desk) == Mode.EMERGENCY


def test_no_session_begins_whose_latch_cannot_be_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    desk.end()
    monkeypatch.setattr(control_plane, "write_latch", full)
    with pytest.raises(OSError, match="No space left"):
        desk.start()


def test_a_kill_switch_that_was_replaced_during_the_comparison_makes_the_reset_wait(desk: Desk) -> None:
    trip_and_sweep(desk)
    desk.now += 3600 * S
    desk.on_reconcile = lambda: desk.control_words(Role.KILLSWITCH, 0)  # its successor has not swept yet
    answer = desk.ask(command="reset", reason="now", secret=SECRET, acknowledge=True)
    assert needs(answer) == ["venue reconciliation clean"] and desk.control.tripped
    desk.on_reconcile = None
    desk.sweep()
    assert desk.ask(command="reset", reason="now", secret=SECRET, acknowledge=True)["ok"]


def test_a_supervisor_that_takes_over_compares_before_it_goes_back_to_normal(desk: Desk) -> None:
    trip_and_sweep(desk)
    desk.now += 3600 * S
    assert desk.ask(command="reset", reason="now", secret=SECRET, acknowledge=True)["ok"]
    desk.die()
    desk.start(adopted=True)
    desk.mismatch = 2
    answer = desk.ask(command="mode", mode="normal", reason="go on", secret=SECRET)
    assert not answer["ok"] and desk.plane.mode == Mode.PAUSE
    desk.mismatch = 0
    assert desk.ask(command="mode", mode="normal", reason="go on", secret=SECRET)["ok"]


def test_the_cooldown_of_an_adopted_instance_counts_in_its_own_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.plane.want(Mode.PAUSE, "spread X", "wide")
    desk.die()
    monkeypatch.setattr(control_plane, "wall_ns", lambda: desk.now - 86_400 * S)  # somebody has set the clock back
    desk.start(adopted=True)
    assert [item.since_ns for item in desk.plane.state.holds] == [desk.now]
