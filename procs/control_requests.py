"""What operators and monitors ask the control plane for, over the control socket, and the answers.

  {"command": "status"}
  {"command": "mode", "mode": NAME, "reason": TEXT, "secret": TEXT}          secret: towards less safe alone
  {"command": "acknowledge", "reason": TEXT, "secret": TEXT}
  {"command": "reset", "reason": TEXT, "secret": TEXT, "acknowledge": BOOL}  acknowledge: in the same breath
  {"command": "set", "strategy": NAME, "parameter": NAME, "value": TEXT, "reason": TEXT}     procs/parameters.py
  {"command": "monitor", "cause": TEXT, "mode": NAME or null, "reason": TEXT}  null: the cause is gone
Answers: {"ok": true, ...}, or {"ok": false, "error": TEXT} with "missing": [{need, why}] where conditions are not met
and "needs": "secret" where one was not given.

Requests that wait for something (a secret's check, an answer of the venue) are generators, advanced one step a tick and
one at a time. A monitor is believed by its pid: it must be a process of this instance.
"""

from __future__ import annotations

import pwd
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from engine.execution.reconcile import Mismatch
from engine.records import Kind
from engine.safety import modes
from engine.safety.mode import Mode
from engine.safety.modes import By, Facts, Missing, Refused, Step
from engine.settings import SettingsError
from procs.audit import AuditError
from procs.control_plane import ControlPlane
from procs.control_socket import Caller, ControlServer, refusal
from procs.operator_secret import (
    ATTEMPTS,
    LOCKED_NS,
    SecretChecker,
    attempts_within,
    locked_words,
    secret_is_set,
)
from procs.parameters import Parameters
from procs.table import PROCESSES, Role
from procs.trusted import NotOurs
from shm.clock import python_monotonic_ns
from shm.control import Readiness, TripSource

_LONGEST_TEXT = 400
_VENUE_ANSWER_NS = 20 * 1_000_000_000
_ARMED_NS = 10 * 1_000_000_000
_MOST_WAITING = 16
_NO_SECRET_GIVEN = "the operator's secret was not given"

Answer = dict[str, Any]
Waiting = Generator[None, None, Answer]


class BadRequest(ValueError):
    """A request that cannot be understood; the message says what is allowed."""


def _text(request: dict[str, Any], key: str, needed: bool = True) -> str | None:
    value = request.get(key)
    if value is None and not needed:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise BadRequest(f"{key}: a text of 1 to {_LONGEST_TEXT} printable characters is needed")
    return value


def _mode(request: dict[str, Any]) -> Mode:
    name = request.get("mode")
    if not isinstance(name, str) or name.upper() not in Mode.__members__:
        raise BadRequest(f"mode: one of {', '.join(mode.name for mode in Mode)} is needed")
    return Mode[name.upper()]


_KEYS = {
    "status": set[str](),
    "mode": {"mode", "reason", "secret"},
    "acknowledge": {"reason", "secret"},
    "reset": {"reason", "secret", "acknowledge"},
    "set": {"strategy", "parameter", "value", "reason"},
    "monitor": {"cause", "mode", "reason"},
}


