"""Control modes: what the whole engine is allowed to do, from most to least."""

from __future__ import annotations

from enum import IntEnum


class Mode(IntEnum):
    """What the control plane allows; a larger value is safer. A value that is none of these reads as EMERGENCY."""

    NORMAL = 0
    REDUCE = 1
    PAUSE = 2
    EMERGENCY = 3


def mode_of(value: int) -> Mode:
    """The mode of a number that came from memory or a file: what we do not know is an emergency."""
    return Mode(value) if value in Mode._value2member_map_ else Mode.EMERGENCY


def lets_out(mode: Mode, reduces_only: bool) -> bool:
    """Whether a new order may leave the engine; cancels and questions always may.

    reduces_only: the venue itself takes it for closing alone, so it is a reducing or a protective order.
    """
    return mode == Mode.NORMAL or (reduces_only and mode != Mode.EMERGENCY)
