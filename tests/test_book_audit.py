"""The audit of books by the venue's ticker: against a plain reading of the rule, on recordings, and of wrong books."""

from __future__ import annotations

import bisect
import dataclasses
import random

import numpy as np
import pytest

from engine.config import MARKETS, Settings, settings_from
from engine.ingest.dialects import make_state
from engine.instruments import Dialect
from engine.reasons import Reason
from engine.records import Flag, Kind, Side
from engine.settings import SettingsError
from engine.validation.audit import TICKER_PLACES
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from procs.decoding import Decoder, replay_inputs
from procs.replay import open_source
from procs.venues.market import check_verified
from tests.market_records import MS, START_NS, level, make_instrument, record, run_stage
from tests.recordings import require_capture
from tools.status import _book_in_a_word

BUY, SELL = Side.BUY, Side.SELL
FIRST, LAST, ALONE = Flag.FIRST, Flag.LAST, Flag.FIRST | Flag.LAST
BID, ASK = 1000, 1100
INSTRUMENT = make_instrument()
RECORDED = (
    "ws/binance-spot/ethusdt_20240808.raw.gz", "ws/binance-usdm/btcusdt_20230404.raw.gz",
    "ws/binance-coinm/btcusd_perp_20240808.raw.gz",
)


def ticker(update_id: int, bid: tuple[int, int], ask: tuple[int, int]) -> np.ndarray:
    """A pair of QUOTE records."""
    return np.concatenate([
        record(Kind.QUOTE, side=side, price=price, size=size, sequence=update_id, flags=flags, recv_ts_ns=1)
        for side, (price, size), flags in ((BUY, bid, FIRST), (SELL, ask, LAST))
    ])


def snapshot(update_id: int, bid_size: int, ask_size: int) -> np.ndarray:
    return np.concatenate([
        level(BUY, BID, bid_size, Flag.SNAPSHOT | FIRST, sequence=update_id),
        level(SELL, ASK, ask_size, Flag.SNAPSHOT | LAST, sequence=update_id),
    ])


def audited(
    records: list[np.ndarray], chosen: ValidationSettings | None = None, dialect: Dialect = Dialect.BINANCE_USDM
) -> tuple[np.ndarray, np.void, np.void]:
    """(what validation writes, the audit, the whole state) of these records."""
    item = dataclasses.replace(INSTRUMENT, dialect=dialect)
    state = make_validation_state(chosen or ValidationSettings(), [item])
    out = run_stage(VALIDATION, state, np.concatenate([item.record(), *records]))
    return out, state[0]["audits"][0], state[0]


def verdicts(out: np.ndarray) -> list[tuple[Kind, Reason]]:
    found = out[(out["kind"] == Kind.BOOK_VALID) | (out["kind"] == Kind.BOOK_INVALID)]
    return [(Kind(row["kind"]), Reason(row["reason"])) for row in found]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_compared_is_the_touch_after_a_diff_with_the_last_ticker_not_beyond_it(seed: int) -> None:
    """Diffs that come late, some of them wrong, against a bisection over all tickers."""
    draw = random.Random(seed)
    sizes, history = [5, 5], {0: (5, 5)}
    for update_id in range(1, 400):
        sizes[draw.randrange(2)] = draw.randint(1, 9)
        history[update_id] = (sizes[0], sizes[1])
    told = [update_id for update_id in history if update_id and draw.random() < 0.7]
    diffs = sorted(draw.sample(range(1, 400), 60))
    records, expected = [snapshot(0, 5, 5)], []
    sent: list[int] = []  # tickers so far
    waiting: tuple[int, tuple[int, int]] | None = None

    def tell_until(update_id: int) -> None:
        nonlocal waiting
        while len(sent) < len(told) and told[len(sent)] <= update_id:
            number = told[len(sent)]
            if waiting is not None and number >= waiting[0]:
                expected.append(history[number if number == waiting[0] else sent[-1]] == waiting[1])
                waiting = None
            records.append(ticker(number, (BID, history[number][0]), (ASK, history[number][1])))
            sent.append(number)

    for update_id in diffs:
        tell_until(update_id + draw.randint(-5, 20))
        bid, ask = history[update_id]
        if draw.random() < 0.1:
            bid += 1  # the book is wrong from here to the next diff
        records.append(level(BUY, BID, bid, FIRST, sequence=update_id))
        records.append(level(SELL, ASK, ask, LAST, sequence=update_id))
        waiting = None
        if sent and sent[-1] >= update_id:
            at = bisect.bisect_right(sent, update_id) - 1
            if at >= 0 and at > len(sent) - 1 - TICKER_PLACES:
                expected.append(history[sent[at]] == (bid, ask))
        elif sent:
            waiting = update_id, (bid, ask)
    tell_until(400)
    out, audit, _ = audited(records, ValidationSettings(audit_disagreements=1_000))
    assert (audit["agreed"], audit["disagreed"]) == (expected.count(True), expected.count(False))
    assert expected.count(True) > 10 and expected.count(False) > 0
    assert verdicts(out) == [(Kind.BOOK_VALID, Reason.NONE)]


