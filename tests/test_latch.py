"""The latch, files that must be ours, and the operator's secret."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.safety import modes
from engine.safety.mode import Mode
from engine.safety.modes import By, ModeState
from procs import operator_secret, trusted
from procs.latch import Latch, read_latch, write_latch
from procs.operator_secret import SecretChecker, SecretError, set_secret
from procs.trusted import NotOurs, check_config, check_ours, check_shared_memory, our_folder, read_ours, replace_file

T = 1_700_000_000_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return our_folder(tmp_path / "control")


def some_latch() -> Latch:
    state = modes.hold(ModeState(), Mode.PAUSE, By.MONITOR, "spread:BTCUSDT", "4.2x, limit 3x", T).state
    state = modes.clear(state, "spread:BTCUSDT", T + 5)
    state = modes.hold(state, Mode.REDUCE, By.OPERATOR, "operator", "é", T).state
    state = modes.trip(state, ("HARDWARE", "RISK"), "the button", T + 9).state
    return Latch(dataclasses.replace(state, auto_returns=(1, 2)), (T, T + 1), T + 600)


def test_what_is_written_is_read(folder: Path) -> None:
    for latch in (Latch(), some_latch()):
        write_latch(folder, "test", latch)
        assert read_latch(folder, "test", expected=True, now_ns=T) == latch
    assert (folder / "latch.json").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["latch.json", "latch.spare"]


def test_a_full_disk_keeps_a_trip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a byte more can be had: the spare file has the room, once. Without it the old latch stays as it was."""
    write_latch(folder, "test", Latch())
    create = os.O_CREAT

    def full(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & create:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(path, flags, mode)

    really = os.open
    monkeypatch.setattr(trusted.os, "open", full)
    write_latch(folder, "test", some_latch())
    assert read_latch(folder, "test", expected=True, now_ns=T) == some_latch()
    with pytest.raises(OSError, match="no room"):
        write_latch(folder, "test", Latch())
    assert read_latch(folder, "test", expected=True, now_ns=T) == some_latch()
    monkeypatch.setattr(trusted.os, "open", really)
    write_latch(folder, "test", Latch())
    assert read_latch(folder, "test", expected=True, now_ns=T) == Latch()
    assert (folder / "latch.spare").stat().st_size > 60_000


def test_a_missing_latch_is_an_emergency_where_there_was_one(folder: Path) -> None:
    assert read_latch(folder, "test", expected=False, now_ns=T).state.mode == Mode.NORMAL
    latch = read_latch(folder, "test", expected=True, now_ns=T)
    assert latch.state.mode == Mode.EMERGENCY and latch.state.emergency is not None
    assert latch.state.emergency.reason == "the latch file is missing"


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_latch_is_an_emergency(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = our_folder(tmp_path_factory.mktemp("latch") / "control")
    write_latch(folder, "test", Latch())
    path = folder / "latch.json"
    content = path.read_bytes()
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        changed = content[:place] + bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))]) + content[place + 1 :]
    else:
        changed = content[: data.draw(st.integers(0, len(content) - 1))]
    path.write_bytes(changed)
    if changed != content[:-1] and changed.removesuffix(b"\n") != content.removesuffix(b"\n"):
        assert read_latch(folder, "test", expected=True, now_ns=T).state.mode == Mode.EMERGENCY


def test_the_latch_of_another_instance_is_an_emergency(folder: Path) -> None:
    write_latch(folder, "other", Latch())
    assert read_latch(folder, "test", expected=True, now_ns=T).state.mode == Mode.EMERGENCY


def test_a_file_is_replaced_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "latch.json"
    replace_file(path, b"before")

    def no_room(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trusted, "write_all", no_room)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"after")
    monkeypatch.undo()
    assert read_ours(path) == b"before"
    replace_file(path, b"after")
    assert read_ours(path) == b"after" and read_ours(folder / "nothing") is None


