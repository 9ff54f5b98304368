"""Memory of a process as the kernel accounts for it."""

from __future__ import annotations

import psutil


def pss_bytes(pid: int) -> int:
    """Proportional set size: private pages plus this process's share of shared ones; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except psutil.Error:
        return 0
