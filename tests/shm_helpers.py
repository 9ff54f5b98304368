"""Helpers of the shared-memory tests: an instance that must leave nothing behind, forks that cannot hang."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

from shm.segment import list_segments, unlink_all

DIGEST = "5a" * 32
_numbers = count()


def fresh_instance() -> Iterator[str]:
    """Yield an instance name of this test's own; fail if the test leaves a segment of it in /dev/shm."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    try:
        yield name
        left = list_segments(name)
        assert left == [], f"the test left {left}"
    finally:
        unlink_all(name)
