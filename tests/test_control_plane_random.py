"""The control plane under random requests, trips and deaths: whatever their order, what it promises holds."""

from __future__ import annotations

from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.records import Kind
from engine.safety.mode import Mode
from procs.audit import check_chain, read_log
from procs.table import Role
from shm.control import TripSource
from tests.control_desk import SECRET, S, control_desk, latched


class Plane(RuleBasedStateMachine):
    """Random requests, secrets, trips, deaths and times. What must hold is said in a few lines of ghosts."""

    @initialize()
    def begin(self) -> None:
        self.place = control_desk(cooldown_s=300.0)
        self.desk = self.place.__enter__()
        self.desk.keep_secret()
        self.trip_at: int | None = None
        self.acknowledged = self.compared = False
        self.attempts: list[int] = []
        self.locked_until = 0
        self.before = Mode.NORMAL
        self.allowed: set[Mode] = set()
        self.desk.on_reconcile = self._compares

    def _compares(self) -> None:
        self.compared = self.desk.mismatch == 0

    def _secret(self, secret: str) -> bool:
        """Whether a request with this secret is an operator's, by the rules of the three attempts."""
        now = self.desk.now
        if now < self.locked_until:
            return False
        if secret == SECRET:
            self.attempts = []
            return True
        self.attempts = [at for at in self.attempts if now - at < 600 * S] + [now]
        if len(self.attempts) >= 3:
            self.locked_until = now + 600 * S
        return False

    @rule(seconds=st.sampled_from([0, 1, 100, 299, 300, 600]))
    def wait(self, seconds: int) -> None:
        self.desk.now += seconds * S
        self.desk.tick()

    @rule(source=st.sampled_from([TripSource.HARDWARE, TripSource.RISK]))
    def trip(self, source: TripSource) -> None:
        self.desk.control.trip(source)
        self.trip_at, self.acknowledged, self.compared = self.desk.now, False, False

    @rule()
    def sweep(self) -> None:
        self.desk.sweep()

    @rule(leave_out=st.sampled_from(["nothing", "nothing", "sweep", "wait", "acknowledge", "venue"]))
    def nearly_a_reset(self, leave_out: str) -> None:
        """Everything that a reset needs but for one thing, or nothing."""
        self.trip(TripSource.HARDWARE)
        self.desk.tick()
        if leave_out != "sweep":
            self.sweep()
        self.wait(299 if leave_out == "wait" else 600)
        if leave_out != "acknowledge":
            self.acknowledge(SECRET)
        self.desk.mismatch = 2 if leave_out == "venue" else 0
        self.reset(SECRET, False)

    @rule(mode=st.sampled_from(["REDUCE", "PAUSE", "NORMAL"]), secret=st.sampled_from([SECRET, SECRET, "wrong", None]))
    def mode(self, mode: str, secret: str | None) -> None:
        request = {"command": "mode", "mode": mode, "reason": "x"} | ({"secret": secret} if secret else {})
        self.desk.tick()
        towards = Mode[mode] >= self.desk.plane.mode and mode != "NORMAL"
        if not towards and self.desk.plane.mode != Mode[mode] and secret and self._secret(secret):
            self.allowed = {Mode[mode]} if self.trip_at is None else set()
        self.desk.ask(**request)

    @rule(secret=st.sampled_from([SECRET, SECRET, SECRET, "wrong", None]), acknowledge=st.booleans())
    def reset(self, secret: str | None, acknowledge: bool) -> None:
        request = {"command": "reset", "reason": "x", "acknowledge": acknowledge}
        authorised = bool(secret) and self._secret(str(secret))
        self.desk.tick()
        in_time = self.trip_at is not None and self.desk.now - self.trip_at >= 300 * S
        swept = self.desk.control.gate_epoch(Role.KILLSWITCH) == self.desk.control.token
        self.compared = False
        answer = self.desk.ask(**request, **({"secret": secret} if secret else {}))
        if authorised and acknowledge and self.trip_at is not None:
            self.acknowledged = True
        complete = authorised and in_time and self.acknowledged and swept and self.desk.mismatch == 0
        assert answer["ok"] == complete, answer
        if answer["ok"]:
            assert self.compared and self.desk.control.word == 0
            self.trip_at, self.allowed = None, {Mode.PAUSE}
        elif self.trip_at is not None and secret:
            assert answer["missing"]

    @rule(secret=st.sampled_from([SECRET, "wrong"]))
    def acknowledge(self, secret: str) -> None:
        authorised = self._secret(secret)
        answer = self.desk.ask(command="acknowledge", reason="x", secret=secret)
        assert answer["ok"] == (authorised and self.trip_at is not None)
        self.acknowledged = self.acknowledged or answer["ok"]

    @rule(adopted=st.booleans(), orderly=st.booleans())
    def supervisor(self, adopted: bool, orderly: bool) -> None:
        self.desk.tick()
        self.desk.end() if orderly and not adopted else self.desk.die()
        self.desk.start(adopted=adopted)
        if self.trip_at is not None:
            self.trip_at = self.desk.now  # the cooldown begins again
            if adopted:
                self.acknowledged = False

    @invariant()
    def never_less_safe_but_as_allowed(self) -> None:
        if not hasattr(self, "desk"):
            return
        self.desk.tick()
        mode = self.desk.plane.mode
        if mode < self.before:
            assert mode in self.allowed, f"{self.before.name} -> {mode.name}"
        assert (mode == Mode.EMERGENCY) == (self.trip_at is not None)
        assert self.desk.control.mode == mode == latched(self.desk)
        assert self.desk.control.tripped == (mode == Mode.EMERGENCY)
        told = [aux for kind, aux in self.desk.commands if kind == Kind.MODE]
        assert (told[-1] if told else 0) == mode
        self.before, self.allowed = mode, set()

    def teardown(self) -> None:
        if not hasattr(self, "desk"):
            return
        content, head = read_log(self.desk.folder)
        assert check_chain(content, head).torn == b""
        for path in Path(self.desk.settings.engine.data_folder).rglob("*"):
            assert path.is_dir() or SECRET.encode() not in path.read_bytes()
        self.place.__exit__(None, None, None)


TestRandomRequests = Plane.TestCase
TestRandomRequests.settings = settings(max_examples=60, stateful_step_count=30)
