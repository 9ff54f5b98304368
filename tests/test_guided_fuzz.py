"""Coverage-guided fuzzing: the interpreted decoders are the compiled ones bit for bit, and what is planted is found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.ingest.kraken_state import KRAKEN_DIALECTS
from engine.ingest.state import MAX_LEVELS_PER_FRAME
from engine.instruments import Dialect
from engine.kernel import checked_mode
from procs.embedded.mix import Draws
from tools.soak import guided
from tools.soak.accidents import mutated
from tools.soak.body_targets import BODIES
from tools.soak.decoder_targets import TURNS_BESIDE, NumberTarget, SessionTarget, Unsound
from tools.soak.interpreted import Buffer, EndlessLoop, Interpreter
from tools.soak.rewriting import wrapped
from tools.soak.seeds import INSTRUMENTS, SESSIONS
from tools.soak.tally import Piece
from tools.soak.target_table import TARGET_NAMES, make_target

needs_atheris = pytest.mark.skipif(not guided.is_there(), reason="atheris is not installed (pip install '.[fuzz]')")


@pytest.mark.parametrize("name", TARGET_NAMES)
def test_made_frames_and_accidents_to_them_are_sound(name: str) -> None:
    target = make_target(name)
    for seed in target.seeds:
        target.run(seed)
    assert target.answers["taken"] >= len(target.seeds) // 3
    draws = Draws(11, 0)
    for _ in range(150):
        target.run(mutated(draws.choice(target.seeds), target.seeds, draws))
    kinds = 1 if name == "ANSWERS" else 2
    assert sum(target.answers.values()) >= 150 and len(target.answers) >= kinds


def too_large(dialect: Dialect) -> bytes:
    """A snapshot with one level more than a frame may have."""
    symbol, levels = INSTRUMENTS[dialect][0].symbol, MAX_LEVELS_PER_FRAME + 1
    pairs = ",".join(['["1","1","1"]'] * levels)
    objects = ",".join(['{"price":1,"qty":1}'] * levels)
    if dialect == Dialect.KRAKEN_SPOT_V1:
        return f'[1,{{"as":[{pairs}],"bs":[]}},"book-1000","{symbol}"]'.encode()
    if dialect == Dialect.KRAKEN_SPOT_V2:
        element = f'{{"symbol":"{symbol}","bids":[{objects}],"asks":[]}}'
        return f'{{"channel":"book","type":"snapshot","data":[{element}]}}'.encode()
    if dialect == Dialect.KRAKEN_FUTURES:
        head = f'"feed":"book_snapshot","product_id":"{symbol}","seq":1,"timestamp":1'
        return f'{{{head},"bids":[{objects}],"asks":[]}}'.encode()
    return f'{{"lastUpdateId":1,"bids":[{pairs}],"asks":[]}}'.encode()


# What the docstrings of the decoders and of the sequence rules name. Nothing else refuses or drops; RING_FULL is what a
# full ring does, not a decoder, and PENDING_OVERFLOW needs more waiting frames than an input of the fuzzer has
# (tests/test_ingest_sequence.py reaches it).
REFUSALS = {"BAD_JSON", "BAD_NUMBER", "UNKNOWN_STREAM", "UNKNOWN_SYMBOL", "FRAME_TOO_LARGE"}
DROPS = {
    Dialect.BINANCE_SPOT: {"STALE_DIFF", "DUPLICATE", "SEQUENCE_GAP", "SNAPSHOT_TOO_OLD"},
    Dialect.BINANCE_USDM: {"STALE_DIFF", "DUPLICATE", "SEQUENCE_GAP", "SNAPSHOT_TOO_OLD", "BELOW_THRESHOLD"},
    Dialect.BINANCE_COINM: {"STALE_DIFF", "DUPLICATE", "SEQUENCE_GAP", "SNAPSHOT_TOO_OLD", "BELOW_THRESHOLD"},
    Dialect.KRAKEN_SPOT_V1: {"NO_SNAPSHOT"},  # its trades have no ids
}


@pytest.mark.parametrize("dialect", SESSIONS)
def test_every_reason_is_reached_and_no_other(dialect: Dialect) -> None:
    target = make_target(dialect.name)
    assert isinstance(target, SessionTarget)
    symbol = INSTRUMENTS[dialect][1].symbol.encode()
    for seed in target.seeds:
        for wrong in (
            seed, seed[:-1], seed.replace(b"100.", b"0.00000000000001"), seed.replace(symbol, b"NOBODY"),
            seed.replace(b'"trade"', b'"kline"'),
        ):
            target.run(wrong)
    target.run(too_large(dialect))
    kraken = {"EMPTY_SNAPSHOT"} if dialect in KRAKEN_DIALECTS else set()
    assert set(target.answers) - {"taken"} == REFUSALS | kraken
    assert dialect not in DROPS or set(target.drops) == DROPS[dialect]


# Each reads one word or number wrongly.
PLANTED = {
    "the aggressor": (Dialect.BINANCE_SPOT, "engine.ingest.binance", "== LOWER_T else BUY", "== LOWER_F else BUY"),
    "the asks": (Dialect.KRAKEN_SPOT_V1, "engine.ingest.kraken_spot_v1", '"a", "b", "as"', '"as", "b", "a"'),
}  # fmt: skip


def planted(name: str) -> SessionTarget:
    dialect, module, old, new = PLANTED[name]
    return SessionTarget(dialect, Interpreter({module: (old, new)}))


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_misread_word_is_found_among_the_made_frames(name: str) -> None:
    target = planted(name)
    with pytest.raises(Unsound, match=r"differ|answers"):
        for seed in target.seeds:
            target.run(seed)


def test_what_reads_without_end_is_found() -> None:
    source = "        position += 1\n    return position\n"
    interpreter = Interpreter({"engine.ingest.json_scan": (source, source.replace("1", "0"))})
    with pytest.raises(Unsound, match="EndlessLoop"):
        SessionTarget(Dialect.BINANCE_USDM, interpreter).run(b" {}")


def test_a_read_outside_the_frame_is_found() -> None:
    source = "if position >= size or byte_at(text, position) != QUOTE:\n        return -1"
    interpreter = Interpreter({"engine.ingest.members": (source, source.replace("position >= size or ", ""))})
    interpreter.hold(b"ab", TURNS_BESIDE)
    text = interpreter.module("engine.ingest.json_scan").text_of(interpreter._frame)
    with pytest.raises(IndexError):
        interpreter.module("engine.ingest.members").name_index(text, 2, memoryview(np.zeros((1, 4), np.uint8)))


def test_a_refusal_that_changes_the_state_is_found() -> None:
    """The invariants are judged on the compiled state, so both must have it: it is changed from outside here."""
    target = make_target("BINANCE_USDM")
    assert isinstance(target, SessionTarget)
    target.run(b"{}")
    for words in target._words:
        words[:] = target._fresh.view(np.int64)
    target._out = 0
    target._states[0]["processed"] += 1
    target._states[1]["processed"] += 1
    with pytest.raises(Unsound, match="accounted for"):
        target._give(b"{}", 1)


@pytest.mark.parametrize(("value", "expected"), [(2**63 - 1, 2**63 - 1), (2**63, -(2**63)), (-(2**63) - 1, 2**63 - 1)])
def test_integers_wrap_as_int64(value: int, expected: int) -> None:
    assert wrapped(value) == expected == int(np.array([value % 2**64], np.uint64).view(np.int64)[0])
    assert wrapped(1.5) == 1.5


def test_records_hold_what_fits_and_nothing_else() -> None:
    array = np.zeros(3, [("price", "<i8"), ("instrument", "<u2"), ("kind", "u1"), ("side", "i1"), ("rest", "u1", (4,))])
    rows = Buffer(array[:2].astype(array.dtype)).view(array.dtype)
    rows[1].price, rows[1].instrument, rows[1].side = -5, 65_535, -1
    rows[0] = rows[1]
    assert (rows[0].price, rows[0].instrument, rows[0].side) == (-5, 65_535, -1)
    for name, value in (("price", 2**63), ("instrument", 65_536), ("kind", -1), ("side", 128)):
        with pytest.raises(ValueError, match=r"range|format"):
            setattr(rows[0], name, value)
    for at in (-1, 2):
        with pytest.raises(IndexError):
            rows[at]


def test_an_edit_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 times"):
        Interpreter({"engine.ingest.rows": ("no such text", "")}).module("engine.ingest.rows")


def test_a_frame_is_read_within_its_bounds_and_turns_are_counted() -> None:
    interpreter = Interpreter()
    scan = interpreter.module("engine.ingest.json_scan")
    interpreter.hold(b'"ab"', 3)
    text = scan.text_of(interpreter._frame)
    assert scan.byte_at(text, 1) == ord("a")
    with pytest.raises(IndexError):
        scan.byte_at(text, 4)
    assert scan.string_end(text, 0) == 3
    with pytest.raises(EndlessLoop):
        scan.string_end(text, 0)
    interpreter.hold(b'"ab"', 3)
    assert scan.string_end(scan.text_of(interpreter._frame), 0) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [("decimals += 1\n            if digit == 0", "decimals += 2\n            if digit == 0"),
     ("mantissa > INT64_MAX - digit", "mantissa > INT64_MAX - 9")],
)  # fmt: skip
def test_a_number_read_wrongly_is_found(old: str, new: str) -> None:
    target = NumberTarget(Interpreter({"engine.ingest.json_scan": (old, new)}))
    with pytest.raises(Unsound):
        for seed in target.seeds:
            target.run(seed)


@pytest.mark.parametrize(
    ("text", "reader", "told"),
    [(b"1.5,", 0, (15, 0, 3)), (b"1.5,", 0, None), (b"1x", 0, (1, 0, 1)), (b"1.5,", 1, (150, 2, 3)),
     (b"15e-1,", 2, (14, 0, 5)), (b"1.5,", 0, (150, 0, 4))],
)  # fmt: skip
def test_the_judge_of_numbers_can_fail(text: bytes, reader: int, told: tuple[int, int, int] | None) -> None:
    with pytest.raises(Unsound):
        NumberTarget._judge_number(text, 2, reader, told)


def test_the_judge_of_times_can_fail() -> None:
    NumberTarget._judge_time(b'"1970-01-02T00:00:00Z"', 86_400 * 10**9)
    for text, told in ((b'"1970-01-02T00:00:00Z"', 0), (b'"1970-01-02T00:00:00Z"', None), (b'"x"', 5),
                       (b'"1970-01-02T24:00:00Z"', 1)):  # fmt: skip
        with pytest.raises(Unsound):
            NumberTarget._judge_time(text, told)


def test_the_seeds_are_small_and_of_every_dialect() -> None:
    assert set(SESSIONS) == set(Dialect)
    assert sum(len(seed) for name in TARGET_NAMES for seed in make_target(name).seeds) < 200_000
    assert len(BODIES) + len(Dialect) + 1 == len(TARGET_NAMES)


def test_a_piece_counts_what_is_new_and_is_one_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOT4_RECORDINGS", str(tmp_path))
    calls: list[tuple[str, ...]] = []

    def call(piece: Piece, checks: bool, limit_s: float, *arguments: str) -> tuple[int, str, str]:
        calls.append(arguments)
        if arguments[0] == "check":
            return 0, '{"inputs": 3, "unsound": 0, "checked": false, "ways": 90, "ways there are": 244}', ""
        errors = (
            "#141\tINITED cov: 300 ft: 310 corp: 60/1Kb exec/s: 0 rss: 170Mb\n"
            "#900\tNEW    cov: 301 ft: 311 corp: 61/1Kb lim: 4096 exec/s: 900 rss: 170Mb L: 4/9 MS: 1 Custom-\n"
            "#5141\tDONE   cov: 302 ft: 312 corp: 62/1Kb lim: 4096 exec/s: 900 rss: 170Mb\n"
        )
        return 0, '{"checked": true}\n', errors

    monkeypatch.setattr(guided, "_call", call)
    monkeypatch.setattr(guided, "is_there", lambda: True)
    seed = TARGET_NAMES.index("NUMBERS") + 2 * len(TARGET_NAMES)
    piece = Piece(seed, 3600.0, tmp_path / "piece")
    guided.run_atheris(piece)
    assert not piece.violations
    assert piece.counts == {"NUMBERS": 5_000, "NUMBERS replayed": 3}
    assert piece.worst == {"NUMBERS features": 312, "NUMBERS corpus": 62, "NUMBERS ways": 90}
    (_, fuzzed, *options), (_, checked, *_) = calls
    assert fuzzed == checked == "NUMBERS"
    assert f"-max_total_time={guided.PIECE_S - 15:.0f}" in options


def test_the_build_without_checks_is_the_one_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels compiled with NUMBA_BOUNDSCHECK=0 have another stamp than those compiled without it."""
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    assert "NUMBA_BOUNDSCHECK" not in guided.environment_of(False)
    monkeypatch.delenv("NUMBA_BOUNDSCHECK")
    assert guided.environment_of(True)["NUMBA_BOUNDSCHECK"] == "1"


