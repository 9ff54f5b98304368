"""How kernels are called: the tests themselves refuse a call of ours that is slow for no reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from procs.table import Role
from shm.control import CONTROL_WORDS, gate_epoch

OURS = """
from shm.control import gate_epoch
def look(words, role):
    return gate_epoch(words, role)
"""


def test_an_enum_for_a_kernel_is_refused_where_it_is_ours(tmp_path: Path) -> None:
    words = np.zeros(CONTROL_WORDS, np.int64)
    names: dict = {}
    exec(compile(OURS, str(tmp_path / "ours.py"), "exec"), names)
    assert names["look"](words, int(Role.GATEWAY)) == 0
    with pytest.raises(TypeError, match=r"gate_epoch is given <Role.GATEWAY.*ours.py:4"):
        names["look"](words, Role.GATEWAY)
    assert gate_epoch(words, Role.GATEWAY) == 0  # a test may

