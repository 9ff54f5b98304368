"""`bot4 play` as a person meets it, and a stock client that knows nothing of the player."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import ccxt.pro
import orjson
import pytest
import requests
import websocket

from procs.embedded.server import VenueAddress
from tests.embedded_venue import ccxt_client
from tests.playing import desk, diff, run, write
from tests.recordings import USDM_CAPTURES, open_capture, require_capture
from tools import cli

ROOT = Path(__file__).resolve().parent.parent


def test_the_command_plays_and_ends_when_asked(tmp_path: Path) -> None:
    frames = [diff(number) for number in range(1, 50)]
    path = write(tmp_path / "a.raw", *frames)
    arguments = (
        "play", str(path), "--port", "0", "--speed", "max", "--fault", "drop@7", "--seed", "3", "--json", "--orders",
        "--latency", "5",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.cli", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = orjson.loads(process.stdout.readline())
        assert (ready["venue"], ready["items"], ready["streams"]) == ("BINANCE_USDM", 49, ["btcusdt@depth"])
        assert len(ready["api_key"]) == len(ready["secret"]) == 64 and ready["torn_bytes"] == 0
        client = websocket.create_connection(ready["ws_url"] + "/public/stream?streams=btcusdt@depth@0ms", timeout=20)
        assert [client.recv() for _ in frames[1:]] == [frame.decode() for frame in frames if frame != frames[6]]
        assert client.recv_data()[0] == websocket.ABNF.OPCODE_CLOSE
        state = requests.get(ready["rest_url"] + "/bot4/player", timeout=20).json()
        assert state["account"]["wallet"] == "100000.00000000"
        assert state["ended"] and [(note["ordinal"], note["kind"]) for note in state["injected"]] == [(7, "drop")]
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, output, errors) == (0, b"", b"")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("absent.raw",), "absent.raw: there is no such file"),
        (("a.raw", "--port", "70000"), "--port 70000: allowed are 0 to 65535"),
        (("a.raw", "--speed", "fast"), "--speed fast: allowed are max, or a factor"),
        (("a.raw", "--fault", "explode=1"), "--fault 'explode=1': allowed are KIND[:PART]=RATE[,MS]"),
        (("a.raw", "--fault", "drop=7"), "a rate is a number from 0 to 1"),
        (("a.raw", "--from", "9", "--to", "9"), "--from: allowed is a time before that of --to"),
        (("a.raw", "--latency", "5"), "of orders, which --orders lets the player take"),
        (("a.raw", "--orders", "--latency", "-1"), "--latency -1: allowed are 0 to 60000 ms"),
    ],
)  # fmt: skip
def test_usage_that_makes_no_sense_exits_with_2(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.raw", diff(1))
    assert cli.main(["play", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_part_is_asked_for_as_for_a_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.raw", *(diff(number) for number in range(5)))
    assert cli.main(["play", str(path), "--symbols", "ETHUSDT"]) == 1
    assert "holds no ETHUSDT; it holds BTCUSDT" in capsys.readouterr().err
    assert cli.main(["play", str(path), "--symbols", "BTCUSDT", "--from", "1700000000.005"]) == 1
    assert "nothing in it is of the times and symbols asked for" in capsys.readouterr().err


def test_what_cannot_be_played_exits_with_1_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.raw"
    path.write_bytes(b"<html>maintenance</html>\n")
    assert cli.main(["play", str(path), "--json"]) == 1
    assert f"{path}, line 1: not a line of a session log" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["play", str(write(path, diff(1))), "--port", str(port)]) == 1
    assert f"port {port} is already in use" in capsys.readouterr().err


@pytest.mark.recordings
def test_a_stock_client_keeps_the_venues_book() -> None:
    """ccxt with nothing but its URLs changed: after each update its best prices are those of a recorded ticker."""
    path = require_capture(USDM_CAPTURES[0])
    quotes = set()
    for _, frame in itertools.islice(open_capture(path), 3_000):
        if b"@bookTicker" in frame[:40]:
            data = orjson.loads(frame)["data"]
            quotes.add((float(data["b"]), float(data["B"]), float(data["a"]), float(data["A"])))

    async def play() -> None:
        async with desk([path], begin_after_s=0.1, speed=4.0) as at:
            address = VenueAddress(at.url, at.url.replace("http", "ws"), "", "")
            client: Any = ccxt_client(address, ccxt.pro.binanceusdm)
            client.options["fetchMarkets"] = {"types": ["linear"]}
            try:
                await client.load_markets()
                for _ in range(60):
                    book = await asyncio.wait_for(client.watch_order_book("BTC/USDT:USDT"), 20)
                    assert (*book["bids"][0][:2], *book["asks"][0][:2]) in quotes
            finally:
                await client.close()

    run(play())
