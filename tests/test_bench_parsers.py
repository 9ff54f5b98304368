"""The peers of `bench decode` really parse: their book ends where a dict that takes the same frames ends."""

from __future__ import annotations

from decimal import Decimal
from itertools import islice

import orjson
import pytest

from tests.recordings import USDM_CAPTURES, open_capture, require_capture
from tools.bench.parsers import PARSERS, Parser
from tools.bench.report import BenchError

pytestmark = pytest.mark.recordings


@pytest.mark.parametrize("made", PARSERS)
def test_a_parser_keeps_the_book(made: type[Parser]) -> None:
    parser = made()
    try:
        assert parser.version
    except BenchError as error:
        pytest.skip(str(error))
    frames = [frame for _, frame in islice(open_capture(require_capture(USDM_CAPTURES[1])), 6_000)]
    snapshot = next(frame for frame in frames if frame.startswith(b'{"lastUpdateId"'))
    depth = [frame for frame in frames if b'"depthUpdate"' in frame[:90]]
    parser.begin("BTCUSDT", snapshot)
    parser.take(depth)
    whole = orjson.loads(snapshot)
    book = {side: dict(map(tuple, whole[side])) for side in ("bids", "asks")}
    for frame in depth:
        data = orjson.loads(frame)["data"]
        if data["u"] < whole["lastUpdateId"]:
            continue
        for side, key in (("bids", "b"), ("asks", "a")):
            for price, size in data[key]:
                book[side].pop(price, None)
                if Decimal(size):
                    book[side][price] = size
    best = max(map(Decimal, book["bids"])), min(map(Decimal, book["asks"]))
    assert parser.touch == best
