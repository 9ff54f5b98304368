"""The audit log: what is found (cuts, edits, reordering, forged torn lines), and what a kill or a full disk leaves."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procs import audit
from procs.audit import AuditError, AuditLog, check_chain, entries_of, read_log
from procs.trusted import NotOurs
from tools.soak.forks import Fork


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "control"
    made.mkdir(mode=0o700)
    return made


def written(folder: Path, count: int) -> tuple[bytes, bytes]:
    log = AuditLog(folder, "test")
    for number in range(count):
        log.append("mode", source="NORMAL", target="PAUSE", reason=f"reason {number} with \n and é")
    log.close()
    content, head = read_log(folder)
    assert head is not None
    return content, head


def wrong(content: bytes, head: bytes | None) -> str:
    with pytest.raises(AuditError) as caught:
        check_chain(content, head)
    return str(caught.value)


def test_a_log_is_chained_and_goes_on_over_sessions(folder: Path) -> None:
    written(folder, 3)
    content, head = written(folder, 2)
    chain = check_chain(content, head)
    assert chain.count == 5 and chain.torn == b""
    entries = entries_of(content)
    assert [entry["n"] for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[0]["previous"] == "0" * 64 and entries[4]["hash"] == chain.last_hash
    for entry in entries:  # an oracle of its own
        body = {key: value for key, value in entry.items() if key != "hash"}
        text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
        assert hashlib.sha256(entry["previous"].encode() + text).hexdigest() == entry["hash"]
    assert (folder / "audit.jsonl").stat().st_mode & 0o777 == 0o600 == (folder / "audit.head").stat().st_mode & 0o777


def test_every_cut_is_found(folder: Path) -> None:
    content, head = written(folder, 4)
    lines = content.splitlines(keepends=True)
    for kept in range(4):
        assert f"line {kept + 1}: the log ends after {kept} entries, its head knows 4" in wrong(
            b"".join(lines[:kept]), head
        )
    assert "audit.head is missing" in wrong(content, None)
    assert "audit.head cannot be read" in wrong(content, b"{}")
    assert "line 4: the log has 4 entries, its head knows 2" in wrong(
        content, orjson.dumps({"count": 2, "hash": orjson.loads(lines[1])["hash"]})
    )


def test_every_reordering_and_every_missing_line_is_found(folder: Path) -> None:
    content, head = written(folder, 4)
    lines = content.splitlines(keepends=True)
    for first in range(4):
        for second in range(first + 1, 4):
            swapped = list(lines)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            assert f"line {first + 1}: its number is" in wrong(b"".join(swapped), head)
        assert f"line {first + 1}" in wrong(b"".join(lines[:first] + lines[first + 1 :]), head)


@settings(max_examples=400)
@given(data=st.data())
def test_one_changed_byte_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("audit") / "control"
    content, head = written(folder, 3)
    place = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    changed = content[:place] + bytes([value]) + content[place + 1 :]
    if place == len(content) - 1:
        # The end of the last line: as if its writer had died there, and the head knows better.
        assert "its head knows 3" in wrong(changed, head)
    else:
        assert wrong(changed, head).startswith("line ")


def rehashed(entries: list[dict[str, Any]]) -> bytes:
    """A forger's chain: every hash made again."""
    previous, lines = "0" * 64, []
    for number, entry in enumerate(entries, 1):
        body = {key: value for key, value in entry.items() if key != "hash"} | {"n": number, "previous": previous}
        previous = hashlib.sha256(previous.encode() + orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
        lines.append(orjson.dumps(body | {"hash": previous}, option=orjson.OPT_SORT_KEYS) + b"\n")
    return b"".join(lines)


def test_a_chain_that_was_made_again_does_not_fit_the_head(folder: Path) -> None:
    content, head = written(folder, 3)
    entries = entries_of(content)
    assert rehashed(entries) == content
    entries[1]["target"] = "NORMAL"
    assert "line 3: entry 3 is not the one that the head knows" in wrong(rehashed(entries), head)


@pytest.mark.parametrize("cut", [1, 10, -1, -2])
def test_a_torn_last_line_is_closed_with_an_entry_that_says_so(folder: Path, cut: int) -> None:
    written(folder, 2)
    path = folder / "audit.jsonl"
    whole = path.read_bytes()
    third = rehashed([*entries_of(whole), {"event": "death", "instance": "test", "wall_ns": 1}])[len(whole) :]
    torn = third[:cut]
    path.write_bytes(whole + torn)
    log = AuditLog(folder, "test")
    log.append("start")
    log.close()
    content, head = read_log(folder)
    chain = check_chain(content, head)
    events = [entry["event"] for entry in entries_of(content)]
    if cut == -1:  # nothing but its end was missing: it counts
        assert events == ["mode", "mode", "death", "start"]
    else:
        assert events == ["mode", "mode", "torn_line", "start"]
        assert entries_of(content)[2]["bytes"] == len(torn)
        assert content.startswith(whole + torn + b"\n"), "what was there stays"
        changed = content.replace(torn + b"\n", b"?" * len(torn) + b"\n", 1)
        assert "bytes that no entry was torn to" in wrong(changed, head)
    assert chain.count == len(events)


def test_torn_again_while_a_torn_line_was_being_closed(folder: Path) -> None:
    written(folder, 1)
    path = folder / "audit.jsonl"
    path.write_bytes(path.read_bytes() + b'{"n":2,"ev\n{"n":2,"event":"torn_li')
    AuditLog(folder, "test").close()
    content, head = read_log(folder)
    assert check_chain(content, head).count == 2
    assert entries_of(content)[1]["bytes"] == len(b'{"n":2,"ev\n{"n":2,"event":"torn_li')


def test_a_log_that_does_not_hold_is_refused_by_its_next_writer(folder: Path) -> None:
    written(folder, 3)
    path = folder / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"reason 1", b"reason 7"))
    with pytest.raises(AuditError, match=r"audit\.jsonl, line 2: its hash does not follow"):
        AuditLog(folder, "test")
    path.unlink()
    with pytest.raises(AuditError, match="is missing"):
        AuditLog(folder, "test")


