"""Litmus tests without luck: every outcome that a weakly ordered machine allows for a few short programs.

The programs are the kernels themselves: Machine runs their Python source on named stand-ins for shared arrays and
notes each atomic access, copied word and fence. outcomes() then tries every order of execution that these leave open.

The machine: one memory, seen by all alike; each program's accesses may be done in any order except
  - accesses to the same place keep their order
  - a load-acquire stays before all that follow, a store-release after all that precede
  - across a fence acquire: loads before it stay before all that follow; across a fence release: all that precede stay
    before stores that follow; across a fence seq_cst: everything stays
Dependencies through values or branches order nothing here. That is weaker than x86-64, and than ARMv8 as it is used
here; a protocol that holds here needs no more luck than its fences give it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

Place = tuple[str, int]  # array and index, in words
Outcome = tuple[tuple[int, ...], ...]  # of each program, what its loads returned, in program order


@dataclass(frozen=True)
class Step:
    """A load, a store or a fence of one program."""

    kind: str
    order: str
    place: Place = ("", 0)
    value: int = 0


@dataclass(frozen=True)
class Shared:
    """Stands for a shared array: of words, or of bytes that are copied word by word."""

    name: str


class Machine:
    """Runs uncompiled kernels. `weaken` names atomics that lose their order: fences go, the others become relaxed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, modules: Iterable[ModuleType], weaken: str = "") -> None:
        self.memory: dict[Place, int] = {}
        self.steps: list[Step] = []
        self.answers: deque[int] | None = None
        self.weaken = weaken.split()
        atomics: dict[str, Callable] = {
            "load_acquire": self._load("load_acquire", "acquire"),
            "load_relaxed": self._load("load_relaxed", "relaxed"),
            "store_release": self._store("store_release", "release"),
            "store_relaxed": self._store("store_relaxed", "relaxed"),
            "fence_acquire": self._fence("fence_acquire", "acquire"),
            "fence_release": self._fence("fence_release", "release"),
            "fence_seq_cst": self._fence("fence_seq_cst", "seq_cst"),
            "cpu_pause": lambda: None,
            "copy_bytes": self._copy,
            "move_bytes": self._move,
        }
        for module in modules:
            for name, value in list(vars(module).items()):
                if name in atomics:
                    monkeypatch.setattr(module, name, atomics[name])
                elif isinstance(value, Dispatcher):
                    monkeypatch.setattr(module, name, value.py_func)

    def record(self, memory: dict[Place, int], program: Callable[[], Any]) -> list[Step]:
        """The steps of a program that runs alone on a copy of the memory."""
        self.memory, self.steps, self.answers = dict(memory), [], None
        program()
        return self.steps

    def replay(self, answers: Iterable[int], program: Callable[[], Any]) -> Any:
        """What a program returns when its loads are answered like this."""
        self.answers = deque(answers)
        return program()

    def _read(self, place: Place, order: str) -> int:
        if self.answers is not None:
            return self.answers.popleft()
        self.steps.append(Step("load", order, place))
        return self.memory.get(place, 0)

    def _write(self, place: Place, order: str, value: int) -> None:
        self.steps.append(Step("store", order, place, value))
        self.memory[place] = value

    def _load(self, name: str, order: str) -> Callable:
        def load(array: Shared, index: int) -> int:
            return self._read((array.name, int(index)), "relaxed" if name in self.weaken else order)

        return load

    def _store(self, name: str, order: str) -> Callable:
        def store(array: Shared, index: int, value: int) -> None:
            self._write((array.name, int(index)), "relaxed" if name in self.weaken else order, int(value))

        return store

    def _fence(self, name: str, order: str) -> Callable:
        def fence() -> None:
            if name not in self.weaken:
                self.steps.append(Step("fence", order))

        return fence

    def _copy(self, target: Any, target_at: int, source: Any, source_at: int, count: int) -> None:
        if isinstance(source, Shared):
            for word in range(count // 8):
                value = self._read((source.name, int(source_at) // 8 + word), "relaxed")
                target[target_at + 8 * word : target_at + 8 * word + 8].view(np.int64)[0] = value
        elif isinstance(target, Shared):
            values = np.ascontiguousarray(source[source_at : source_at + count]).view(np.int64)
            for word, value in enumerate(values):
                self._write((target.name, int(target_at) // 8 + word), "relaxed", int(value))
        else:
            target[target_at : target_at + count] = source[source_at : source_at + count].copy()

    @staticmethod
    def _move(array: np.ndarray, target_at: int, source_at: int, count: int) -> None:
        array[target_at : target_at + count] = array[source_at : source_at + count].copy()


def _stays_before(program: list[Step], first: int, second: int) -> bool:
    """Whether the second of two accesses has to wait for the first."""
    a, b = program[first], program[second]
    if a.place == b.place or (a.kind == "load" and a.order == "acquire"):
        return True
    if b.kind == "store" and b.order == "release":
        return True
    fences = {step.order for step in program[first:second] if step.kind == "fence"}
    return (
        "seq_cst" in fences or ("acquire" in fences and a.kind == "load") or ("release" in fences and b.kind == "store")
    )


def outcomes(memory: dict[Place, int], *programs: list[Step]) -> set[Outcome]:
    """Everything that the loads of the programs can return when they run at the same time."""
    accesses = [[at for at, step in enumerate(program) if step.kind != "fence"] for program in programs]
    waits_for = [
        {at: sum(1 << before for before in own if before < at and _stays_before(program, before, at)) for at in own}
        for program, own in zip(programs, accesses, strict=True)
    ]
    places = sorted({programs[p][at].place for p, own in enumerate(accesses) for at in own})
    index = {place: number for number, place in enumerate(places)}
    slot_of_load = [
        {at: number for number, at in enumerate(at for at in own if program[at].kind == "load")}
        for program, own in zip(programs, accesses, strict=True)
    ]
    start = (
        tuple(0 for _ in programs),
        tuple(memory.get(place, 0) for place in places),
        tuple((0,) * len(loads) for loads in slot_of_load),
    )
    seen = {start}
    todo = [start]
    found: set[Outcome] = set()
    while todo:
        done, values, loaded = todo.pop()
        finished = True
        for p, own in enumerate(accesses):
            for at in own:
                if done[p] >> at & 1:
                    continue
                finished = False
                if waits_for[p][at] & ~done[p]:
                    continue
                step = programs[p][at]
                place = index[step.place]
                next_values, next_loaded = values, loaded
                if step.kind == "store":
                    next_values = values[:place] + (step.value,) + values[place + 1 :]
                else:
                    mine = list(loaded[p])
                    mine[slot_of_load[p][at]] = values[place]
                    next_loaded = loaded[:p] + (tuple(mine),) + loaded[p + 1 :]
                state = (done[:p] + (done[p] | 1 << at,) + done[p + 1 :], next_values, next_loaded)
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
        if finished:
            found.add(loaded)
    return found
