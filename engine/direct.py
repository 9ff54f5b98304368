"""Calling a kernel from Python without the dispatcher, which looks up the type of every argument: 150-250 ns a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def direct(kernel: Any) -> Callable[..., Any]:
    """The compiled function of a kernel with one signature, for who calls it for every frame.

    It takes what the signature says and compiles nothing. Numbers are converted (enumerations too, fractions are cut
    off), and of an array only the size of its items is checked: bind it where the dtypes are known to be right.
    """
    (compiled,) = kernel.overloads.values()
    function: Callable[..., Any] = compiled.entry_point
    return function