@pytest.mark.parametrize("late", [False, True])
def test_a_book_that_disagrees_again_and_again_is_invalid_and_asked_for_anew(late: bool) -> None:
    """A change is missing and no number tells: within three comparable diffs the ticker does."""
    records = [snapshot(10, 5, 5), ticker(10, (BID, 5), (ASK, 5))]
    for update_id in range(11, 15):
        quote = ticker(update_id, (BID, 8), (ASK, update_id))  # that the bid became 8 is what we missed
        diff = level(SELL, ASK, update_id, ALONE, sequence=update_id)
        records += [diff, quote] if late else [quote, diff]
    out, audit, state = audited(records)
    assert verdicts(out) == [(Kind.BOOK_VALID, Reason.NONE), (Kind.BOOK_INVALID, Reason.AUDIT_MISMATCH)]
    invalid = int(np.flatnonzero(out["kind"] == Kind.BOOK_INVALID)[0])
    assert out[invalid]["sequence"] == 13
    assert audit["wrong"] == 1 and audit["disagreed"] == 3
    assert state["instruments"]["resync_wanted"][0] == 1 and state["instruments"]["lost"][0] == 1
    taken = state["processed"] + state["quarantined"].sum() + state["dropped"].sum()
    assert state["records_in"] == taken and len(out) == state["out"]
    # A new snapshot, and the book is believed again.
    again = [*records, snapshot(20, 8, 20), ticker(20, (BID, 8), (ASK, 20)), level(SELL, ASK, 3, ALONE, sequence=21)]
    out, _, _ = audited([*again, ticker(21, (BID, 8), (ASK, 3)), ticker(22, (BID, 8), (ASK, 3))])
    assert verdicts(out)[2:] == [(Kind.BOOK_VALID, Reason.NONE)]


def test_disagreements_apart_from_each_other_do_no_harm_and_the_audit_can_be_switched_off() -> None:
    records = [snapshot(10, 5, 5)]
    for update_id in range(11, 40):
        wrong = update_id % 3 != 0
        records += [
            ticker(update_id, (BID, 6 if wrong else 5), (ASK, update_id)),
            level(SELL, ASK, update_id, ALONE, sequence=update_id),
        ]
    out, audit, _ = audited(records)
    assert verdicts(out) == [(Kind.BOOK_VALID, Reason.NONE)] and audit["disagreed"] > 15 > audit["in_a_row"]
    _, audit, _ = audited(records, ValidationSettings(ticker_audit=False, audit_disagreements=1))
    assert audit["disagreed"] == audit["agreed"] == 0