class ControlRequests:
    """Serves the control socket of one instance. Call `serve` in every tick."""

    def __init__(self, plane: ControlPlane, adopted: bool = False, parameters: Parameters | None = None) -> None:
        """adopted: of a supervisor that died; parameters: of the strategies. Raises NotOurs when there can be no
        socket."""
        self._plane = plane
        self._parameters = parameters
        self._server = ControlServer(plane.settings.engine.name)
        self._checker = SecretChecker(plane.folder)
        self._waiting: deque[tuple[Caller, Waiting]] = deque()
        # What the comparison after the last reset found. A supervisor that takes over does not know.
        self._unreconciled = "not compared yet" if adopted else ""

    def serve(self) -> None:
        """Take what has come and do a step of what is under way."""
        for caller, request in self._server.poll():
            try:
                self._take(caller, request)
            except BadRequest as error:
                caller.answer(refusal(str(error)))
            except Exception as error:  # whoever asks must not be able to end the supervisor
                caller.answer(self._failed(error))
        if self._waiting:
            caller, work = self._waiting[0]
            try:
                next(work)
            except StopIteration as end:
                self._waiting.popleft()
                caller.answer(end.value)
            except Exception as error:
                self._waiting.popleft()
                caller.answer(self._failed(error))

    def _failed(self, error: Exception) -> Answer:
        words = f"a request failed: {type(error).__name__}: {error}"
        self._plane.say(words)
        return refusal(words)

    def close(self) -> None:
        """Hang up. What is under way goes no further; what it has done is in latch and audit log."""
        for _, work in self._waiting:
            work.close()
        self._waiting.clear()
        self._server.close()
        self._checker.close()

    # --- understanding --------------------------------------------------------------------------------------------

    def _take(self, caller: Caller, request: dict[str, Any]) -> None:
        command = request.get("command")
        if not isinstance(command, str) or command not in _KEYS:
            raise BadRequest(f"command: one of {', '.join(_KEYS)} is needed")
        unknown = set(request) - _KEYS[command] - {"command"}
        if unknown:
            known = ", ".join(sorted(_KEYS[command])) or "no keys"
            raise BadRequest(f"{min(unknown)!r}: {command} knows {known}")
        if command == "status":
            caller.answer({"ok": True, **self.status()})
            return
        if command == "monitor":
            caller.answer(self._monitor(caller, request))
            return
        reason = _text(request, "reason")
        assert reason is not None
        secret = _text(request, "secret", needed=False)
        who = _who(caller)
        if command == "set":
            caller.answer(self._set(request, reason, who))
            return
        if command == "mode":
            mode = _mode(request)
            if mode >= self._plane.mode and mode != Mode.NORMAL:
                caller.answer(self._safer(mode, reason, who))
                return
            work = self._less_safe(mode, reason, secret, who)
        elif command == "acknowledge":
            work = self._acknowledge(reason, secret, who)
        else:
            acknowledge = request.get("acknowledge", False)
            if not isinstance(acknowledge, bool):
                raise BadRequest("acknowledge: true or false is needed")
            work = self._reset(reason, secret, acknowledge, who)
        if len(self._waiting) >= _MOST_WAITING:
            raise BadRequest("too many requests are waiting; try again")
        self._waiting.append((caller, work))

    # --- status -----------------------------------------------------------------------------------------------------

    def status(self) -> Answer:
        """Mode, who holds it, since when, and what a reset would still need."""
        plane, now = self._plane, self._plane.now_ns()
        state, change = plane.state, plane.last_change
        facts = Facts(
            authorised="" if not self._secret_needed() else "the operator's secret is asked for",
            released=self._not_released(), reconciled="the venue is asked at the reset", armed=plane.not_armed(),
        )
        emergency = state.emergency
        return {
            "mode": state.mode.name,
            "holds": [
                {
                    "cause": item.cause, "mode": item.mode.name, "by": item.by.value, "reason": item.reason,
                    "since_ns": item.since_ns, "clear_since_ns": item.clear_since_ns or None, "stale": item.stale,
                }
                for item in state.holds
            ],
            "emergency": None if emergency is None else {
                "sources": list(emergency.sources), "reason": emergency.reason, "since_ns": emergency.since_ns,
                "acknowledged_by": emergency.acknowledged_by,
            },
            "reset_needs": _plain(modes.missing_for_reset(state, plane.rules, facts, now)),
            "not_armed": facts.armed,
            "last_change": None if change is None else {
                "source": change.source.name, "target": change.target.name, "by": change.by.value,
                "cause": change.cause, "reason": change.reason, "at_ns": change.at_ns,
            },
            "locked": locked_words(plane.latch.locked_until_ns, now),
            "now_ns": now,
        }

    def _secret_needed(self) -> bool:
        return self._plane.settings.safety.operator_secret == "required"

    def _not_released(self) -> str:
        """Why a trigger is not released; empty when all are."""
        control = self._plane.mapping.control
        held = control.asserted
        if held:
            return f"{', '.join(source.name.lower() for source in held)} is held"
        if control.readiness(Role.KILLSWITCH) != Readiness.READY:
            return "there is no kill switch"
        return ""

    # --- parameters -------------------------------------------------------------------------------------------------

    def _set(self, request: dict[str, Any], reason: str, who: Answer) -> Answer:
        """Change a parameter of a strategy: written first, then journaled and obeyed by execution."""
        plane, parameters = self._plane, self._parameters
        if parameters is None:
            return refusal("this engine's strategies are not known here")
        name, parameter, text = (_text(request, key) for key in ("strategy", "parameter", "value"))
        assert name is not None and parameter is not None and text is not None
        try:
            change = parameters.check(name, parameter, text)
            plane.audit.append(
                "parameter", strategy=name, parameter=parameter, before=change.before, after=change.after,
                reason=reason, **who,
            )
            plane.change_parameter(change.strategy, change.number, change.word)
        except (SettingsError, AuditError, RuntimeError) as error:
            plane.note("refused", asked=f"{name}.{parameter} = {text}", why=str(error), **who)
            return refusal(str(error))
        parameters.sent(change, parameter)
        plane.say(f"{name}.{parameter}: {change.before} -> {change.after} ({who['who']}: {reason})")
        return {"ok": True, "before": change.before, "after": change.after}

    # --- towards safer ----------------------------------------------------------------------------------------------

    def _safer(self, mode: Mode, reason: str, who: Answer) -> Answer:
        plane = self._plane
        if mode == Mode.EMERGENCY:
            plane.trip(TripSource.OPERATOR, f"{reason} ({who['who']})")
            plane.look()
        else:
            step = modes.hold(plane.state, mode, By.OPERATOR, modes.OPERATOR_CAUSE, reason, plane.now_ns())
            plane.tighten(step, **who)
            if step.change is None:
                plane.note("held", mode=mode.name, reason=reason, **who)
        return {"ok": True, "mode": plane.mode.name}

    def _monitor(self, caller: Caller, request: dict[str, Any]) -> Answer:
        plane = self._plane
        control = plane.mapping.control
        role = next((item.role for item in PROCESSES if control.pid(item.role) == caller.pid > 0), None)
        if role is None:
            raise BadRequest(f"process {caller.pid} is none of this engine: only they may ask as monitors")
        cause = _text(request, "cause")
        assert cause is not None
        if cause == modes.OPERATOR_CAUSE:
            raise BadRequest(f"cause: {cause!r} is the operator's own")
        if request.get("mode") is None:
            plane.clear(cause)
            return {"ok": True, "mode": plane.mode.name}
        mode, reason = _mode(request), _text(request, "reason")
        assert reason is not None
        if mode == Mode.EMERGENCY:
            plane.trip(TripSource.PANIC, f"{cause}: {reason}")
            plane.look()
        elif mode == Mode.NORMAL:
            raise BadRequest("mode: null says that the cause is gone")
        else:
            plane.want(mode, cause, reason, monitor=role.label)
        return {"ok": True, "mode": plane.mode.name}

    # --- towards less safe ------------------------------------------------------------------------------------------

    def _authorise(self, secret: str | None, who: Answer, what: str) -> Generator[None, None, str]:
        """Why the operator is not authorised, empty when he is. A wrong secret is counted before it is checked."""
        plane = self._plane
        if not self._secret_needed():
            return ""
        now = plane.now_ns()
        locked = locked_words(plane.latch.locked_until_ns, now)
        if locked:
            plane.note("refused", asked=what, why=locked, **who)
            return locked
        try:
            if not secret_is_set(plane.folder):
                return "no operator secret is set: `bot4 secret` sets one"
            if secret is None:
                return _NO_SECRET_GIVEN
            attempts = (*attempts_within(plane.latch.attempts, now), now)
            plane.remember_attempts(attempts, now + LOCKED_NS if len(attempts) >= ATTEMPTS else 0)
        except (OSError, NotOurs) as error:
            return f"the attempt cannot be counted: {error}"
        check = self._checker.begin(secret)
        while not check.done():
            yield
        if not check.result():
            left = max(ATTEMPTS - len(attempts), 0)
            locked = locked_words(plane.latch.locked_until_ns, now)
            words = f"wrong secret ({locked or f'{left} more may be tried'})"
            plane.note("wrong secret", asked=what, attempt=len(attempts), locked=not left, **who)
            return words
        try:
            plane.remember_attempts((), 0)
        except (OSError, NotOurs) as error:
            return f"the latch cannot be written: {error}"
        return ""

    def _refuse(self, words: str, lacking: tuple[Missing, ...], asked: str, who: Answer) -> Answer:
        self._plane.note("refused", asked=asked, why=words, **who)
        return refusal(words, missing=_plain(lacking), mode=self._plane.mode.name)

    def _less_safe(self, mode: Mode, reason: str, secret: str | None, who: Answer) -> Waiting:
        plane = self._plane
        if mode == plane.mode:
            return {"ok": True, "mode": mode.name}
        asked = f"mode {mode.name}"
        why = yield from self._authorise(secret, who, asked)
        if why == _NO_SECRET_GIVEN:
            return refusal(why, needs="secret")
        if not why and self._unreconciled:
            self._unreconciled = yield from self._compare()
        armed = plane.not_armed() or self._unreconciled
        facts = Facts(authorised=why, released=self._not_released(), armed=armed)
        outcome = modes.lift(plane.state, mode, plane.rules, facts, reason, plane.now_ns())
        if isinstance(outcome, Refused):
            return self._refuse(outcome.words, outcome.missing, asked, who)
        failed = plane.loosen(outcome, **who)
        return refusal(failed) if failed else {"ok": True, "mode": plane.mode.name}

    def _acknowledge(self, reason: str, secret: str | None, who: Answer) -> Waiting:
        why = yield from self._authorise(secret, who, "acknowledge")
        if why == _NO_SECRET_GIVEN:
            return refusal(why, needs="secret")
        return self._note_acknowledgement(reason, why, who)

    def _note_acknowledgement(self, reason: str, why: str, who: Answer) -> Answer:
        plane = self._plane
        plane.look()  # a trip that has come meanwhile is not acknowledged with those before it
        outcome = modes.acknowledge(plane.state, Facts(authorised=why), str(who["who"]))
        if isinstance(outcome, Refused):
            return self._refuse(outcome.words, outcome.missing, "acknowledge", who)
        try:
            plane.audit.append("acknowledged", reason=reason, **who)
        except AuditError as error:
            return refusal(str(error))
        failed = plane.loosen(outcome)
        return refusal(failed) if failed else {"ok": True, "mode": plane.mode.name}

    def _reset(self, reason: str, secret: str | None, acknowledge: bool, who: Answer) -> Waiting:
        plane = self._plane
        control = plane.mapping.control
        why = yield from self._authorise(secret, who, "reset")
        if why == _NO_SECRET_GIVEN:
            return refusal(why, needs="secret")
        # Before anything is checked: a trip after this makes the exchange fail.
        plane.look()
        seen = control.word
        if acknowledge and not why and plane.state.emergency is not None:
            answer = self._note_acknowledgement(reason, why, who)
            if not answer["ok"]:
                return answer
        reconciled = "not asked: the operator is not authorised"
        if not why and plane.state.emergency is not None:
            reconciled = self._not_swept(seen) or (yield from self._compare())
        plane.look()
        # Asked once more: whoever swept may have been replaced while ledger and venue were compared.
        facts = Facts(
            authorised=why, released=self._not_released(), reconciled=reconciled or self._not_swept(seen), armed=""
        )
        outcome = modes.reset(plane.state, plane.rules, facts, reason, plane.now_ns())
        if isinstance(outcome, Refused):
            return self._refuse(outcome.words, outcome.missing, "reset", who)
        return (yield from self._exchange(seen, outcome, reason, who))

    def _exchange(self, seen: int, outcome: Step, reason: str, who: Answer) -> Waiting:
        plane = self._plane
        try:
            plane.audit.append("reset", word=seen, reason=reason, **who)
        except AuditError as error:
            return refusal(str(error))
        if not plane.clear_word(seen):
            plane.look()
            return self._refuse("somebody tripped while the conditions were checked", (), "reset", who)
        failed = plane.loosen(outcome, **who)
        if failed:
            plane.trip(TripSource.SUPERVISOR, f"a reset could not be written down: {failed}")
            plane.look()
            return refusal(failed)
        yield from self._until(lambda: not plane.not_armed(), _ARMED_NS)
        self._unreconciled = plane.not_armed() or (yield from self._compare())
        return {"ok": True, "mode": plane.mode.name, "after": self._unreconciled or "ledger and venue agree"}

    # --- the venue --------------------------------------------------------------------------------------------------

    def _until(self, condition: Callable[[], bool], limit_ns: int) -> Generator[None, None, bool]:
        deadline = python_monotonic_ns() + limit_ns
        while not condition():
            if python_monotonic_ns() > deadline:
                return False
            yield
        return True

    def _not_swept(self, word: int) -> str:
        control = self._plane.mapping.control
        if control.gate_epoch(Role.KILLSWITCH) != control.token:
            return "the kill switch has not found yet that nothing rests at the venue"
        if control.gate_epoch(Role.GATEWAY) != word:
            return "the gateway has not said yet that its gate is shut"
        return ""

    def _compare(self) -> Generator[None, None, str]:
        """Have execution compare its ledger with the venue; in words what differs, empty when they agree.

        Twice: the first answer may be to a question that was asked before this.
        """
        row = self._plane.mapping.state(Role.EXECUTION)
        reconcile = row["reconcile"]

        before = 0

        def answers() -> int:
            return int(reconcile["done"][0]) + int(reconcile["failed"][0])

        def answered() -> bool:
            return answers() > before

        if not row["opened"][0]:
            return "the opening balance is not known: start the engine again"
        for _ in range(2):
            before, whole = answers(), int(reconcile["done"][0])
            try:
                self._plane.ask_execution(Kind.RECONCILE)
            except RuntimeError as error:
                return str(error)
            if not (yield from self._until(answered, _VENUE_ANSWER_NS)):
                return f"the venue gave no answer within {_VENUE_ANSWER_NS // 10**9} s"
            if int(reconcile["done"][0]) == whole:
                return "the venue's answer was not whole"
        mismatch = int(reconcile["mismatch"][0])
        if mismatch:
            names = [item.name.lower().replace("_", " ") for item in Mismatch if item.name and mismatch & item.value]
            return f"ledger and venue differ in {', '.join(names)}"
        resting = int(reconcile["open_orders"][0])
        return f"{resting} orders rest at the venue" if resting and self._plane.state.emergency is not None else ""


def _plain(lacking: tuple[Missing, ...]) -> list[dict[str, str]]:
    return [{"need": item.need.value, "why": item.why} for item in lacking]


def _who(caller: Caller) -> Answer:
    """Who asks, as the kernel knows him."""
    try:
        name = pwd.getpwuid(caller.uid).pw_name
    except KeyError:
        name = str(caller.uid)
    return {"who": name, "uid": caller.uid, "pid": caller.pid}
