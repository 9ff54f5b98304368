"""How ingestion's connections are, in shared memory, for people: int64, one word a name of FEED_COUNTS.

One writer, the ingestion of now; its successor begins to count anew. Nothing that trades reads it.
"""

from __future__ import annotations

FEED_COUNTS = (
    "sockets_open",
    "losses",  # of data: the last copy of a socket that was in service was lost, or one could not be opened
    "copy_losses",  # of a copy while another one was in service
    "duplicates",  # frames that another copy had brought
    "misaligned",  # frames that another copy had cut differently
    "holes",  # that no copy filled
    "contradicted",  # numbers that the copy which had brought them went back behind
    "broken_messages",  # that came to no end, or in fragments out of place; each ended its connection
    "rest_refusals",  # requests for snapshots, listings, open interest and audits that brought nothing
)
