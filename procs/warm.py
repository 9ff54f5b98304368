"""Compile every kernel once, in one process, before any fleet starts: `python -m procs.warm`.

Importing a module compiles its entry points or loads them from the cache. numba's cache index is not safe against two
processes that compile at once, so this runs alone.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

FLOORS = ("shm", "engine", "procs", "models")


def warm() -> int:
    """Import every module of the floors that hold kernels. Returns how many."""
    count = 0
    for floor in FLOORS:
        package = importlib.import_module(floor)
        for module in pkgutil.walk_packages(package.__path__, f"{floor}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
                count += 1
    return count


if __name__ == "__main__":
    sys.exit(0 if warm() else 1)
