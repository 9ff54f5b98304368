"""An order explained: from what became of it back to the frame behind it, as one dictionary of plain values.

What became of it is read from the journals (life.py), what was decided and on what is decided again (moments.py), and
the two are compared byte by byte. `findings` names every difference; without one the explanation is exact.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.instruments import Instrument
from engine.records import (
    OUTPUT_COUNT,
    SOURCE_MAIN,
    Kind,
    OrderAction,
    OrderType,
    ReportKind,
    Side,
    TimeInForce,
)
from engine.units import format_units
from models.inference import Model, ModelError
from procs.explain.cancels import cancel_figures, trigger_name
from procs.explain.figures import (
    differences,
    gate_figures,
    market_figures,
    money,
    name_of,
    order_figures,
    plain,
    report_figures,
    strategy_figures,
    strategy_name,
    target_figures,
    touch_figures,
    vector_figures,
)
from procs.explain.life import Life, client_id, last_order, order_of_venue_id, read_life
from procs.explain.moments import (
    CountSearch,
    Moment,
    OrderSearch,
    Progress,
    find_moments,
    intents,
    refused_by_gate,
)
from procs.explain.session import ExplainError, Session, UnknownForm
from procs.inference import model_path
from procs.kill_record import NOTES_NAME

FORMS = "an order number, a client order id, venue:ID, intent:N, denied:N, last, or all"
_CLIENT_ID = re.compile(r"b4([0-9a-f]{8})-([1-9][0-9]*)")
_NUMBERED = re.compile(r"(?:(venue|intent|denied):)?([1-9][0-9]{0,18})")
_ENDS: dict[int, str] = {
    ReportKind.REJECTED: "REJECTED", ReportKind.CANCELLED: "CANCELLED", ReportKind.EXPIRED: "EXPIRED",
    ReportKind.DENIED: "DENIED",
}
_QUIET: Progress = lambda _ts_ns, _entries: None  # noqa: E731


def session_id_in(text: str) -> str:
    """The session that a client order id names; empty for other forms."""
    match = _CLIENT_ID.fullmatch(text)
    return match[1] if match else ""


def explain(session: Session, text: str, progress: Progress = _QUIET) -> dict[str, Any]:
    """The explanation of what `text` names (FORMS).

    Raises ExplainError for what the session does not have, ReplayError and JournalError for journals that do not hold.
    """
    told = {
        "folder": str(session.folder), "id": session.id, "engine_version": session.told.get("engine_version"),
        "kernel_digest": session.told.get("kernel_digest"), "warnings": session.warnings(),
    }
    made_by_stop = _kill_switch_order(session, text)
    if made_by_stop is not None:
        return {"asked": text, "session": told, "kill_switch": made_by_stop, "findings": []}
    match = _NUMBERED.fullmatch(text)
    if match and match[1] == "denied":
        return {"asked": text, "session": told} | _explain_denied(session, int(match[2]), progress)
    order_id, note = _order_number(session, text, progress)
    answer = {"asked": text, "note": note, "session": told} | _explain_order(session, order_id, progress)
    if session.warnings() and answer["findings"]:
        answer["findings"] += session.warnings()
    return answer


def order_number(session: Session, text: str) -> int:
    """The order number that a form other than intent:N and denied:N names. Raises ExplainError, JournalError."""
    if text.startswith(("intent:", "denied:")):
        raise UnknownForm(f"{text}: a number of a decision; explain finds its order")
    return _order_number(session, text, _QUIET)[0]


def _order_number(session: Session, text: str, progress: Progress) -> tuple[int, str]:
    """(order number, what to say about how it was found)."""
    if text == "last":
        return last_order(session), ""
    if match := _CLIENT_ID.fullmatch(text):
        if match[1] != session.id:
            raise ExplainError(f"{text}: an order of session {match[1]}; {session.folder} is session {session.id}")
        return int(match[2]), ""
    match = _NUMBERED.fullmatch(text)
    if not match:
        raise UnknownForm(f"{text!r} names no order; write {FORMS}")
    number = int(match[2])
    if match[1] == "intent":
        return _order_of_intent(session, number, progress)
    if match[1] == "venue":
        order_id = order_of_venue_id(session, number)
        if not order_id:
            raise ExplainError(f"no report of this session names the venue's order {number}")
        return order_id, f"the venue's order {number} is order {order_id}"
    return number, ""


def _order_of_intent(session: Session, number: int, progress: Progress) -> tuple[int, str]:
    found = find_moments(session, CountSearch(number, intents), progress)
    if not found:
        raise ExplainError(f"this session decided fewer than {number} intents")
    decided = found[0].orders[np.isin(found[0].orders["kind"], (OrderAction.NEW, OrderAction.CANCEL))]
    order = decided[number - int(found[0].before["intents"]) - 1]
    order_id, action = int(order["order_id"]), name_of(OrderAction, int(order["kind"]))
    return order_id, f"intent {number} is the {action} of order {order_id}"


def _explain_order(session: Session, order_id: int, progress: Progress) -> dict[str, Any]:
    life = read_life(session, order_id)
    cancels = [one for one in life.decisions() if one.order["kind"] == OrderAction.CANCEL]
    decided_ns = int(life.new.order["recv_ts_ns"]) if life.new else 0
    moments = find_moments(session, OrderSearch(order_id, decided_ns, len(cancels)), progress)
    decided = next((one for one in moments if one.sent(OrderAction.NEW, order_id) is not None), None)
    if decided is None and life.new is None:
        raise ExplainError(
            f"{session.folder} has no order {order_id}: neither was it decided, nor did a gateway take it"
        )
    if decided is None:
        assert life.new is not None
        item = instrument_of(session, int(life.new.order["instrument"]))
        return {
            "order": _order_life(session, life, life.new.order, item), "intent": None, "findings": [
                f"a gateway took order {order_id}, and the replay of the session's journals does not decide it"
            ],
        }
    order = decided.sent(OrderAction.NEW, order_id)
    assert order is not None
    item = instrument_of(session, int(order["instrument"]))
    findings = []
    if life.new is not None:
        findings = [f"order {order_id}, {one}" for one in differences(order, life.new.order)]
    cancel_entries, differ = cancel_figures(moments, order_id, cancels, item)
    figures, model_findings = decision_figures(session, decided, order)
    figures["intent"] |= {
        "taken_by_gateway": life.new is not None, "as_journaled": not findings if life.new is not None else None,
    }
    return {
        "order": _order_life(session, life, order, item), **figures, "cancels": cancel_entries,
        "findings": findings + differ + model_findings,
    }


def decision_figures(session: Session, moment: Moment, order: np.void) -> tuple[dict[str, Any], list[str]]:
    """Intent, gate and all that lies behind a new order (ORDER) that was decided at a moment, and what does not agree.

    Raises ExplainError where the gate kept no note of it.
    """
    order_id, item = int(order["order_id"]), instrument_of(session, int(order["instrument"]))
    checked = next((one for one in moment.checks() if one["order_id"] == order_id), None)
    if checked is None:
        raise ExplainError(f"the gate kept no note of order {order_id}: this should not happen")
    behind, findings = _behind(session, moment, int(order["strategy"]), item)
    intent = order_figures(order, item, session.strategies) | {
        "decision": int(checked["decision"]), "intent": _intent_number(moment, order_id),
        "deadline_ns": int(order["deadline_ns"]), "journal": _place_of(moment),
    }
    gate = gate_figures(checked, moment.after["views"][item.index], item)
    return {"intent": intent, "gate": gate, **behind}, findings


def _place_of(moment: Moment) -> dict[str, Any]:
    """Where in execution's journal the record lies, and when its batch was taken."""
    return moment.batch.place() | {"place_in_batch": moment.place, "taken_ns": moment.batch.entry.ts_ns}


