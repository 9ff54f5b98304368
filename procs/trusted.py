"""Files and folders that are believed only when nobody else can have written or read them.

Refused: what belongs to somebody else, symbolic links, what is not of the kind expected, and a mode that lets others
in. A new file is made exclusively, replaced atomically, and on the disk before anything relies on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

OTHERS_MAY_WRITE = 0o022
OTHERS_MAY_ANYTHING = 0o077


class NotOurs(ValueError):
    """A file or folder that must not be relied upon; the message says which, why, and what to do."""


def _refuse(path: Path, status: os.stat_result, kind: int, forbidden: int, owners: tuple[int, ...]) -> None:
    names = {stat.S_IFREG: "plain file", stat.S_IFDIR: "folder", stat.S_IFSOCK: "socket"}
    if stat.S_ISLNK(status.st_mode):
        raise NotOurs(f"{path}: is a symbolic link; a {names[kind]} of yours is needed")
    if stat.S_IFMT(status.st_mode) != kind:
        raise NotOurs(f"{path}: is no {names[kind]}")
    if status.st_uid not in owners:
        raise NotOurs(f"{path}: belongs to user {status.st_uid}, not to you ({os.geteuid()})")
    if status.st_mode & forbidden:
        what = "read or write" if forbidden & 0o044 else "write"
        raise NotOurs(
            f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others {what} it; "
            f"`chmod {stat.S_IMODE(status.st_mode) & ~forbidden:04o} {path}` after you know why"
        )


def check_ours(path: Path, kind: int = stat.S_IFREG, forbidden: int = OTHERS_MAY_ANYTHING) -> bool:
    """False where there is nothing; raises NotOurs for what must not be relied upon. kind: an S_IF constant."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise NotOurs(f"{path}: {error.strerror}") from None
    _refuse(path, status, kind, forbidden, (os.geteuid(),))
    return True


def check_config(path: Path) -> None:
    """Refuse a configuration file that somebody else could have written; one of root's is fine, and so is none.

    Raises NotOurs.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise NotOurs(f"{path}: {error.strerror}") from None
    # A group of its own for each user is usual, so a group may write; the world may not.
    _refuse(path, status, stat.S_IFREG, 0o002, (os.geteuid(), 0))


def check_code(path: Path) -> None:
    """Refuse code that somebody else could have written: the file, its folder, or where a link to it leads.

    Raises NotOurs; FileNotFoundError where there is none.
    """
    path = path.resolve()
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    check_config(path)
    folder = path.parent
    _refuse(folder, folder.stat(), stat.S_IFDIR, 0o002, (os.geteuid(), 0))


def our_folder(path: Path, forbidden: int = OTHERS_MAY_ANYTHING) -> Path:
    """A folder of ours, made where there is none. Raises NotOurs."""
    if not check_ours(path, stat.S_IFDIR, forbidden):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise NotOurs(f"{path}: cannot be made: {error.strerror}") from None
        check_ours(path, stat.S_IFDIR, forbidden)
    return path


def check_shared_memory(name: str) -> None:
    """Refuse segments and files of an instance in /dev/shm that are not ours alone. Raises NotOurs."""
    folder = Path("/dev/shm")
    for path in sorted([*folder.glob(f"bot4.{name}.*"), *folder.glob(f"bot4-{name}.*")]):
        check_ours(path, stat.S_IFSOCK if path.suffix == ".sock" else stat.S_IFREG)


@contextlib.contextmanager
def _descriptor(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk."""
    with _descriptor(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything. Raises OSError."""
    while data:
        data = data[os.write(descriptor, data) :]


def read_ours(path: Path) -> bytes | None:
    """The content of a file of ours; None where there is none. Raises NotOurs."""
    try:
        with _descriptor(path, os.O_RDONLY) as descriptor:
            # Of what was opened, not of what lies there by now.
            _refuse(path, os.fstat(descriptor), stat.S_IFREG, OTHERS_MAY_ANYTHING, (os.geteuid(),))
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        check_ours(path)  # says more
        raise NotOurs(f"{path}: {error.strerror}") from None


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of ours, mode 0600: whole or not at all, and on the disk on return. Raises OSError or NotOurs."""
    check_ours(path)
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with _descriptor(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        write_all(descriptor, content)
        os.fsync(descriptor)
    beside.replace(path)
    sync_folder(path.parent)


def write_spare(path: Path, size: int) -> None:
    """Have a file of ours that takes up so much room on the disk, for `use_spare`. Raises OSError or NotOurs."""
    if check_ours(path) and path.stat().st_size == size:
        return
    path.unlink(missing_ok=True)
    with _descriptor(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        write_all(descriptor, bytes(size))
        os.fsync(descriptor)


def use_spare(path: Path, spare: Path, content: bytes) -> None:
    """`replace_file` on a disk without room: the content goes where the spare file's bytes are. A file system that only
    ever writes copies has no room for that either.

    Raises OSError, where there is no spare file or it is too small, or NotOurs.
    """
    check_ours(path)
    if not check_ours(spare) or spare.stat().st_size < len(content):
        raise OSError(errno.ENOSPC, f"no room for {path.name}, and none in a spare file")
    with _descriptor(spare, os.O_WRONLY) as descriptor:
        write_all(descriptor, content)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    spare.replace(path)
    sync_folder(path.parent)
