"""What all tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_files_for_the_next() -> Iterator[None]:
    """Processes that a test plays hold their files in cycles: without a collection a long run gathers a thousand."""
    yield
    gc.collect()