def _intent_number(moment: Moment, order_id: int) -> int:
    """The ordinal of the intent that places an order."""
    decided = moment.orders[np.isin(moment.orders["kind"], (OrderAction.NEW, OrderAction.CANCEL))]
    place = int(np.flatnonzero((decided["kind"] == OrderAction.NEW) & (decided["order_id"] == order_id))[0])
    return int(moment.before["intents"]) + place + 1


def _explain_denied(session: Session, number: int, progress: Progress) -> dict[str, Any]:
    found = find_moments(session, CountSearch(number, refused_by_gate), progress)
    if not found:
        raise ExplainError(f"the gate of this session refused fewer than {number} orders")
    moment = found[0]
    refused = [one for one in moment.checks() if one["order_id"] == 0]
    checked = refused[number - refused_by_gate(moment.before) - 1]
    item = instrument_of(session, int(checked["instrument"]))
    behind, findings = _behind(session, moment, int(checked["strategy"]), item)
    return {
        "note": f"the gate refused it: it has no order number, and nothing was sent (refusal {number})", "order": None,
        "intent": {
            "action": "NEW", "order_id": 0, "symbol": item.symbol, "side": name_of(Side, int(checked["side"])),
            "price": format_units(int(checked["price"]), item.price_exp),
            "size": format_units(int(checked["size"]), item.size_exp),
            "type": name_of(OrderType, int(checked["order_type"])),
            "time_in_force": name_of(TimeInForce, int(checked["time_in_force"])),
            "reduce_only": bool(checked["reduce_only"]),
            "strategy": strategy_name(session.strategies, int(checked["strategy"])),
            "ingest_id": int(moment.after["last_ingest_id"]), "decided_ns": int(moment.after["now_ns"]),
            "decision": int(checked["decision"]), "taken_by_gateway": False, "as_journaled": None,
            "journal": _place_of(moment),
        },
        "gate": gate_figures(checked, moment.after["views"][item.index], item), **behind, "cancels": [],
        "findings": findings,
    }


