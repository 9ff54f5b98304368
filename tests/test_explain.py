"""`bot4 explain` and `bot4 latency trace` on sessions made without processes: every order, every way to name one, and
journals, settings and models that are not what they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from engine.config import Settings
from engine.execution.quoting import CLOCK_RECORDS
from engine.records import MARKET, ORDER, Kind, OrderAction
from engine.risk.gate import KEPT, Check
from engine.safety.mode import Mode
from engine.settings import build
from engine.strategies.settings import MAX_STRATEGIES
from models.inference import DEFAULT_MODEL
from procs.explain.session import Session, open_session
from procs.explain.whole import explain_all
from procs.journal.layout import MAGIC, Entry
from procs.journal.reader import JournalEntry, segment_path
from procs.kill_record import NOTES_NAME
from tests.answered_session import SESSION, VENUE_IDS, Answered, make_answered_session, rewrite_stream
from tools.cli import main

pytestmark = pytest.mark.recordings
LIMITS = {"max_order_value": 600.0, "max_position_value": 4_000.0, "price_collar_bps": 40.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return make_answered_session(tmp_path_factory.mktemp("answered") / "session", build(Settings, {"gate": LIMITS}))


@pytest.fixture
def copied(made: Answered, tmp_path: Path) -> Path:
    """The same session, to be spoilt."""
    return Path(shutil.copytree(made.folder, tmp_path / "session"))


def ask(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of a command with --json."""
    code = main([*map(str, words), "--json"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, answer


def every(session: Session) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    figures: list[dict[str, Any]] = []
    return explain_all(session, figures.append, lambda _ts_ns, _entries: None), figures


def test_every_order_comes_out_of_the_replay_as_it_was_sent(made: Answered) -> None:
    told, figures = every(open_session(made.folder))
    assert told["findings"] == told["session"]["warnings"] == [] and told["never_taken"] == 0
    numbers = made.numbers(OrderAction.NEW)
    assert len(numbers) > 15 and [one["intent"]["order_id"] for one in figures] == numbers
    assert told["taken"]["NEW"] == len(numbers) and told["taken"]["CANCEL"] == len(made.numbers(OrderAction.CANCEL))
    for one in figures:
        intent, checks = one["intent"], {entry["check"]: entry for entry in one["gate"]["checks"]}
        assert one["gate"]["passed"] and all(entry["ok"] for entry in checks.values())
        # Every check but that of orders that only reduce, and that of a mark price where there is none.
        assert set(Check.__members__) - set(checks) <= {"REDUCES", "COLLAR_MARK"}
        value = float(intent["price"]) * float(intent["size"])
        assert float(checks["ORDER_VALUE"]["seen"]) == pytest.approx(value, rel=1e-12)
        assert float(checks["ORDER_VALUE"]["limit"]) == LIMITS["max_order_value"]
        assert float(checks["POSITION_VALUE"]["limit"]) == LIMITS["max_position_value"]
        touch = one["market"]["touch"]
        mid = (float(touch["bid_price"]) + float(touch["ask_price"])) / 2
        assert float(checks["COLLAR_MID"]["seen"]) == pytest.approx(abs(float(intent["price"]) - mid), abs=1e-9)
        # The tick is 0.1: the limit is shown to a twentieth of it, rounded down.
        assert float(checks["COLLAR_MID"]["limit"]) == pytest.approx(mid * LIMITS["price_collar_bps"] * 1e-4, abs=0.01)
        place = "bid" if intent["side"] == "BUY" else "ask"
        quote = one["strategy"]["quotes_after"][place]
        assert (quote["wanted_price"], quote["wanted_size"]) == (intent["price"], intent["size"])
        assert quote["order_id"] == intent["order_id"]
        assert one["prediction"]["same"] and one["frame"]["ingest_id"] == intent["ingest_id"]


def test_an_order_is_explained_from_its_life_to_its_frame(made: Answered, capsys: pytest.CaptureFixture[str]) -> None:
    cancelled = made.numbers(OrderAction.CANCEL)[-1]
    code, found = ask(capsys, "explain", str(cancelled), "--session", made.folder)
    assert code == 0 and found["findings"] == []
    order = found["order"]
    assert order["status"] == "CANCELLED" and order["client_id"] == f"b4{SESSION}-{cancelled}"
    assert [event.get("kind", event["what"]) for event in order["events"]] == [
        "gateway took NEW", "bytes left for the venue", "ACCEPTED", "gateway took CANCEL", "CANCELLED",
    ]
    assert found["intent"]["as_journaled"] is True
    sent = next(one for one in made.sent if one["kind"] == OrderAction.NEW and one["order_id"] == cancelled)
    assert (found["intent"]["ingest_id"], found["intent"]["decided_ns"]) == (sent["ingest_id"], sent["recv_ts_ns"])
    [cancel] = [one for one in found["cancels"] if one["sent"]]
    assert cancel["as_journaled"] and cancel["why"]
    # The frame is in the capture word for word, and its levels are among the events.
    frame = orjson.loads(found["frame"]["text"])
    if "b" in frame.get("data", {}):
        levels = {float(price) for side in "ba" for price, _ in frame["data"][side]}
        assert {float(event["price"]) for event in found["market"]["events"] if event["kind"] == "LEVEL"} <= levels


def test_the_same_order_by_all_its_names(made: Answered, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = made.numbers(OrderAction.NEW)
    wanted = numbers[len(numbers) // 2]
    intents = [one for one in made.sent if one["kind"] in (OrderAction.NEW, OrderAction.CANCEL)]
    place = next(at for at, one in enumerate(intents, 1) if one["order_id"] == wanted)
    for name in (str(wanted), f"b4{SESSION}-{wanted}", f"venue:{VENUE_IDS + wanted}", f"intent:{place}"):
        code, found = ask(capsys, "explain", name, "--session", made.folder)
        assert (code, found["order"]["order_id"], found["intent"]["intent"]) == (0, wanted, place), name
    cancel = next(at for at, one in enumerate(intents, 1) if one["kind"] == OrderAction.CANCEL)
    code, found = ask(capsys, "explain", f"intent:{cancel}", "--session", made.folder)
    assert code == 0 and found["note"].startswith(f"intent {cancel} is the CANCEL of order ")
    code, found = ask(capsys, "explain", "last", "--session", made.folder)
    assert (code, found["order"]["order_id"]) == (0, numbers[-1])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("99999", "has no order 99999"), ("b4ffffffff-3", "an order of session ffffffff"), ("venue:5", "no report"),
        ("intent:99999", "fewer than 99999 intents"), ("denied:1", "refused fewer than 1 orders"),
    ],
)  # fmt: skip
def test_names_of_nothing(made: Answered, capsys: pytest.CaptureFixture[str], name: str, words: str) -> None:
    code, found = ask(capsys, "explain", name, "--session", made.folder)
    assert code == 1 and words in found["error"]


@pytest.mark.parametrize("words", [("explain", "nonsense"), ("explain", "0"), ("latency", "trace", "frame:x")])
def test_what_cannot_be_a_name_is_bad_usage(
    made: Answered, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main([*words, "--session", str(made.folder), "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "names no order; write an order number" in said.err
    assert main([*words, "--session", str(made.folder / "nowhere")]) == 2
    assert "nowhere: there is no such file or folder" in capsys.readouterr().err


def test_text_for_people(made: Answered, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("explain", "last"), ("explain", "all"), ("latency", "trace", "last")):
        assert main([*words, "--session", str(made.folder)]) == 0
        text = capsys.readouterr()
        assert text.err == "" and max(map(len, text.out.splitlines())) <= 140
    assert main(["explain", "99999", "--session", str(made.folder)]) == 1
    text = capsys.readouterr()
    assert text.out == "" and text.err.startswith("bot4: ") and len(text.err.splitlines()) == 1


def test_a_refused_order_says_which_check_it_broke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = build(Settings, {"gate": {"max_order_value": 400.0}, "maker": {"order_value": 500.0}})
    refused = make_answered_session(tmp_path / "refused", settings, frames=1_200)
    assert refused.refused > 3 and not refused.numbers(OrderAction.NEW)
    for number in (1, refused.refused):
        code, found = ask(capsys, "explain", f"denied:{number}", "--session", refused.folder)
        assert code == 0 and found["order"] is None and not found["gate"]["passed"]
        assert found["gate"]["reason"] == "ORDER_VALUE"
        broken = [entry for entry in found["gate"]["checks"] if not entry["ok"]]
        assert broken == found["gate"]["checks"][-1:] and broken[0]["check"] == "ORDER_VALUE"
        assert float(broken[0]["seen"]) > float(broken[0]["limit"]) == 400.0
        assert float(found["intent"]["price"]) * float(found["intent"]["size"]) == pytest.approx(
            float(broken[0]["seen"]), rel=1e-12
        )
    assert main(["explain", "denied:1", "--session", str(refused.folder)]) == 0
    assert "gate: REFUSED, ORDER_VALUE" in capsys.readouterr().out
    assert ask(capsys, "explain", f"denied:{refused.refused + 1}", "--session", refused.folder)[0] == 1


def test_orders_that_only_reduce(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = np.zeros(1, MARKET)
    command["kind"], command["aux"] = Kind.MODE, Mode.REDUCE
    settings = build(Settings, {"safety": {"reduce_over_s": 1.0}})
    session = make_answered_session(tmp_path / "reduced", settings, frames=3_000, commands={2_200: command})
    told, figures = every(open_session(session.folder))
    assert told["findings"] == []
    reducing = [one for one in figures if one["intent"]["reduce_only"]]
    assert reducing, "a position was held when REDUCE began"
    for one in reducing:
        checks = {entry["check"]: entry for entry in one["gate"]["checks"]}
        assert one["strategy"]["mode"] == "REDUCE" and checks["REDUCES"]["ok"]
        assert float(checks["REDUCES"]["seen"]) <= 0 == float(checks["MIN_VALUE"]["limit"])
    cancels = [one for one in session.sent if one["kind"] == OrderAction.CANCEL]
    began = min(one["intent"]["decided_ns"] for one in reducing)
    last_quote = max(int(one["order_id"]) for one in cancels if one["recv_ts_ns"] < began)
    why = []
    for number in (int(cancels[0]["order_id"]), last_quote):
        _, found = ask(capsys, "explain", str(number), "--session", session.folder)
        assert found["findings"] == []
        why.append(found["cancels"][0]["why"])
    assert why[0].startswith("the quote moved from") and why[1] == "the mode became REDUCE"


def test_an_order_that_was_sent_otherwise_is_a_finding(
    made: Answered, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = made.numbers(OrderAction.NEW)[3]

    def change(entries: list[JournalEntry]) -> list[JournalEntry]:
        for at, entry in enumerate(entries):
            if entry.kind == Entry.REQUEST and entry.count == wanted:
                order = np.frombuffer(entry.payload, ORDER).copy()
                order["size"] += 1
                entries[at] = entry._replace(payload=order.tobytes())
                return entries
        raise AssertionError("it was sent")

    rewrite_stream(copied, "gateway", change)
    code, found = ask(capsys, "explain", str(wanted), "--session", copied)
    assert code == 1 and found["intent"]["as_journaled"] is False
    assert any(words.startswith(f"order {wanted}, size: the replay says") for words in found["findings"])
    assert main(["explain", str(wanted), "--session", str(copied)]) == 1
    assert "THE REPLAY DOES NOT AGREE" in capsys.readouterr().out
    code, found = ask(capsys, "explain", "all", "--session", copied)
    assert code == 1 and len(found["findings"]) == 1 and f"order {wanted}: size" in found["findings"][0]
    assert ask(capsys, "explain", str(made.numbers(OrderAction.NEW)[2]), "--session", copied)[0] == 0


def test_changed_settings_are_said_and_what_they_change_is_found(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copied / "session.json"
    told = orjson.loads(file.read_bytes())
    told["settings"]["maker"]["order_value"] = 300.0
    file.write_bytes(orjson.dumps(told))
    code, found = ask(capsys, "explain", "1", "--session", copied)
    assert code == 1 and any("size: the replay says" in words for words in found["findings"])
    assert any("not those that the session began with" in words for words in found["findings"])


def test_journals_that_end_too_early(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    market = segment_path(copied, "ingestion", 0)
    whole = market.read_bytes()
    market.write_bytes(whole[: len(whole) // 3])
    code, found = ask(capsys, "explain", "last", "--session", copied)
    assert code == 1 and "ingestion journal ends before" in found["error"]
    market.write_bytes(whole)
    decisions = segment_path(copied, "execution", 0)
    content = decisions.read_bytes()
    decisions.write_bytes(content[: len(content) // 2])
    code, found = ask(capsys, "explain", "last", "--session", copied)
    assert code == 1 and "does not decide it" in found["findings"][0]
    assert ask(capsys, "explain", "1", "--session", copied)[0] == 0, "what was decided before the tear stays explained"


def test_what_is_no_session_of_ours(made: Answered, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error_of(*words: str | Path) -> str:
        code, found = ask(capsys, "explain", "1", *words)
        assert code == 1
        return str(found["error"])

    segment = segment_path(copied, "execution", 0)
    content = segment.read_bytes()
    segment.write_bytes(b"B4JRNL99" + content[len(MAGIC) :])
    assert "a journal of version B4JRNL99; this code reads B4JRNL02" in error_of("--session", copied)
    segment.write_bytes(b"<html>  " + content[len(MAGIC) :])
    assert "is no journal segment" in error_of("--session", copied)
    segment.unlink()
    assert "there is no journal of execution in it" in error_of("--session", copied)
    (copied / "session.json").write_bytes(b"{")
    assert "no session folder" in error_of("--session", copied)
    assert "is no folder" in error_of("--session", copied / "session.json")
    config = copied / "other.toml"
    config.write_text(f'[engine]\nname = "nobody-here"\ndata_folder = "{copied}"\n')
    assert "no engine named 'nobody-here' is running" in error_of("--config", config)
    # By the data folder alone: the newest session of the name, and the session that a client order id names.
    root = copied / "sessions"
    root.mkdir()
    shutil.copytree(made.folder, root / "one")
    config.write_text(f'[engine]\nname = "{made.settings.engine.name}-x"\ndata_folder = "{copied}"\n')
    code, found = ask(capsys, "explain", f"b4{SESSION}-1", "--config", config)
    assert code == 0 and found["session"]["folder"] == str(root / "one")


def test_a_model_that_is_gone_or_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".onnx", ".json"):
        shutil.copy(DEFAULT_MODEL.with_suffix(suffix), tmp_path / f"mine{suffix}")
    settings = build(Settings, {"model": {"path": str(tmp_path / "mine.onnx")}})
    session = make_answered_session(tmp_path / "session", settings, frames=1_200)
    (tmp_path / "mine.onnx").unlink()
    code, found = ask(capsys, "explain", "1", "--session", session.folder)
    assert code == 0 and found["prediction"]["same"] is None
    assert "cannot be computed again" in found["prediction"]["note"]
    card = tmp_path / "mine.json"
    other = orjson.loads((session.folder / "session.json").read_bytes())
    other["model"]["sha256"] = "0" * 64
    (session.folder / "session.json").write_bytes(orjson.dumps(other))
    shutil.copy(DEFAULT_MODEL, tmp_path / "mine.onnx")
    assert card.exists()
    code, found = ask(capsys, "explain", "1", "--session", session.folder)
    assert code == 0 and "another model by now" in found["prediction"]["note"]


def test_a_prediction_that_comes_out_different_is_a_finding(
    made: Answered, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The outputs of the deciding record, one bit off: the decision may stay, the model does not agree."""
    wanted = made.numbers(OrderAction.NEW)[5]
    _, found = ask(capsys, "explain", str(wanted), "--session", made.folder)
    place = found["intent"]["journal"]

    def change(entries: list[JournalEntry]) -> list[JournalEntry]:
        entry = entries[place["ordinal"] - 1]
        outputs = np.frombuffer(entry.payload, np.float32).copy().reshape(entry.count, -1)
        outputs[place["place_in_batch"] - 1, 1] = np.nextafter(outputs[place["place_in_batch"] - 1, 1], np.float32(9))
        entries[place["ordinal"] - 1] = entry._replace(payload=outputs.tobytes())
        return entries

    rewrite_stream(copied, "execution", change)
    code, found = ask(capsys, "explain", str(wanted), "--session", copied)
    assert code == 1 and found["findings"] == ["the model says something else today than what the journal holds"]


def test_orders_of_the_controlled_stop_have_no_intent(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = [
        {"wall_ns": 10**18, "event": "tripped", "sources": ["OPERATOR"], "count": 1},
        {"wall_ns": 10**18 + 1, "event": "clip", "symbol": "BTCUSDT", "side": "SELL", "price": 6012345, "size": 2,
         "id": f"b4{SESSION}-900", "executed": "0.002", "error": "", "known": True},
    ]  # fmt: skip
    (copied / NOTES_NAME).write_bytes(b"\n".join(map(orjson.dumps, notes)) + b"\n{torn")
    for name in ("900", f"b4{SESSION}-900"):
        code, found = ask(capsys, "explain", name, "--session", copied)
        assert code == 0 and "kill switch" in found["kill_switch"]["made_by"]
        assert found["kill_switch"]["tripped_by"] == ["OPERATOR"]
        assert found["kill_switch"]["notes"] == [
            {"wall_ns": 10**18 + 1, "event": "clip", "symbol": "BTCUSDT", "side": "SELL", "price": "60123.45",
             "size": "0.002", "id": f"b4{SESSION}-900", "executed": "0.002", "known": True},
        ]  # fmt: skip
    assert main(["explain", "900", "--session", str(copied)]) == 0
    assert "no strategy decided it" in capsys.readouterr().out


def test_hops_are_the_stamps_of_the_journals(made: Answered, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = made.numbers(OrderAction.NEW)[4]
    code, found = ask(capsys, "latency", "trace", str(wanted), "--session", made.folder)
    [trace] = found["traces"]
    assert code == 0 and trace["order_id"] == wanted
    hops = {hop["hop"]: hop["at_ns"] for hop in trace["hops"]}
    names = list(hops)
    assert names[:2] == ["venue event", "frame received"] and names[6:11] == [
        "prediction taken", "intent published", "gateway took it", "bytes out", "acknowledged",
    ]
    sent = next(one for one in made.sent if one["kind"] == OrderAction.NEW and one["order_id"] == wanted)
    # What the maker of the session wrote: 40 us from decoding, 10 us to publishing, 20 to the gateway, 500 to the wire.
    taken = hops["prediction taken"]
    assert taken >= hops["frame received"] and trace["ingest_id"] == sent["ingest_id"]
    steps = ("decoded", "validation", "features", "ml", "intent published", "gateway took it", "bytes out")
    assert [(hops[name] - taken) // 1_000 for name in steps] == [-40, -30, -20, -10, 10, 20, 500]
    code, again = ask(capsys, "latency", "trace", f"frame:{trace['ingest_id']}", "--session", made.folder)
    assert code == 0 and trace in again["traces"]
    causes = {int(one["ingest_id"]) for one in made.sent}
    idle = next(number for number in range(100, 1_000) if number not in causes)
    code, again = ask(capsys, "latency", "trace", f"frame:{idle}", "--session", made.folder)
    hops = {hop["hop"]: hop["at_ns"] for hop in again["traces"][0]["hops"]}
    assert code == 0 and again["traces"][0]["order_id"] == 0 and len(hops) == 6
    assert hops["frame received"] and not any(hops[name] for name in steps[:4])
    for name, words in (("99999", "no order 99999"), ("frame:999999", "no frame 999999")):
        code, again = ask(capsys, "latency", "trace", name, "--session", made.folder)
        assert code == 1 and words in again["error"]


def test_a_session_of_before_the_stamps_says_not_recorded(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite_stream(copied, "gateway", lambda entries: [entry for entry in entries if entry.kind != Entry.LEFT])
    code, found = ask(capsys, "latency", "trace", "1", "--session", copied)
    hops = {hop["hop"]: hop for hop in found["traces"][0]["hops"]}
    assert code == 0 and hops["bytes out"] == {"hop": "bytes out", "at_ns": None, "source": "not recorded"}
    assert hops["gateway took it"]["at_ns"]


def test_the_gate_keeps_as_many_orders_as_one_record_can_submit() -> None:
    assert max(2 * MAX_STRATEGIES, CLOCK_RECORDS) <= KEPT and KEPT & (KEPT - 1) == 0
