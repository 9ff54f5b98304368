"""Leases: an exclusive right that the kernel takes back when its holder dies, however it dies.

A lease is an OFD (open file description) lock on one byte of a file or segment. Different bytes are different
leases. A stopped process (SIGSTOP) keeps its lease: kill it, then take over.

The lock lives as long as any duplicate of the descriptor, in any process. So a lease opens its own
descriptor (never one that was mapped: Python's mmap duplicates it), the descriptor is close-on-exec, and a
process forked through Python closes its copies at once. A fork made by C code would keep the lease alive.

Source: fcntl(2), "Open file description locks".
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import weakref
from pathlib import Path

import posix_ipc

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


class LeaseHeld(Exception):
    """Another process, or another Lease of this one, holds the lease."""


def _open(target: str | Path, create: bool = True) -> int:
    """A fresh descriptor of a segment (a name that starts with "/bot4.") or of a file. create: make a missing file."""
    name = str(target)
    if name.startswith("/bot4."):
        try:
            descriptor: int = posix_ipc.SharedMemory(name).fd
        except posix_ipc.ExistentialError:
            raise FileNotFoundError(f"{name}: does not exist") from None
        return descriptor
    return os.open(name, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)


def _flock(kind: int, byte: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)


class Lease:
    """A lease that is held. Made by acquire(); released by release(), by leaving `with`, or by death."""

    def __init__(self, target: str, byte: int, descriptor: int) -> None:
        self.target = target
        self.byte = byte
        self._descriptor: int | None = descriptor
        _of_this_process.add(self)

    @classmethod
    def acquire(cls, target: str | Path, byte: int = 0) -> Lease:
        """Take the lease on a byte of a segment (its full name) or a file, without waiting.

        Raises LeaseHeld, or OSError where the target cannot be opened.
        """
        while True:
            descriptor = _open(target)
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise LeaseHeld(f"{target}: lease {byte} is held by somebody else") from None
                raise
            if os.fstat(descriptor).st_nlink:
                return cls(str(target), byte, descriptor)
            # Its last holder removed the file between our opening and our lock: whoever comes next makes another.
            os.close(descriptor)

    @staticmethod
    def is_held(target: str | Path, byte: int = 0) -> bool:
        """Whether anybody holds the lease now, without taking it. Nobody does where there is no such target."""
        try:
            descriptor = _open(target, create=False)
        except FileNotFoundError:
            return False
        try:
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
        finally:
            os.close(descriptor)
        kind: int = struct.unpack(_FLOCK, answer)[0]
        return kind != fcntl.F_UNLCK

    @property
    def held(self) -> bool:
        """True until release(); False in a forked child."""
        return self._descriptor is not None

    def release(self) -> None:
        """Give the lease back. May be called again."""
        if self._descriptor is not None:
            # Unlocking frees the lease even if C code has forked a copy of the descriptor.
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, self.byte))
            self._forget()

    def _forget(self) -> None:
        """Close this process's descriptor and leave the lock alone: a forked child must not take it away."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __del__(self) -> None:
        self._forget()


_of_this_process: weakref.WeakSet[Lease] = weakref.WeakSet()


def _close_in_child() -> None:
    for lease in list(_of_this_process):
        lease._forget()


os.register_at_fork(after_in_child=_close_in_child)
