"""Memory and descriptors of a process as the kernel accounts for them."""

from __future__ import annotations

import os

import psutil


def pss_bytes(pid: int) -> int:
    """Proportional set size: private pages plus this process's share of shared ones; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except psutil.Error:
        return 0


def descriptor_count(pid: int) -> int:
    """Open descriptors of a process; 0 when it is gone or not ours."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0