def test_a_log_that_others_may_write_is_refused(folder: Path) -> None:
    written(folder, 1)
    (folder / "audit.jsonl").chmod(0o640)
    with pytest.raises(NotOurs, match=r"mode 0640 lets others read or write it; `chmod 0600"):
        AuditLog(folder, "test")


def test_a_full_disk_is_said_and_the_log_goes_on_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(folder, "test")
    log.append("start")
    write = audit.write_all

    def half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit, "write_all", half)
    for _ in range(2):
        with pytest.raises(AuditError, match=r"cannot be written: .*No space left on device"):
            log.append("mode")
    monkeypatch.setattr(audit, "write_all", write)

    def no_head(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    replace = audit.replace_file
    monkeypatch.setattr(audit, "replace_file", no_head)
    for _ in range(3):
        with pytest.raises(AuditError, match="No space left on device"):
            log.append("death")
    monkeypatch.setattr(audit, "replace_file", replace)
    log.append("stop")
    log.close()
    content, head = read_log(folder)
    events = [entry["event"] for entry in entries_of(content)]
    assert check_chain(content, head).count == len(events)
    assert events[0] == "start" and events[-1] == "stop" and "torn_line" in events


def test_a_log_that_cannot_be_opened_again_closes_nobody_elses_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(folder, "test")
    with monkeypatch.context() as broken:
        broken.setattr(audit, "write_all", lambda descriptor, data: os.write(-1, data))
        with pytest.raises(AuditError):
            log.append("trip")
        broken.setattr(audit, "check_ours", lambda path: os.stat(folder / "nowhere"))
        with pytest.raises(AuditError):
            log.append("trip")
        ends = os.pipe()  # they get the numbers that have become free
        with pytest.raises(AuditError):
            log.append("trip")
        assert [os.fstat(end).st_mode for end in ends]
    log.append("trip")
    log.close()
    for end in ends:
        os.close(end)


def test_a_killed_writer_leaves_a_log_that_holds(folder: Path) -> None:
    """kill -9 at a random moment, eight times: the next writer goes on, and nothing that was confirmed is missing."""
    seed = 20261122
    print("seed", seed)
    source = random.Random(seed)
    confirmed = folder / "confirmed"
    for _ in range(8):

        def writer() -> int:
            log = AuditLog(folder, "test")
            while True:
                log.append("mode", reason="x" * 2000)
                confirmed.write_text(str(log.count))

        child = Fork(writer)
        while not confirmed.exists():
            os.sched_yield()
        for _ in range(source.randrange(20_000)):
            os.sched_yield()
        child.kill()
        content, head = read_log(folder)
        chain = check_chain(content, head)
        assert chain.count >= int(confirmed.read_text() or 0)
    AuditLog(folder, "test").close()
