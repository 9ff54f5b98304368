"""The processes of Bot4 and everything that touches the outside world."""

from importlib.metadata import version

import engine.kernel  # noqa: F401  # first: its cache locator serves the kernels of shm too

VERSION = version("bot4")