@needs_atheris
def test_a_piece_tells_a_violation_and_how_to_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOT4_RECORDINGS", str(tmp_path))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    bad = b'{"error":[],"result":{"X":{"wsname":"XBT/CHF","pair_decimals":1,"lot_decimals":8,"lot_multiplier":"z"}}}'
    (corpus / "one").write_bytes(bad)
    monkeypatch.setattr(guided, "_call", fake_fuzzer(tmp_path, bad))
    piece = Piece(0, 1.0, tmp_path / "piece")
    guided.run_target(piece, "LISTING_KRAKEN_SPOT_V1", corpus, 1.0)
    (violation,) = piece.violations
    assert "Unsound: planted" in violation.what
    assert violation.again.startswith("python -m tools.soak.guided check LISTING_KRAKEN_SPOT_V1 ")


def fake_fuzzer(folder: Path, bad: bytes):  # type: ignore[no-untyped-def]
    def call(piece: Piece, checks: bool, limit_s: float, *arguments: str) -> tuple[int, str, str]:
        prefix = next(item.removeprefix("-artifact_prefix=") for item in arguments if "artifact" in item)
        Path(f"{prefix}crash-1").write_bytes(bad)
        return 77, '{"checked": true}\nUnsound: planted\n', "== ERROR: libFuzzer: fuzz target exited\n"

    return call


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good").write_bytes(b'{"event":"pong"}')
    monkeypatch.setattr(sys, "argv", ["guided", "check", "KRAKEN_SPOT_V1", str(tmp_path)])
    assert guided.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert 20 < told.pop("ways") < 100 < told.pop("ways there are")
    assert told == {"inputs": 1, "unsound": 0, "checked": checked_mode(), "taken": 1}


@pytest.mark.parametrize(
    "wrong", [(), ("fuzz",), ("check", "NOBODY", "here"), ("check", "NUMBERS"), ("check", "NUMBERS", "/none")]
)
def test_wrong_usage_is_told(
    wrong: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["guided", *wrong])
    assert guided.main() == 2
    said = capsys.readouterr().err
    assert ("no such file: /none" if "/none" in wrong else "targets: BINANCE_SPOT") in said


def test_without_atheris_a_piece_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided, "is_there", lambda: False)
    piece = Piece(0, 60.0, tmp_path)
    guided.run_atheris(piece)
    assert "left out" in piece.notes[0] and not piece.counts and not piece.violations