def instrument_of(session: Session, index: int) -> Instrument:
    """The instrument of an index."""
    return next(item for item in session.instruments if item.index == index)


def _order_life(session: Session, life: Life, order: np.void, item: Instrument) -> dict[str, Any]:
    """What became of an order, with times on the session clock."""
    fills = {
        int(one.report["trade_id"]): one.report for one in life.reports if one.report["kind"] == ReportKind.FILL
    }
    filled = sum(int(fill["size"]) for fill in fills.values())
    events: list[dict[str, Any]] = [
        {"at_ns": one.taken.entry.ts_ns, "what": f"gateway took {name_of(OrderAction, int(one.order['kind']))}"}
        for one in life.requests
    ]
    if life.left_ns:
        events.append({"at_ns": life.left_ns, "what": "bytes left for the venue"})
    told: set[int] = set()
    for one in life.reports:
        event = {"at_ns": int(one.report["recv_ts_ns"]), "what": "report", "taken_ns": one.taken.entry.ts_ns}
        event |= report_figures(one.report, item)
        if one.report["kind"] == ReportKind.FILL:
            event["told_before"] = int(one.report["trade_id"]) in told  # it counts once
            told.add(int(one.report["trade_id"]))
        events.append(event)
    ends = [_ENDS[kind] for one in life.reports if (kind := int(one.report["kind"])) in _ENDS]
    known = any(one.report["kind"] == ReportKind.ACCEPTED for one in life.reports)
    if filled and filled >= int(order["size"]):
        status = "FILLED"
    elif ends:
        status = ends[-1]
    else:
        status = "LIVE" if known else ("NO REPORT YET" if life.new else "NEVER TAKEN BY A GATEWAY")
    return {
        "order_id": life.order_id, "client_id": client_id(session, life.order_id),
        "venue_order_id": life.venue_order_id, "made_by": "execution", "status": status,
        "filled": format_units(filled, item.size_exp), "fees": money(sum(int(fill["fee"]) for fill in fills.values())),
        "events": sorted(events, key=lambda event: int(event["at_ns"])),
    }


