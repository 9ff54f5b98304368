"""What each figure of the metrics is: unit and meaning, by its place in metrics.jsonl (procs/metrics.py).

docs/reference/metrics.md is made from it; a test holds that no figure is without its entry. RING, HOP, PROCESS and
SYMBOL stand for a name.
"""

from __future__ import annotations

from procs.table import CHECKPOINTED

# (unit, meaning); amounts of money and prices are text, exact.
FIGURES: dict[str, tuple[str, str]] = {
    "at_ns": ("ns", "session time of this look, ns since the epoch"),
    "interval_ms": ("ms", "since the look before; 0 in the first of a monitoring process"),
    "mode": ("", "the mode in force: NORMAL, REDUCE, PAUSE, EMERGENCY; any emergency word reads EMERGENCY"),
    "emergency_word": ("", "0: none; else one bit a source in the low 16 bits, the number of trips above them"),
    "frames": ("count", "frames that ingestion took since the start"),
    "frames_per_second": ("1/s", "of the interval"),
    "feed.sockets_open": ("count", "connections for market data that are open"),
    "feed.losses": ("count", "times that data were lost with a connection, or that one could not be opened"),
    "feed.copy_losses": ("count", "times that a redundant copy was lost while another one was in service"),
    "feed.duplicates": ("count", "frames that another copy had brought"),
    "feed.misaligned": ("count", "frames that another copy had cut differently"),
    "feed.holes": ("count", "holes that no copy filled"),
    "feed.venue_lag_ms": ("ms", "the least that the venue's stamps were behind our receipt within 30 s; may be "
                          "negative, null when not known"),
    "signals": ("count", "targets of a strategy that changed"),
    "intents": ("count", "new orders that passed the gate, and cancels"),
    "sent": ("count", "new orders that execution gave to the gateway"),
    "open_orders": ("count", "orders that may be open now, UNKNOWN ones included"),
    "fills": ("count", "fills that the ledger has booked"),
    "pnl.realised": ("quote", "profit of what was closed, before fees"),
    "pnl.unrealised": ("quote", "profit of what is held, at the mark price (without one: at the mid)"),
    "pnl.fees": ("quote", "fees paid"),
    "pnl.funding": ("quote", "funding received, negative: paid"),
    "cash": ("quote", "wallet balance by the ledger"),
    "seen.trades": ("count", "public trades that monitoring saw in the ring of valid data"),
    "seen.predictions": ("count", "predictions that it saw"),
    "seen.orders": ("count", "records in the orders ring that it saw"),
    "seen.fills": ("count", "fills in the fills ring that it saw"),
    "validation.in": ("records", "that validation took"),
    "validation.accepted": ("records", "that it passed on"),
    "validation.quarantined": ("records", "that it refused"),
    "validation.dropped": ("records", "that it left out, for instance levels of an invalid book"),
    "validation.checksums_verified": ("count", "checksums of the venue that our books agreed with"),
    "validation.checksums_failed": ("count", "those that they did not agree with"),
    "validation.rate": ("part", "accepted of in; 1 before the first"),
    "rings.RING.produced": ("records", "that were written into the ring since the start"),
    "rings.RING.consumed": ("records", "that were taken out"),
    "rings.RING.dropped": ("records", "that found no room"),
    "rings.RING.in_flight": ("records", "produced less consumed"),
    "rings.RING.fill": ("part", "of the capacity that is in flight"),
    "rings.RING.per_second": ("1/s", "records written, of the interval"),
    "latency_us.HOP.count": ("count", "what passed the hop in the interval; a hop that nothing passed is left out"),
    "latency_us.HOP.p50": ("us", "half of them took no longer"),
    "latency_us.HOP.p99": ("us", "99 of 100 took no longer"),
    "latency_us.HOP.p99_9": ("us", "999 of 1000 took no longer"),
    "latency_us.HOP.max": ("us", "the longest"),
    "processes.PROCESS.pid": ("", "0: there is none now"),
    "processes.PROCESS.readiness": ("", "starting, ready, draining, stopped"),
    "processes.PROCESS.heartbeat_age_ms": ("ms", "since the last turn of its loop; null before the first"),
    "processes.PROCESS.progress": ("count", "work done, in the process's own measure"),
    "processes.PROCESS.per_second": ("1/s", "progress, of the interval"),
    "processes.PROCESS.restarts": ("count", "deaths that the supervisor saw"),
    "processes.PROCESS.pss_mb": ("MiB", "its share of memory (PSS), some ten seconds old at the most"),
    "processes.PROCESS.descriptors": ("count", "open files"),
    "instruments.SYMBOL.bid_price": ("quote", "best bid that the last prediction was made of; 0: none"),
    "instruments.SYMBOL.bid_size": ("base", "its size"),
    "instruments.SYMBOL.ask_price": ("quote", "best offer"),
    "instruments.SYMBOL.ask_size": ("base", "its size"),
    "instruments.SYMBOL.trade_price": ("quote", "of the last public trade"),
    "instruments.SYMBOL.position": ("base", "what we hold, negative: short"),
    "instruments.SYMBOL.unrealised": ("quote", "profit of it at the mark price"),
    "instruments.SYMBOL.output": ("", "what the model said last; see its card"),
    "instruments.SYMBOL.book.valid_ratio": ("part", "of the time since the first record with a valid book"),
    "instruments.SYMBOL.book.lost": ("count", "how often a valid book became invalid"),
    "instruments.SYMBOL.book.lost_per_hour": ("1/h", "the same, over a minute at the least"),
    "instruments.SYMBOL.book.audits_agreed": ("count", "times that the venue's ticker agreed with the book"),
    "instruments.SYMBOL.book.audits_disagreed": ("count", "times that it did not"),
}  # fmt: skip

# From where to where each hop of procs/table.py is measured.
HOP_TEXTS: dict[str, str] = {
    "ingestion": "frame off the socket -> its records published",
    "validation": "a batch in hand -> its records published",
    "features": "a batch in hand -> its vectors published",
    "ml": "a batch of vectors in hand -> the predictions published",
    "execution": "a batch in hand -> its orders published",
    "decision": "frame in hand at ingestion -> order intent published; one for each record that decided something",
    "wire": "order intent published -> its bytes out at the gateway",
    "frame_wire": "frame in hand at ingestion -> the order's bytes out",
    "call": "bytes out -> the venue's answer",
    **{f"checkpoint.{role.label}": f"what writing a checkpoint of {role.label} costs" for role in CHECKPOINTED},
}
