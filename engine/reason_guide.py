"""What each reason code means to people: who gives it, what happened, and what to do about it.

Apart from reasons.py, which every kernel imports; a test holds that no reason is without its entry.
docs/reference/reasons.md is made from it.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.reasons import Reason

INGESTION, VALIDATION, FEATURES = "ingestion", "validation", "features"
GATE, GATEWAY, VENUE = "risk gate", "gateway", "venue"
_VENUE_CHANGED = "Look at the frame in the quarantine: its format has changed, or something altered it on its way."
_BY_ITSELF = "Nothing: the book begins anew by itself. Often: the connection is bad, or the feed is."


class Guide(NamedTuple):
    """One reason, in words."""

    givers: tuple[str, ...]
    meaning: str
    remedy: str


GUIDE: dict[Reason, Guide] = {
    Reason.NONE: Guide((), "Not refused.", "Nothing."),
    Reason.BAD_JSON: Guide(
        (INGESTION, GATEWAY), "A frame is not the JSON that the venue documents. On the private stream it trips: what "
        "happened to our orders cannot be read.", _VENUE_CHANGED,
    ),
    Reason.UNKNOWN_STREAM: Guide(
        (INGESTION, VALIDATION, FEATURES, "execution"), "A frame or record of a kind that was not asked for or does "
        "not belong there.", _VENUE_CHANGED,
    ),
    Reason.UNKNOWN_SYMBOL: Guide(
        (INGESTION,), "Data of an instrument that is not in venue.symbols.",
        "Nothing in a part of a recording; live, look at what the venue sent.",
    ),
    Reason.BAD_NUMBER: Guide(
        (INGESTION, "execution"), "A number with more digits than the instrument has, or none at all; an id or term of "
        "an instrument that cannot be.", "If the venue changed its precision, restart: units are fixed for a session.",
    ),
    Reason.FRAME_TOO_LARGE: Guide(
        (INGESTION,), "A frame with more levels than the decoder has room for.",
        "Subscribe less depth (feed.book_levels); else report it.",
    ),
    Reason.RING_FULL: Guide(
        (INGESTION,), "The market ring was full: the frame was dropped, a GAP stands in its place and the books "
        "concerned begin anew.", "Give the engine cores of its own, or more memory (engine.memory_budget_mib).",
    ),
    Reason.STALE_DIFF: Guide(
        (INGESTION,), "A diff that the snapshot already contains.", "Nothing: it is so at the start of every book.",
    ),
    Reason.SEQUENCE_GAP: Guide(
        (INGESTION, VALIDATION), "Diffs are missing between two that came; the book is not right from there on.",
        _BY_ITSELF,
    ),
    Reason.DUPLICATE: Guide(
        (INGESTION, VALIDATION), "A trade or diff that was seen before.",
        "Nothing; many of them mean that a connection brings everything twice.",
    ),
    Reason.SNAPSHOT_TOO_OLD: Guide(
        (INGESTION,), "A snapshot from before the first diff that waits for it.", "Nothing: another one is asked for.",
    ),
    Reason.PENDING_OVERFLOW: Guide(
        (INGESTION,), "Too many diffs while a book waited for its snapshot; it waits anew.",
        "See why snapshots come late: the rate budget in `bot4 status --json`, the venue's REST.",
    ),
    Reason.NEW_EPOCH: Guide(
        (VALIDATION,), "Tick, lot or filters of the instrument changed: its book begins anew.", "Nothing.",
    ),
    Reason.BELOW_THRESHOLD: Guide(
        (INGESTION,), "A liquidation smaller than feed.liquidation_min_usd.", "Nothing: it was asked for.",
    ),
    Reason.PRICE_RANGE: Guide(
        (VALIDATION, "execution"), "A price that is zero, negative or beyond the band around the running median; as a "
        "reason of a book: the price of a level.", "Look at the frame. If it is right, widen validation.band_fraction.",
    ),
    Reason.SIZE_RANGE: Guide(
        (VALIDATION, GATE, "execution"), "A size that is negative, beyond validation.size_max, or (an order) not of "
        "whole lots.", "Look at the frame; for an order look at maker.order_value against the lot.",
    ),
    Reason.OFF_TICK: Guide(
        (VALIDATION, GATE), "A price that does not lie on the instrument's tick.",
        "Nothing where the tick has just changed: the listing is read again (feed.listing_refresh_s).",
    ),
    Reason.TIME_BACKWARDS: Guide(
        (VALIDATION,), "Data that were received earlier than data before them.",
        "In a recording: it was merged wrongly. Live: report it.",
    ),
    Reason.NO_INSTRUMENT: Guide(
        (VALIDATION, FEATURES, "execution"), "Data of an instrument whose INSTRUMENT record has not come.",
        "In a capture: its beginning is missing. Live: report it.",
    ),
    Reason.CROSSED_BOOK: Guide(
        (VALIDATION,), "The best bid is above the best ask: the book is wrong.", _BY_ITSELF,
    ),
    Reason.BAD_SIDE: Guide((VALIDATION,), "Neither buyer nor seller.", _VENUE_CHANGED),
    Reason.NO_SNAPSHOT: Guide(
        (INGESTION, VALIDATION, FEATURES), "A level without a whole snapshot to stand on; as a book's state: it has "
        "not begun.", "Nothing at a start; else see why no snapshot comes (PENDING_OVERFLOW, UNKNOWN_SYMBOL).",
    ),
    Reason.BOOK_INCOMPLETE: Guide(
        (VALIDATION, FEATURES), "The book had to forget far levels that it now needs.", _BY_ITSELF,
    ),
    Reason.BEYOND_SNAPSHOT: Guide(
        (VALIDATION,), "The best bid or best ask is worse than the last level of the snapshot, which the venue's limit "
        "had cut: a better one may be there that nobody told of.", "Nothing: the book begins anew by itself, from a "
        "snapshot around where the market is now. validation.snapshot_reach switches the rule off.",
    ),
    Reason.STALLED_BOOK: Guide(
        (VALIDATION,), "The venue's ticker is ahead of the book, differs from it, and no update has caught up for "
        "validation.stalled_book_ms: the stream of the book is dead or late.",
        _BY_ITSELF + " If it comes again and again, the stream stays dead: start anew, and report it.",
    ),
    Reason.RATE_RANGE: Guide(
        (VALIDATION,), "A funding rate beyond validation.funding_rate_max.",
        "See whether the venue pays that; if so, raise the bound.",
    ),
    Reason.ORDER_VALUE: Guide(
        (GATE,), "An order above gate.max_order_value, or below the least that the venue takes.",
        "Bring maker.order_value between the two.",
    ),
    Reason.POSITION_LIMIT: Guide(
        (GATE,), "With all open orders of its side filled the position would exceed gate.max_position_value; a "
        "reduce-only order would do more than close.", "Nothing: the limit works. It is on you to raise it.",
    ),
    Reason.PRICE_COLLAR: Guide(
        (GATE,), "A price further than gate.price_collar_bps from the mid or the mark price.",
        "Nothing: the limit works. Often: mark price and book do not belong together.",
    ),
    Reason.MESSAGE_RATE: Guide(
        (GATE,), "More requests than gate.max_messages_per_second and gate.message_burst allow.",
        "Let the strategy quote less often (maker.min_quote_life_ms), or raise the limit within the venue's.",
    ),
    Reason.STALE_DATA: Guide(
        (GATE,), "The book is older than gate.max_data_age_ms, or not right.",
        "See the book's state in `bot4 status`, and the hops in `bot4 latency`.",
    ),
    Reason.NOT_TRADING: Guide(
        (GATE,), "Nothing may be entered: by mode, a trip, the end of the session, a process that is missing, a halt "
        "of the instrument, or before the venue has told what we hold.", "`bot4 status` says which.",
    ),
    Reason.TOO_MANY_ORDERS: Guide(
        (GATE,), "execution.max_open_orders are open, UNKNOWN ones included.",
        "See whether orders stay UNKNOWN: the venue does not answer.",
    ),
    Reason.BACKLOG: Guide(
        (GATE,), "The rings to or from the gateway are half full.",
        "The venue answers too slowly: see hop `call` in `bot4 latency`.",
    ),
    Reason.DENIED_EMERGENCY: Guide(
        (GATEWAY,), "The emergency word was set when the order was about to leave.",
        "`bot4 status` says who tripped; docs/operator.md how to come back.",
    ),
    Reason.DENIED_LATE: Guide(
        (GATEWAY,), "The order was older than execution.max_decision_age_ms when it was about to leave.",
        "See hop `wire` in `bot4 latency`: the gateway waits for the venue or for a core.",
    ),
    Reason.DENIED_MODE: Guide(
        (GATEWAY,), "REDUCE lets out only what reduces, PAUSE only cancels and protective orders.",
        "Nothing: `bot4 mode` changes it.",
    ),
    Reason.DENIED_RATE_BUDGET: Guide(
        (GATEWAY,), "What is left of the venue's rate limits is kept for cancels and questions, or the venue has "
        "banned us for a while.", "Send less; see the rate budget in `bot4 status --json`, and who shares the address.",
    ),
    Reason.DENIED_INTENT: Guide(
        (GATEWAY,), "The signed request was not what execution had decided. It was not sent, and it trips.",
        "Do not trade on: report it with the session's folder.",
    ),
    Reason.VENUE_REJECTED: Guide(
        (VENUE,), "The venue refused it with a code that has no reason of its own here.",
        "The answer stands in the gateway's journal.",
    ),
    Reason.WOULD_TAKE: Guide(
        (VENUE,), "A post-only order that would have matched: the market moved on its way.",
        "Nothing: it is quoted anew.",
    ),
    Reason.INSUFFICIENT_MARGIN: Guide(
        (VENUE,), "The account has too little margin for it.", "Fund the account, or lower gate.max_position_value.",
    ),
    Reason.UNKNOWN_ORDER: Guide(
        (VENUE,), "The venue does not know the order: it was done before the cancel came, or never existed.",
        "Nothing: what became of it is asked for.",
    ),
    Reason.RATE_LIMITED: Guide(
        (VENUE,), "The venue says that we send too much.", "See whether others use the same key or address.",
    ),
    Reason.VENUE_UNREACHABLE: Guide(
        (GATEWAY,), "No answer: the order may exist or not. It is UNKNOWN and is asked for.",
        "Nothing at first; see the network and the venue's page of outages.",
    ),
    Reason.VENUE_ERROR: Guide(
        (GATEWAY, "execution"), "The venue answered with a server error or something that cannot be understood, or a "
        "fill that does not fit its order.", "As above; the answer stands in the gateway's journal.",
    ),
    Reason.CHECKSUM_MISMATCH: Guide((VALIDATION,), "The venue's checksum is not that of our book.", _BY_ITSELF),
    Reason.EMPTY_SNAPSHOT: Guide(
        (INGESTION,), "A snapshot without any level.", "Nothing: the book stays invalid until there is one.",
    ),
    Reason.LOCKED_BOOK: Guide(
        (VALIDATION,), "The best bid is the best ask.", _BY_ITSELF + " validation.locked_books switches the rule off.",
    ),
    Reason.AUDIT_MISMATCH: Guide(
        (VALIDATION,), "The venue's ticker disagreed with our book validation.audit_disagreements times in a row.",
        _BY_ITSELF,
    ),
    Reason.REST_MISMATCH: Guide(
        (VALIDATION,), "Snapshots by REST disagreed with our book validation.rest_audit_disagreements times in a row.",
        _BY_ITSELF,
    ),
    Reason.SELF_TRADE: Guide(
        (GATE,), "The order would have taken an order of our own.",
        "Nothing: it is not sent. Often: two strategies trade against each other.",
    ),
    Reason.ENDED_PROCESS: Guide(
        ("execution",), "The process of a strategy had said it and ended before it was taken; it counts no more.",
        "Nothing: its successor says what it wants.",
    ),
    Reason.STRATEGY_FAULT: Guide(
        ("execution",), "A strategy raised an error or wanted what is no price or size; its quotes were taken back.",
        "Mend the strategy; its test, or a replay of the session, shows where.",
    ),
}  # fmt: skip