def test_a_gap_forgets_the_tickers_before_it() -> None:
    records = [
        snapshot(10, 5, 5), ticker(10, (BID, 9), (ASK, 9)), record(Kind.GAP, recv_ts_ns=1), snapshot(12, 5, 5),
        level(SELL, ASK, 6, ALONE, sequence=13), ticker(14, (BID, 5), (ASK, 6)),
    ]
    _, audit, _ = audited(records, ValidationSettings(audit_disagreements=1))
    assert audit["agreed"] == audit["disagreed"] == 0


@pytest.mark.recordings
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_books_are_audited_and_agree(name: str) -> None:
    source = open_source(require_capture(name), Settings())
    decoder = Decoder(make_state(source.instruments), source.instruments)
    state = make_validation_state(ValidationSettings(), source.instruments)
    groups = invalid = 0
    for count in replay_inputs(decoder, source.inputs()):
        if count:
            out = run_stage(VALIDATION, state, decoder.records[:count])
            levels = out[out["kind"] == Kind.LEVEL]
            groups += int(((levels["flags"] & (Flag.LAST | Flag.SNAPSHOT)) == Flag.LAST).sum())
            invalid += int((out["kind"] == Kind.BOOK_INVALID).sum())
    audit = state[0]["audits"][0]
    assert invalid == 0 and audit["disagreed"] == 0
    assert audit["agreed"] > (0.2 if "coinm" in name else 0.4) * groups and groups > 3_000


# --- a stream that dies alone -----------------------------------------------------------------------------------------

BOUND_MS = ValidationSettings().stalled_book_ms


def at_ms(ms: int, records: np.ndarray) -> np.ndarray:
    records["recv_ts_ns"] = START_NS + ms * MS
    return records


def alone(update_id: int, size: int, ms: int) -> np.ndarray:
    """A ticker of its own: the bid has so much."""
    return at_ms(ms, ticker(update_id, (BID, size), (ASK, 5)))


