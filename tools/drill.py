"""`bot4 drill`: the whole kill drill on paper, with an engine of its own, and a dated report of it.

Every trigger that a host can pull by itself, each from NORMAL with orders flowing, judged from the venue's own log; the
latch over a restart; resets that must be refused, one for each condition; the reset with all five; back to NORMAL. The
engine takes what a trip does ([safety]) from the configuration. Nothing of it touches an engine that runs. What a host
cannot do is a person's: the real button, its wire, and what the Pi does (docs/operator.md).
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.config import Settings
from engine.kernel import kernel_digest
from engine.settings import as_plain
from procs import VERSION
from procs.config_file import read_settings
from procs.control_plane import open_control_folder
from procs.embedded.mix import Draws
from procs.operator_secret import set_secret
from procs.table import Role
from shm.clock import sleep, wall_ns
from tools.soak.session import SessionError
from tools.trips.cells import Cell, Outcome, run_cell
from tools.trips.session import TripSession, trip_session
from tools.trips.triggers import TRIGGERS
from tools.usage import UsageError

_COOLDOWN_S = 4.0
_SECRET = "of this drill alone"
_NEEDS = (
    "trigger released", "cause acknowledged", "venue reconciliation clean", "cooldown over", "operator authorised",
)


@dataclass
class Step:
    """One thing that was tried."""

    what: str
    passed: bool
    seen: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Report:
    """What the drill has done."""

    began: str
    machine: dict[str, Any]
    steps: list[Step] = field(default_factory=list)
    passed: bool = False

    def add(self, what: str, passed: bool, seen: str, **figures: float) -> None:
        """One more step."""
        self.steps.append(Step(what, passed, seen, figures))


def _date(form: str) -> str:
    moment = np.datetime64(wall_ns(), "ns").astype("datetime64[s]").item()
    return str(moment.strftime(form))


def _figures(outcome: Outcome) -> dict[str, float]:
    return {
        "trigger_to_word_ms": round(outcome.word_ms, 3), "word_to_gate_shut_ms": round(outcome.shut_ms, 3),
        "word_to_last_cancel_ms": round(outcome.cancelled_ms, 3),
        "word_to_confirmed_ms": round(outcome.confirmed_ms, 3),
        "orders_between_trip_and_acknowledgement": outcome.verdict.between,
        "orders_after_acknowledgement": outcome.verdict.after,
    }


def _pull(report: Report, session: TripSession, trigger: str, seed: int) -> None:
    """One trigger, judged."""
    outcome = run_cell(session, Cell("NORMAL", trigger, "idle"), Draws(seed, 0))
    broken = outcome.verdict.broken
    report.add(f"trigger: {trigger}", not broken, "; ".join(broken) or "everything stopped", **_figures(outcome))


def _needs(answer: dict[str, Any]) -> set[str]:
    return {item["need"] for item in answer.get("missing", [])}


def _refused(report: Report, session: TripSession, need: str, **request: Any) -> None:
    """A reset that must be refused, among others for this need."""
    answer = session.ask(**({"command": "reset", "reason": "the drill"} | request))
    lacking = _needs(answer)
    report.add(
        f"reset refused: {need} is missing", not answer["ok"] and need in lacking,
        "granted" if answer["ok"] else f"refused for: {', '.join(sorted(lacking)) or answer.get('error')}",
    )


def _come_back(report: Report, session: TripSession) -> None:
    """Latch, restart, refused resets, the reset, and NORMAL again."""
    session.contact("press")
    session.wait(lambda: session.live.control.tripped, 10)
    code, _, err = session.stop()
    report.add("an engine that ends tripped says so", code == 1 and "emergency stop" in err, f"exit code {code}")
    session.start()
    # Until the account is adopted a venue that fails ends the engine, and this drill makes it fail.
    session.wait(lambda: bool(session.live.state(Role.EXECUTION)["opened"][0]), 60)
    mode = (session.status() or {"mode": "no answer"})["mode"]
    report.add("latch: started again", mode == "EMERGENCY" and session.live.control.tripped, f"it comes up in {mode}")
    session.contact("press")
    session.wait(lambda: bool(session.live.control.asserted), 10)
    _refused(report, session, _NEEDS[0])
    _refused(report, session, _NEEDS[1])
    _refused(report, session, _NEEDS[4], secret="another one")
    session.contact("release")
    session.wait(lambda: not session.live.control.asserted, 10)
    session.venue.fault(fault="http", action="error_before", path="/fapi/", count=1_000_000, status=503)
    _refused(report, session, _NEEDS[2], acknowledge=True)
    session.venue.heal()
    session.contact("press")  # a trip that has just come
    session.wait(lambda: bool(session.live.control.asserted), 10)
    session.contact("release")
    session.wait(lambda: not session.live.control.asserted, 10)
    _refused(report, session, _NEEDS[3], acknowledge=True)
    sleep(_COOLDOWN_S)
    answer = session.ask(command="mode", mode="NORMAL", reason="the drill")
    report.add("no way from EMERGENCY straight to NORMAL", not answer["ok"], str(answer.get("error", "granted")))

    def reset() -> bool:
        nonlocal answer
        answer = session.ask(command="reset", reason="the drill", acknowledge=True)
        return bool(answer["ok"])

    granted = session.wait(reset, 60)
    seen = f"{answer.get('mode')}, {answer.get('after')}" if granted else f"refused: {answer}"
    report.add("reset with all five conditions leads to PAUSE", granted and answer["mode"] == "PAUSE", seen)
    answer = session.ask(command="mode", mode="NORMAL", reason="the drill")
    report.add("back to NORMAL", answer["ok"], str(answer.get("mode", answer.get("error"))))
    session.wait_orders()
    report.add("orders flow again", True, "orders are confirmed by the venue")
    code, _, err = session.stop()
    report.add("an orderly end", code == 0, f"exit code {code}" + (f", {err.strip()}" if err.strip() else ""))
    audit = session.made.command("audit", "verify")
    report.add("the audit log holds together", audit.returncode == 0, (audit.stdout + audit.stderr).strip())


def _safety(settings: Settings) -> dict[str, Any]:
    """What the drill takes from the configuration: what a trip does. And what makes it quick, on paper."""
    return as_plain(settings.safety) | {"cooldown_s": _COOLDOWN_S, "operator_secret": "required"}


def run_drill(settings: Settings, triggers: list[str], say: Callable[[str], None]) -> Report:
    """Do it all; whatever goes wrong is a step that did not pass."""
    report = Report(_date("%Y-%m-%d %H:%M:%S UTC"), {
        "host": platform.node(), "system": platform.platform(), "version": VERSION, "kernel_digest": kernel_digest(),
    })
    with tempfile.TemporaryDirectory(prefix="bot4-drill-") as folder:
        lasting = [name for name in triggers if not TRIGGERS[name].ends]
        with trip_session(Path(folder), panic="panic" in lasting, safety=_safety(settings)) as session:
            set_secret(open_control_folder(read_settings(session.made.config)), _SECRET, None)
            session.secret = _SECRET
            _attempt(report, "an engine on paper", session.start)
            for name in lasting:
                if session.running:
                    say(f"trigger: {name}")
                    _attempt(report, f"trigger: {name}", partial(_pull, report, session, name, wall_ns()))
            if session.running:
                say("latch, restart, refused resets, reset")
                _attempt(report, "coming back", partial(_come_back, report, session))
        for name in triggers:
            if TRIGGERS[name].ends:
                say(f"trigger: {name}")
                _attempt(report, f"trigger: {name}", partial(_end_one, report, Path(folder), name))
    report.passed = bool(report.steps) and all(step.passed for step in report.steps)
    return report


def _end_one(report: Report, folder: Path, name: str) -> None:
    """A trigger that ends its session."""
    own = folder / name.replace(" ", "-")
    own.mkdir()
    with trip_session(own, terminal=True, deaths_to_stop=3) as session:
        session.start()
        _pull(report, session, name, wall_ns())


def _attempt(report: Report, what: str, step: Callable[[], None]) -> None:
    try:
        step()
    except (SessionError, TimeoutError, OSError) as error:
        report.add(what, False, f"{type(error).__name__}: {error}")


def as_markdown(report: Report) -> str:
    """The report for people."""
    lines = [
        f"# Kill drill of {report.began}: {'passed' if report.passed else 'FAILED'}", "",
        *(f"* {name}: {value}" for name, value in report.machine.items()), "",
        "On paper, on the embedded exchange, with mock pins. Times are those of an observer that looks every 0.2 ms;",
        "the venue's are its own. Done by hand with the real button: date, name, what did not go as it should:", "",
        "    ............................................................................", "",
        "| step | | seen |", "|---|---|---|",
        *(f"| {step.what} | {'ok' if step.passed else '**FAILED**'} | {_cell(step.seen)} |" for step in report.steps),
        "", "| trigger | to the word | gate shut | last cancel at the venue | confirmed | orders until gate shut |",
        "|---|---|---|---|---|---|",
    ]
    for step in report.steps:
        if step.figures:
            times = list(step.figures.values())[:4]
            orders = step.figures["orders_between_trip_and_acknowledgement"]
            shown = " | ".join(f"{value:.1f} ms" for value in times)
            lines.append(f"| {step.what.removeprefix('trigger: ')} | {shown} | {orders:.0f} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def drill_command(options: argparse.Namespace) -> int:
    """Run the drill and write its report; exit code 1 when a step did not pass."""
    settings = read_settings(options.config)
    folder = options.report or Path(settings.engine.data_folder) / "drills"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--report {folder}: {error.strerror}") from None

    def say(text: str) -> None:
        if not options.json and sys.stdout.isatty():
            print(text, flush=True)

    report = run_drill(settings, options.trigger or list(TRIGGERS), say)
    path = folder / f"drill-{_date('%Y%m%d-%H%M%S')}"
    content = asdict(report)
    path.with_suffix(".json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    path.with_suffix(".md").write_text(as_markdown(report))
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(content | {"report": str(path.with_suffix(".md"))}) + b"\n")
    else:
        for step in report.steps:
            print(f"{'ok    ' if step.passed else 'FAILED'} {step.what}: {step.seen}")
        print(f"drill {'passed' if report.passed else 'FAILED'}; report: {path.with_suffix('.md')}")
    return 0 if report.passed else 1
