"""An explanation (procs/explain/explanation.py) for people: sections from the order back to the frame."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

_MOST_EVENTS = 12
_WIDTH = 116


def clock_text(ts_ns: int) -> str:
    """Time of day in UTC with microseconds."""
    moment = datetime.fromtimestamp(ts_ns // 1_000_000_000, UTC)
    return f"{moment:%H:%M:%S}.{ts_ns % 1_000_000_000 // 1000:06d}"


def _row(name: str, value: object) -> str:
    return f"  {name:<20}{value}"


def _heading(title: str) -> list[str]:
    return ["", title]


def explanation_lines(found: dict[str, Any]) -> list[str]:
    """The lines of an explanation."""
    lines = [*_findings(found)]
    if "kill_switch" in found:
        return [*lines, *_kill_switch(found["kill_switch"])]
    lines += _order(found)
    if found["intent"] is not None:
        for section in (_intent, _gate, _strategy, _target, _prediction, _features, _market, _frame, _cancels):
            lines += section(found)
    lines += _heading("session")
    lines += [_row("folder", found["session"]["folder"])]
    lines += [_row("warning", words) for words in found["session"]["warnings"]]
    return lines


def whole_lines(found: dict[str, Any]) -> list[str]:
    """The lines about all orders of a session (procs/explain/whole.py)."""
    taken = ", ".join(f"{count} {action}" for action, count in found["taken"].items()) or "nothing"
    return [
        *_findings(found),
        _row("gateway took", taken),
        _row("compared", "every one differs nowhere from what the replay decides" if not found["findings"]
             else f"{len(found['findings'])} findings, above"),
        _row("explained", f"{found['explained']} new orders, each with its gate, prediction, features and frame"),
        _row("never taken", f"{found['never_taken']} records were decided and no gateway took them"),
        _row("refused by gate", f"{found['refused_by_gate']} orders (denied:1 is the first)"),
        _row("session", found["session"]["folder"]),
        *(_row("warning", words) for words in found["session"]["warnings"]),
    ]


def _findings(found: dict[str, Any]) -> Iterator[str]:
    if found["findings"]:
        yield "THE REPLAY DOES NOT AGREE WITH WHAT WAS SENT: what follows is not sure"
        yield from (f"  {words}" for words in found["findings"])
        yield ""
    if found.get("note"):
        yield found["note"]


def _kill_switch(order: dict[str, Any]) -> list[str]:
    lines = [
        f"order {order['client_id']}", _row("made by", order["made_by"]), _row("why", order["why"]),
        _row("tripped by", ", ".join(order["tripped_by"]) or "not noted"),
    ]
    for note in order["notes"]:
        rest = ", ".join(f"{key} {value}" for key, value in note.items() if key not in ("wall_ns", "event", "id"))
        lines.append(f"  {clock_text(note['wall_ns'])}  {note['event']}: {rest}")
    return lines


def _what(intent: dict[str, Any]) -> str:
    reduce_only = ", reduce only" if intent["reduce_only"] else ""
    return (
        f"{intent['side']} {intent['size']} {intent['symbol']} at {intent['price']}, {intent['type']} "
        f"{intent['time_in_force']}{reduce_only}, by {intent['strategy']}"
    )


def _order(found: dict[str, Any]) -> Iterator[str]:
    order, intent = found["order"], found["intent"]
    if order is None:
        return
    venue = f", at the venue {order['venue_order_id']}" if order["venue_order_id"] else ""
    yield f"order {order['order_id']}  {order['client_id']}{venue}"
    if intent is not None:
        yield _what(intent)
    yield f"{order['status']}, filled {order['filled']}, fees {order['fees']}"
    yield from _heading("what became of it (UTC; ms since it was decided)")
    first = intent["decided_ns"] if intent else (order["events"][0]["at_ns"] if order["events"] else 0)
    for event in order["events"]:
        since = (event["at_ns"] - first) / 1e6
        yield f"  {clock_text(event['at_ns'])} {since:>+12.3f}  {_event(event)}"


def _event(event: dict[str, Any]) -> str:
    if event["what"] != "report":
        return str(event["what"])
    words = str(event["kind"])
    if event["kind"] == "FILL":
        words += (
            f" {event['size']} at {event['price']}, fee {event['fee']}, {'maker' if event['maker'] else 'taker'}, "
            f"trade {event['trade_id']}{', told again' if event['told_before'] else ''}"
        )
    if "reason" in event:
        words += f" {event['reason']}"
    return words + (" (by REST)" if event["from_rest"] else "")


def _intent(found: dict[str, Any]) -> Iterator[str]:
    intent, journal = found["intent"], found["intent"]["journal"]
    yield from _heading("intent")
    yield _row("decided", f"{clock_text(intent['decided_ns'])}, on frame {intent['ingest_id']}")
    yield _row("what", _what(intent))
    numbers = f"decision {intent['decision']}" + (f", intent {intent['intent']}" if "intent" in intent else "")
    yield _row("number", numbers)
    yield _row("journal", f"{journal['file']}, entry {journal['ordinal']}, record {journal['place_in_batch']}")
    agrees = {
        True: "equal to what the gateway took, byte for byte", False: "NOT what the gateway took",
        None: "no gateway took it",
    }
    yield _row("replayed", agrees[intent["as_journaled"]])


def _gate(found: dict[str, Any]) -> Iterator[str]:
    gate = found["gate"]
    yield from _heading(f"gate: {'passed' if gate['passed'] else 'REFUSED, ' + gate['reason']}")
    for check in gate["checks"]:
        verdict = "ok" if check["ok"] else f"NO: {check['reason']}"
        yield f"  {check['check'].lower():<18}{check['seen']:>20}  {check['rule']:<36}{check['limit']:>18}  {verdict}"


def _quote(quote: dict[str, Any], moved: bool) -> str:
    """moved: of the state after the record; how its order stood was looked up before."""
    wanted = f"{quote['wanted_size']} at {quote['wanted_price']}"
    if not quote["order_id"]:
        return f"{wanted}, no order behind it"
    stands = "" if moved else f" {quote['working'].lower()} at {quote['order_price']}"
    return f"{wanted}, order {quote['order_id']}{stands}"


def _strategy(found: dict[str, Any]) -> Iterator[str]:
    strategy = found["strategy"]
    yield from _heading(f"strategy {strategy['name']}")
    yield _row("mode", strategy["mode"])
    yield _row("position", f"{strategy['position']}, cost {strategy['position_cost']}, limit "
                           f"{strategy['max_position_value']}")
    yield _row("open", f"buying {strategy['open_buy']}, selling {strategy['open_sell']}")
    yield _row("fair price", strategy["fair_price"])
    for side in ("bid", "ask"):
        yield _row(f"{side} before", _quote(strategy["quotes_before"][side], moved=False))
        yield _row(f"{side} after", _quote(strategy["quotes_after"][side], moved=True))
    for what in ("parameters", "memory"):
        values = ", ".join(f"{name} {value}" for name, value in strategy[what].items())
        yield from textwrap.wrap(values, _WIDTH, initial_indent=f"  {what:<20}", subsequent_indent=" " * 22)


def _target(found: dict[str, Any]) -> Iterator[str]:
    target = found["target"]
    if target is None:
        return
    when = "taken now" if target["taken_now"] else "taken before"
    yield from _heading(f"target {target['sequence']} of process {target['life']} of the strategy, {when}")
    yield _row("answers frame", str(target["answers_ingest_id"]))
    if target["age_ms"] is not None:
        yield _row("of the time", f"{clock_text(target['event_ns'])}, {target['age_ms']:.3f} ms before the decision")
    yield _row("said", clock_text(target["said_ns"]))
    yield _row("fills seen", str(target["fills_seen"]))
    for side in ("bid", "ask"):
        one = target[side]
        at_once = ", at once" if one["at_once"] else ""
        yield _row(side, f"{one['size']} at {one['price']}, {one['type']} {one['time_in_force']}{at_once}")


def _prediction(found: dict[str, Any]) -> Iterator[str]:
    prediction = found["prediction"]
    yield from _heading("prediction")
    if prediction is None:
        yield f"  none: the record was a {found['trigger']}"
        return
    for name, value in prediction["outputs"].items():
        yield _row(name, f"{value:.9g}")
    model = prediction["model"]
    yield _row("model", f"{model['name']} version {model['version']}, sha256 {str(model['sha256'])[:16]}")
    yield _row("file", model["file"])
    if prediction["note"]:
        yield _row("note", prediction["note"])
    else:
        yield _row("computed again", "the same bits" if prediction["same"] else "NOT THE SAME")


def _features(found: dict[str, Any]) -> Iterator[str]:
    features = found["features"]
    if features is None:
        return
    yield from _heading("features")
    for name, value in features["vector"].items():
        yield _row(name, f"{value:.9g}")
    yield _row("age of the book", f"{features['book_age_ms']:.3f} ms")
    if features["venue_to_receipt_ms"] is not None:
        yield _row("venue to us", f"{features['venue_to_receipt_ms']:.3f} ms (two clocks)")


def _market(found: dict[str, Any]) -> Iterator[str]:
    market = found["market"]
    yield from _heading("market events of the causing frame")
    if market is None:
        yield "  none: it was before the first frame"
        return
    for event in market["events"][:_MOST_EVENTS]:
        line = f"  {event['kind']:<14}{event['symbol'] or '-':<12}"
        if "price" in event:
            line += f"{event.get('side', ''):<5}{event.get('size', ''):>14}  at {event['price']}"
        yield line.rstrip()
    left = len(market["events"]) - _MOST_EVENTS
    if left > 0:
        yield f"  and {left} more (--json has them all)"
    if market["touch"]:
        touch = market["touch"]
        yield _row("touch then", f"{touch['bid_size']} at {touch['bid_price']} / {touch['ask_size']} at "
                                 f"{touch['ask_price']}")


def _frame(found: dict[str, Any]) -> Iterator[str]:
    frame = found["frame"]
    if frame is None:
        return
    yield from _heading(f"frame {frame['ingest_id']}")
    journal = frame["journal"]
    yield _row("journal", f"{journal['file']}, entry {journal['ordinal']}, {frame['bytes']} bytes")
    yield _row("received", clock_text(frame["recv_ts_ns"]))
    if frame["exch_ts_ns"]:
        yield _row("venue's clock", clock_text(frame["exch_ts_ns"]))
    text = frame["text"] if len(frame["text"]) <= 1000 else frame["text"][:1000] + " ... (--json has all of it)"
    yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _cancels(found: dict[str, Any]) -> Iterator[str]:
    if not found["cancels"]:
        return
    yield from _heading("cancels")
    for cancel in found["cancels"]:
        sent = "sent" if cancel["sent"] else "wanted"
        cause = f"on frame {cancel['ingest_id']} ({cancel['trigger']})"
        yield f"  {clock_text(cancel['at_ns'])}  {sent}, {cause}: {cancel['why']}"
