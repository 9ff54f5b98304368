"""The wire player: a recording served as its venue's own WebSocket and REST endpoints on loopback.

    sequence.py    one thing of a recording, and in what order things come
    faults.py      faults over such a sequence, pure and seeded
    sources.py     what is read: capture files, session logs, captures of our own
    recording.py   sources to sequence, and a first pass that learns what they hold
    listing.py     lists of instruments, of what a capture says it is of
    venue.py       what a played venue has to know; binance.py, kraken_spot.py, kraken_futures.py are the venues
    trading.py     an account beside the recording: its market, orders, answers and events
    account_door.py  requests to it, with their latency, and its user data stream
    server.py      sockets, pace, REST

Frames are never changed, except by a fault that was asked for. What the player decides:

- One timeline for everybody. It begins when every stream of the recording has a listener, or some time after the
  first subscription, so that a client with several sockets misses nothing. Nobody is waited for after that.
- A late subscriber of Binance hears what comes from then on, as at the venue. A late subscriber of a Kraken book first
  gets a snapshot of the book as it stands, in the venue's form; one in time gets the recorded snapshot at its place.
- A client that does not read holds the timeline up, until it is cut off; so nothing is dropped, and nothing piles up.
- Acknowledgements and greetings are sent when a client asks or connects: recorded ones where there are, else in the
  venue's form. What was not recorded is refused where the venue refuses (Kraken) and silent where it is (Binance).
- Binance's update speeds make no difference: who asks for depth@0ms hears a recorded depth@100ms.
- A depth snapshot (REST) that was recorded is the answer to who waits for it, at its place. At any other time the
  answer is made from a book that the player keeps, as text, with code of its own: the last recorded snapshot and the
  diffs since; where none was recorded, the levels that diffs have told so far. lastUpdateId is that of the last diff,
  so the next one follows on it by every market's rule.
- Where an account takes orders (USD-M), they fill beside the recorded book by the queue rule of
  docs/decisions/0007-queue-rule-of-the-wire-player.md; no frame and no snapshot is another for it.
- At the end every socket is closed with code 1000. REST goes on answering, new sockets get HTTP 503.
- What lies before --from is read for the books and not played; with --symbols, what is of others is not played.
- A connection that a capture of ours says was lost breaks there, for the clients too, and can be made again where the
  capture opens it again; a timeline that never waits then waits a while for those whom it has cut off.
- A file that cannot be read to its end is an error before the first port is opened. The torn end of a capture is none:
  what is whole is played, and so is what was whole at the start of a capture that is being written.
"""
