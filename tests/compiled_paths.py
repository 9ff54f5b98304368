"""What a compiled function does to shared memory on each way through it: the optimiser lays blocks out as it likes."""

from __future__ import annotations

import re
from collections.abc import Callable

import numba
import pytest
from numba import types

from tests.test_shm_atomics import body

plain_build = pytest.mark.skipif(numba.config.BOUNDSCHECK == 1, reason="a checked build has other ways out")

_ACCESSES = {
    r"load atomic i64, .* acquire": "load acquire",
    r"load atomic i64, .* monotonic": "load relaxed",
    r"store atomic i64 .* release": "store release",
    r"store atomic i64 .* monotonic": "store relaxed",
    r"fence (\w+)": "fence",
    r"call void @llvm\.memcpy": "copy",
}


def paths(function: Callable, *arguments: types.Type) -> set[tuple[str, ...]]:
    """The atomics, fences and copies on every path from entry to return on which no block comes twice, in order."""
    text = body(function, *arguments)
    blocks: dict[str, tuple[list[str], list[str]]] = {}
    name = entry = ""
    for line in text.splitlines()[1:]:
        label = re.match(r"([\w.$-]+|\"[^\"]+\"):", line)
        if label or not entry:
            name = label.group(1).strip('"') if label else "entry"
            entry = entry or name
            blocks[name] = ([], [])
        done, successors = blocks[name]
        for pattern, kind in _ACCESSES.items():
            found = re.search(pattern, line)
            if found:
                done.append(f"fence {found[1]}" if kind == "fence" else kind)
        successors += [target.strip('"') for target in re.findall(r"label %(\"[^\"]+\"|[\w.$-]+)", line)]

    found_paths: set[tuple[str, ...]] = set()
    todo: list[tuple[str, tuple[str, ...], frozenset[str]]] = [(entry, (), frozenset())]
    while todo:
        block, so_far, been = todo.pop()
        done, successors = blocks[block]
        so_far += tuple(done)
        if not successors:
            found_paths.add(so_far)
        todo += [(target, so_far, been | {block}) for target in successors if target not in been | {block}]
    return found_paths
