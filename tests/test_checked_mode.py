"""Kernels with bounds checks: that the run which `make test` makes for them has them, and that they bite."""

from __future__ import annotations

import numpy as np
import pytest

from engine.kernel import checked_mode, kernel

_ROW = np.dtype([("levels", "<i8", (4,)), ("count", "<i8")], align=True)


@kernel()
def level(row, index):
    return row["levels"][index]


@kernel()
def level_of(raw, index):
    return level(raw.view(_ROW)[0], index)


@pytest.mark.skipif(not checked_mode(), reason="`make test` runs it once more with bounds checks")
def test_this_run_has_bounds_checks() -> None:
    """In a helper of a helper too, and in an array within a record, as the states of stages are."""
    raw = np.arange(2 * _ROW.itemsize, dtype=np.uint8)
    assert level_of(raw, 3) == raw.view(_ROW)["levels"][0, 3]
    with pytest.raises(IndexError, match="out of bounds"):
        level_of(raw, 4)
