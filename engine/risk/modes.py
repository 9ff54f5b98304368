"""Control modes as execution knows them."""

from __future__ import annotations

from enum import IntEnum


class Mode(IntEnum):
    """What the control plane allows. A value that is none of these reads as EMERGENCY."""

    NORMAL = 0
    REDUCE = 1
    PAUSE = 2
    EMERGENCY = 3