def _behind(session: Session, moment: Moment, strategy: int, item: Instrument) -> tuple[dict[str, Any], list[str]]:
    """Strategy, prediction, features, market events and frame behind a decision; and what does not agree."""
    figures: dict[str, Any] = {
        "trigger": trigger_name(moment), "strategy": strategy_figures(moment, strategy, item, session.strategies),
        "target": target_figures(moment, strategy, item), "prediction": None, "features": None, "market": None,
        "frame": None,
    }
    findings: list[str] = []
    if moment.source == SOURCE_MAIN and moment.record["kind"] == Kind.PREDICTION:
        figures["prediction"], findings = _prediction(session, moment.record)
        figures["features"] = vector_figures(moment.record, int(moment.after["now_ns"]))
    group = moment.group
    if group is not None:
        figures["market"] = {
            "ingest_id": group.ingest_id, "events": market_figures(group, session.instruments),
            "touch": touch_figures(moment.record, item) if figures["prediction"] else None,
        }
        entry = group.frame.entry
        stamps = [int(stamp) for stamp in group.records["exch_ts_ns"] if stamp]
        figures["frame"] = {
            "ingest_id": group.ingest_id, "journal": group.frame.place(), "recv_ts_ns": entry.ts_ns,
            "exch_ts_ns": max(stamps, default=0), "bytes": len(entry.payload),
            "text": entry.payload.decode(errors="replace"),
        }
    return figures, findings


def _prediction(session: Session, record: np.void) -> tuple[dict[str, Any], list[str]]:
    """The outputs that execution took, the model behind them, and whether it still says so."""
    noted = session.told.get("model") or {}
    path = model_path(session.settings.model.path)
    outputs = [float(value) for value in record["output"]]
    names = [entry.get("name", f"output_{at}") for at, entry in enumerate(noted.get("outputs") or [])]
    figures: dict[str, Any] = {
        "outputs": dict(zip(names or [f"output_{at}" for at in range(OUTPUT_COUNT)], outputs, strict=False)),
        "model": {
            "name": noted.get("name"), "version": noted.get("version"), "sha256": noted.get("sha256"),
            "file": str(path),
        },
        "computed_again": None, "same": None, "note": "",
    }
    try:
        model = Model(Path(path), session.settings.features)
    except ModelError as error:
        figures["note"] = f"the outputs are those in the journal, and cannot be computed again: {error}"
        return figures, []
    if noted.get("sha256") not in (None, model.card.get("sha256")):
        figures["note"] = "the file is another model by now; the outputs are those in the journal"
        return figures, []
    again = np.zeros(OUTPUT_COUNT, np.float32)
    model.predict_into(np.ascontiguousarray(record["vector"]), again)
    figures["computed_again"] = [float(value) for value in again]
    figures["same"] = again.tobytes() == np.ascontiguousarray(record["output"]).tobytes()
    return figures, [] if figures["same"] else ["the model says something else today than what the journal holds"]


def _readable(session: Session, note: dict[str, Any]) -> dict[str, Any]:
    """A note of the kill switch with price and size as decimal text, and without what it leaves empty."""
    item = next((item for item in session.instruments if item.symbol == note.get("symbol")), None)
    for name, exp in (("price", item.price_exp), ("size", item.size_exp)) if item else ():
        if isinstance(note.get(name), int):
            note[name] = format_units(note[name], exp)
    return {name: value for name, value in note.items() if value != ""}


def _kill_switch_order(session: Session, text: str) -> dict[str, Any] | None:
    """What the kill switch noted of an order that its controlled stop made; None where it made none of that id."""
    named = text if _CLIENT_ID.fullmatch(text) else (client_id(session, int(text)) if text.isdigit() else "")
    if not named:
        return None
    try:
        lines = (session.folder / NOTES_NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return None
    tripped: dict[str, Any] = {}
    mine: list[dict[str, Any]] = []
    for line in lines:
        try:
            note = orjson.loads(line)
        except orjson.JSONDecodeError:  # torn by a full disk
            continue
        if note.get("event") == "tripped" and not mine:
            tripped = note
        if note.get("id") == named:
            mine.append(_readable(session, note))
    if not mine:
        return None
    return {
        "client_id": named, "made_by": "the kill switch, in its controlled stop: no strategy decided it, and no gate "
        "of execution saw it", "why": "to flatten a position after the emergency word was set",
        "tripped_by": tripped.get("sources", []), "tripped": plain(tripped), "notes": mine,
    }
