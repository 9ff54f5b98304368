"""Arrivals that excite one another: a Hawkes process of several kinds with exponential kernels, simulated exactly.

    intensity of kind i at t = base_i + sum over earlier events k, of kind j: branching_ij * g(t - t_k)
    g(s) = share * fast * exp(-fast * s) + (1 - share) * slow * exp(-slow * s)

g integrates to 1, so branching_ij is the mean number of events of kind i that one of kind j brings about directly. It
is set as n * shares_ij * rate_i / rate_j, with shares whose rows sum to 1: then the spectral radius, the branching
ratio, is n exactly, the base rates are (1 - n) * rate, and the mean rates are the ones asked for.

Simulation: the process is the union of the events of the base rates and of those of each decaying component. The wait
for the next of a component of total intensity s that decays at rate b is that of a Poisson process of decaying rate:
-ln(1 + b ln(u) / s) / b, never where that has no value. The first one is the next event, and says whose offspring it
is. No thinning, nothing approximate but the rounding of times. Source: Dassios and Zhao, "Exact simulation of Hawkes
process with exponentially decaying intensity" (2013).

State: a one-element array of a dtype with `counter` (generator.py) and HAWKES_FIELDS. Base rates may be changed after
each event; they hold until the next one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.kernel import kernel
from engine.matching.generator import draw
from engine.maths import exp, log

KINDS = 6
COMPONENTS = 2
LARGEST_RATIO = 0.95  # nearer to 1 the mean rates mean nothing: the process wanders
BASE = -1  # next_source of an event that none before it caused
_NEVER_S = 1.0e6

HAWKES_FIELDS: list[tuple] = [
    ("base", "<f8", (KINDS,)),  # per second
    ("excitation", "<f8", (COMPONENTS * KINDS,)),  # [component * KINDS + kind], per second, at the last event
    ("jump", "<f8", (COMPONENTS * KINDS * KINDS,)),  # [(component * KINDS + parent) * KINDS + child], per second
    ("decay", "<f8", (COMPONENTS,)),  # per second
    ("next_source", "<i8"),  # of the event that draw_wait has drawn: BASE, or a component
]


def set_hawkes(
    state: np.ndarray, rates: Sequence[float], shares: Sequence[Sequence[float]], ratio: float,
    decay: tuple[float, float], fast_share: float,
) -> None:
    """Set what does not change: kernels and base rates, nothing excited yet.

    rates: mean events a second by kind; shares: of kind i's excited events, which share kind j causes, rows that sum
    to 1; ratio: the branching ratio; decay: of the fast and the slow component, per second. Raises ValueError.
    """
    if not 0.0 <= ratio <= LARGEST_RATIO:
        raise ValueError(f"branching ratio = {ratio}: allowed is 0 to {LARGEST_RATIO}")
    if any(abs(sum(row) - 1.0) > 1e-9 or min(row) < 0.0 for row in shares):
        raise ValueError("shares of the causes of a kind: each row has to sum to 1")
    row = state[0]
    row["decay"] = decay
    row["excitation"] = 0.0
    row["base"] = [(1.0 - ratio) * rate for rate in rates]
    weights = (fast_share, 1.0 - fast_share)
    jump = np.zeros((COMPONENTS, KINDS, KINDS))
    for child in range(KINDS):
        for parent in range(KINDS):
            if rates[parent] > 0.0:
                branching = ratio * shares[child][parent] * rates[child] / rates[parent]
                for component in range(COMPONENTS):
                    jump[component, parent, child] = branching * weights[component] * decay[component]
    row["jump"] = jump.reshape(-1)


@kernel()
def pass_time(state: np.ndarray, seconds: float) -> None:
    """Let what is excited decay."""
    for component in range(COMPONENTS):
        factor = exp(-state[0].decay[component] * seconds)
        for kind in range(KINDS):
            state[0].excitation[component * KINDS + kind] *= factor


@kernel()
def draw_wait(state: np.ndarray) -> float:
    """Seconds to the next event; whose it will be is then in next_source."""
    total = 0.0
    for kind in range(KINDS):
        total += state[0].base[kind]
    wait = _NEVER_S
    state[0].next_source = BASE
    if total > 0.0:
        wait = min(wait, -log(draw(state)) / total)
    for component in range(COMPONENTS):
        excited = 0.0
        for kind in range(KINDS):
            excited += state[0].excitation[component * KINDS + kind]
        if excited > 0.0:
            decay = state[0].decay[component]
            left = 1.0 + decay * log(draw(state)) / excited
            if left > 0.0 and -log(left) < wait * decay:
                wait = -log(left) / decay
                state[0].next_source = component
    return wait


@kernel()
def draw_kind(state: np.ndarray) -> int:
    """The kind of the event that next_source tells of, when its time has come."""
    source = state[0].next_source
    total = 0.0
    for kind in range(KINDS):
        total += state[0].base[kind] if source == BASE else state[0].excitation[source * KINDS + kind]
    pick = draw(state) * total
    chosen = 0
    for kind in range(KINDS):
        weight = state[0].base[kind] if source == BASE else state[0].excitation[source * KINDS + kind]
        if weight > 0.0:
            chosen = kind
            if pick < weight:
                break
        pick -= weight
    return chosen


@kernel()
def excite(state: np.ndarray, kind: int) -> None:
    """An event of a kind has happened."""
    for component in range(COMPONENTS):
        for child in range(KINDS):
            state[0].excitation[component * KINDS + child] += state[0].jump[(component * KINDS + kind) * KINDS + child]
