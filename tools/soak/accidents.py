"""Small accidents that happen to a frame on its way: bytes lost, doubled, put in, replaced, and two frames mixed up."""

from __future__ import annotations

from collections.abc import Sequence

from procs.embedded.mix import Draws

PIECES = (
    b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b" ", b"\n", b"0", b"9" * 25, b".", b"-", b"e", b"\0", b"\xff",
)  # fmt: skip
_LENGTHS = (1, 1, 2, 5, 30)


def mutated(frame: bytes, corpus: Sequence[bytes], draws: Draws, most: int = 4) -> bytes:
    """The frame after one to `most` small accidents; corpus: frames that its end may be mixed up with."""
    data = bytearray(frame)
    for _ in range(draws.whole(1, most)):
        at = draws.whole(0, len(data))
        end = min(len(data), at + draws.choice(_LENGTHS))
        match draws.whole(0, 9):
            case 0:
                del data[at:]
            case 1:
                del data[at:end]
            case 2:
                data[at:end] = data[at:end] * 2
            case 3:
                data[at:at] = draws.choice(PIECES)
            case 4:
                data[at:end] = draws.choice(PIECES)
            case 5:
                other = draws.choice(corpus)
                data[at:] = other[draws.whole(0, len(other) - 1) :]
            case _:
                _change_a_digit(data, at, draws)
    return bytes(data)


def _change_a_digit(data: bytearray, start: int, draws: Draws) -> None:
    """The first digit from a place on becomes another: such a frame is still well formed, and says something else."""
    for place in range(start, len(data)):
        if 48 <= data[place] <= 57:
            data[place] = draws.whole(48, 57)
            return
