"""What all tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from numba.core.dispatcher import _DispatcherBase

import tests.profiles  # noqa: F401 - takes effect by being imported

if TYPE_CHECKING:  # what only some tests need is imported where it is made
    from tests.embedded_venue import RunningVenue
    from tests.pump_bench import Bench
    from tests.trading_desk import Desk


@pytest.fixture(scope="session", autouse=True)
def no_signal_to_ourselves() -> Iterator[None]:
    """The pid of a process that has not been started is 0, which stands for everybody in the tests' own group."""
    send = os.kill

    def guarded(pid: int, signum: int) -> None:
        if pid <= 0:
            raise ValueError(f"os.kill({pid}, {signum}): no process of its own")
        send(pid, signum)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", guarded)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_enum_for_a_kernel() -> Iterator[None]:
    """numba looks at every member of an enum in each call with one: 20 us instead of 0.2. Only tests may."""
    look, tests = _DispatcherBase.typeof_pyval, Path(__file__).parent

    def guarded(self: _DispatcherBase, value: Any) -> Any:
        caller = sys._getframe(1).f_code.co_filename
        if isinstance(value, Enum) and not caller.endswith("dispatcher.py") and tests not in Path(caller).parents:
            raise TypeError(f"{self.py_func.__qualname__} is given {value!r} at {caller}:{sys._getframe(1).f_lineno}")
        return look(self, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_DispatcherBase, "typeof_pyval", guarded)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_files_for_the_next() -> Iterator[None]:
    """Processes that a test plays hold their files in cycles: without a collection a long run gathers a thousand."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def venue() -> Iterator[RunningVenue]:
    """The embedded exchange in this process, for all tests of a file."""
    from tests.embedded_venue import running_venue

    with running_venue() as running:
        yield running


@pytest.fixture
def desk(venue: RunningVenue, request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A trading client on it, with a session of its own."""
    from tests.trading_desk import desk_on

    with desk_on(venue, request.node.name) as made:
        yield made


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """A maker of pumps between the two hands of a test."""
    from tests.pump_bench import benches

    with benches() as make:
        yield make