def refused(path: Path, **arguments: int) -> str:
    with pytest.raises(NotOurs) as caught:
        check_ours(path, **arguments)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def test_what_is_not_ours_alone_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "file"
    path.write_text("x")
    for mode, words in ((0o640, "read or write"), (0o604, "read or write"), (0o777, "read or write")):
        path.chmod(mode)
        assert f"mode {mode:04o} lets others {words} it; `chmod" in refused(path)
        with pytest.raises(NotOurs, match="lets others"):
            read_ours(path)
        with pytest.raises(NotOurs, match="lets others"):
            replace_file(path, b"y")
    path.chmod(0o644)
    assert check_ours(path, forbidden=trusted.OTHERS_MAY_WRITE)
    path.chmod(0o600)
    assert check_ours(path) and not check_ours(folder / "nothing")
    link = folder / "link"
    link.symlink_to(path)
    assert "is a symbolic link" in refused(link)
    with pytest.raises(NotOurs, match="is a symbolic link"):
        read_ours(link)
    assert "is no plain file" in refused(folder)
    (folder.parent / "other").symlink_to(folder)
    with pytest.raises(NotOurs, match="is a symbolic link"):
        our_folder(folder.parent / "other")
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"belongs to user {owner}, not to you ({owner + 1})" in refused(path)
    with pytest.raises(NotOurs, match="belongs to user"):
        read_ours(path)


def test_the_configuration_may_be_read_by_anybody_and_written_by_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bot4.toml"
    path.write_text("")
    path.chmod(0o664)
    check_config(path)
    path.chmod(0o646)
    with pytest.raises(NotOurs, match="lets others write it"):
        check_config(path)
    path.chmod(0o644)
    if os.geteuid():
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(NotOurs, match="belongs to user"):
            check_config(path)


@pytest.fixture
def shared() -> Iterator[str]:
    name = f"trust-{os.getpid()}"
    yield name
    for path in Path("/dev/shm").glob(f"bot4*{name}*"):
        path.unlink()


def test_shared_memory_that_others_can_reach_is_refused(shared: str) -> None:
    folder = Path("/dev/shm")
    check_shared_memory(shared)
    segment = folder / f"bot4.{shared}.01234567.control"
    segment.touch(0o600)
    plan = folder / f"bot4-{shared}.plan"
    plan.touch(0o600)
    with socket.socket(socket.AF_UNIX) as place:
        place.bind(str(folder / f"bot4-{shared}.sock"))
        (folder / f"bot4-{shared}.sock").chmod(0o600)
        check_shared_memory(shared)
        for path in (segment, plan, folder / f"bot4-{shared}.sock"):
            path.chmod(0o660)
            with pytest.raises(NotOurs, match=f"{path.name}: mode 0660"):
                check_shared_memory(shared)
            path.chmod(0o600)
    plan.unlink()
    plan.symlink_to(segment)
    with pytest.raises(NotOurs, match="is a symbolic link"):
        check_shared_memory(shared)


def test_the_secret_is_kept_as_a_hash_and_changed_by_who_knows_it(folder: Path) -> None:
    first, second = "correct horse battery", "staple and more"
    with pytest.raises(SecretError, match="8 characters"):
        set_secret(folder, "short", None)
    set_secret(folder, first, None)
    kept = (folder / "operator.hash").read_bytes()
    assert kept.startswith(b"$argon2id$") and first.encode() not in kept
    assert (folder / "operator.hash").stat().st_mode & 0o777 == 0o600
    for wrong in (None, second, ""):
        with pytest.raises(SecretError, match="not that one") as caught:
            set_secret(folder, second, wrong)
        assert second not in str(caught.value)
    assert (folder / "operator.hash").read_bytes() == kept
    set_secret(folder, second, first)
    checker = SecretChecker(folder)
    assert checker.begin(second).result() and not checker.begin(first).result()
    (folder / "operator.hash").write_bytes(b"$argon2id$ nonsense \xff")
    assert not checker.begin(second).result()
    (folder / "operator.hash").chmod(0o644)
    assert not checker.begin(second).result()
    checker.close()


def test_attempts_that_count() -> None:
    window = operator_secret.WINDOW_NS
    assert operator_secret.attempts_within((T - window, T - window + 1, T, T + window), T) == (T - window + 1, T, T)
    assert operator_secret.locked_words(T + 5 * 10**9, T) == "locked for another 5 s after 3 wrong secrets"
    assert operator_secret.locked_words(T, T) == ""
