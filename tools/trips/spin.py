"""Making a process spin for ever in its own compiled code, from outside: no hook in the engine, no signal.

As a debugger does it (ptrace, x86-64): the process is stepped until it executes code that was compiled at run time,
which for execution is pump, strategies, gate and orders in one, and the instruction there becomes a jump to itself. The
process then burns its core and turns no more, whatever it holds. There is no way back but its end.
Source: ptrace(2); Intel SDM, JMP rel8.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

_PEEK, _POKE, _REGISTERS, _STEP, _DETACH, _SEIZE, _INTERRUPT = 1, 4, 12, 9, 17, 0x4206, 0x4207
_WALL = 0x40000000
_RIP = 16  # its place in user_regs_struct, which has 27 words
_JUMP_TO_ITSELF = 0xFEEB
_MOST_STEPS = 200_000


class CannotSpin(RuntimeError):
    """This machine, or this process, does not let itself be debugged."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    answer = int(_libc.ptrace(request, pid, address, data))
    if answer == -1 and (error := ctypes.get_errno()):
        raise CannotSpin(f"ptrace of process {pid}: {os.strerror(error)}")
    return answer


def may_spin() -> str:
    """Why no process can be made to spin on this machine; empty when it can, as far as is known beforehand."""
    if platform.machine() != "x86_64":
        return f"made for x86_64, not for {platform.machine()}"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() and scope.exists() and scope.read_text().strip() not in ("0", "1"):
        return "the system allows no ptrace"
    return ""


def _compiled_ranges(pid: int) -> list[range]:
    """Memory of a process that is executable and belongs to no file."""
    ranges = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split()
        if "x" in fields[1] and len(fields) == 5:
            first, last = (int(text, 16) for text in fields[0].split("-"))
            ranges.append(range(first, last))
    return ranges


def make_spin(pid: int) -> None:
    """See the module. Raises CannotSpin, and then the process runs on as before."""
    if why := may_spin():
        raise CannotSpin(why)
    _ptrace(_SEIZE, pid)
    try:
        _ptrace(_INTERRUPT, pid)
        os.waitpid(pid, _WALL)
        compiled = _compiled_ranges(pid)
        registers = (ctypes.c_ulonglong * 27)()
        for _ in range(_MOST_STEPS):
            _ptrace(_REGISTERS, pid, 0, ctypes.addressof(registers))
            at = registers[_RIP]
            if any(at in memory for memory in compiled):
                word = _ptrace(_PEEK, pid, at) & 0xFFFFFFFFFFFFFFFF
                _ptrace(_POKE, pid, at, word & ~0xFFFF | _JUMP_TO_ITSELF)
                return
            _ptrace(_STEP, pid)
            os.waitpid(pid, _WALL)
        raise CannotSpin(f"process {pid} executes no code that was compiled at run time")
    finally:
        _ptrace(_DETACH, pid)