@pytest.mark.parametrize("dialect", [Dialect.BINANCE_USDM, Dialect.BINANCE_SPOT, Dialect.BINANCE_COINM])
def test_a_book_whose_stream_has_died_is_invalid_though_no_diff_comes(dialect: Dialect) -> None:
    records = [at_ms(0, snapshot(10, 5, 5)), *(alone(11 + k, 6 + k, 100 * k) for k in range(BOUND_MS // 100))]
    out, _, _ = audited(records, dialect=dialect)
    assert verdicts(out) == [(Kind.BOOK_VALID, Reason.NONE)]
    out, audit, state = audited([*records, alone(1_000, 7, BOUND_MS), alone(1_001, 8, BOUND_MS + 1)], dialect=dialect)
    assert verdicts(out) == [(Kind.BOOK_VALID, Reason.NONE), (Kind.BOOK_INVALID, Reason.STALLED_BOOK)]
    assert audit["stalled"] == 1 and audit["disagreed"] == 0
    assert state["instruments"]["resync_wanted"][0] == 1
    assert _book_in_a_word(state, 0) == "STALLED_BOOK"
    # The next snapshot is believed for as long again.
    more = [at_ms(BOUND_MS + 2, snapshot(2_000, 5, 5)), alone(2_001, 7, BOUND_MS + 3), alone(2_002, 7, 2 * BOUND_MS)]
    again = [*records, alone(1_000, 7, BOUND_MS), *more]
    assert verdicts(audited(again, dialect=dialect)[0])[2:] == [(Kind.BOOK_VALID, Reason.NONE)]
    stale = verdicts(audited([*again, alone(2_003, 7, 2 * BOUND_MS + 3)], dialect=dialect)[0])
    assert stale[3:] == [(Kind.BOOK_INVALID, Reason.STALLED_BOOK)]


def test_a_stream_that_is_late_by_as_much_is_found_too() -> None:
    records = [at_ms(0, snapshot(10, 5, 5))]
    for k in range(BOUND_MS // 50):
        records += [alone(100 + k, 6 + k, 100 * k), at_ms(100 * k, level(SELL, ASK, 5, ALONE, sequence=11 + k))]
    assert (Kind.BOOK_INVALID, Reason.STALLED_BOOK) in verdicts(audited(records)[0])


def test_a_ticker_leads_and_quiet_books_are_left_alone() -> None:
    """The ticker is always some way ahead; a change that was undone before a diff told of it needs none."""
    leads = [at_ms(0, snapshot(10, 5, 5))]
    for k in range(60):
        diff = level(BUY, BID, 6 + k, ALONE, sequence=12 + 2 * k)
        leads += [alone(11 + 2 * k, 6 + k, 400 * k), at_ms(400 * k + 300, diff)]
    quiet = [at_ms(0, snapshot(10, 5, 5)), alone(11, 9, 10), alone(12, 5, 20), alone(13, 8, 60_000)]
    quiet += [at_ms(60_100, level(BUY, BID, 8, ALONE, sequence=14)), alone(15, 8, 90_000), alone(15, 9, 99_000)]
    for records in (leads, quiet):
        assert verdicts(audited(records)[0]) == [(Kind.BOOK_VALID, Reason.NONE)]


def test_where_ids_of_ticker_and_book_cannot_be_compared_nothing_is_said() -> None:
    records = [at_ms(0, snapshot(10, 5, 5)), *(alone(11 + k, 6, 1_000 * k) for k in range(60))]
    for dialect in (Dialect.KRAKEN_SPOT_V2, Dialect.KRAKEN_FUTURES):
        assert verdicts(audited(records, dialect=dialect)[0]) == [(Kind.BOOK_VALID, Reason.NONE)]
    assert len(verdicts(audited(records, ValidationSettings(ticker_audit=False))[0])) == 1


# --- books that nothing proves --------------------------------------------------------------------------------------


def test_a_book_without_proof_is_marked_and_held_against_the_ticker_within_a_band() -> None:
    unproven = ValidationSettings(checksums=False, audit_band=0.01)
    near, far = ticker(0, (BID + 10, 1), (ASK, 1)), ticker(0, (BID + 20, 1), (ASK, 1))
    out, audit, state = audited([snapshot(0, 5, 5), near, far, far, near, far, far], unproven, Dialect.KRAKEN_SPOT_V2)
    assert verdicts(out) == [(Kind.BOOK_VALID, Reason.NONE)]
    assert out[out["kind"] == Kind.BOOK_VALID]["aux"].tolist() == [1], "as far as audits tell"
    assert (audit["agreed"], audit["disagreed"]) == (2, 4) and _book_in_a_word(state, 0) == "UNVERIFIED"
    out, audit, state = audited([snapshot(0, 5, 5), far, far, far], unproven, Dialect.KRAKEN_SPOT_V2)
    assert verdicts(out)[-1] == (Kind.BOOK_INVALID, Reason.AUDIT_MISMATCH)
    assert _book_in_a_word(state, 0) == "AUDIT_MISMATCH"
    # With its checksums verified nothing is left to the ticker.
    out, audit, state = audited([snapshot(0, 5, 5), far, far, far], dialect=Dialect.KRAKEN_SPOT_V2)
    assert verdicts(out) == [(Kind.BOOK_VALID, Reason.NONE)] and _book_in_a_word(state, 0) == "VALID"
    assert out[out["kind"] == Kind.BOOK_VALID]["aux"].tolist() == [0] and audit["disagreed"] == 0


def test_books_that_nothing_proves_are_traded_on_only_when_that_is_said() -> None:
    for market in MARKETS:
        venue = {"market": market, "embedded": False, "rest_url": "https://a", "ws_url": "wss://a"}
        check_verified(settings_from({"venue": venue}))
        without = {"venue": venue, "validation": {"checksums": False}}
        if not market.startswith("kraken_spot"):
            check_verified(settings_from(without))
            continue
        with pytest.raises(SettingsError, match=rf"accept_unverified = false: books of {market} are unverified"):
            check_verified(settings_from(without))
        check_verified(settings_from(without | {"feed": {"accept_unverified": True}}))
