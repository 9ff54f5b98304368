"""ccxt with one of its exchanges: its package imports more than a hundred, and a gateway has one venue.

The others cost the gateway, and the standby beside it, half a second of a core at every start and 35 MB for good.
The exchange's own class, what it is made of and the errors are ccxt's, unchanged.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys


def import_one_exchange(name: str) -> None:
    """Make `import ccxt` in this process give a package with its errors and one exchange, such as binanceusdm.

    Does nothing where ccxt was imported before. Raises ModuleNotFoundError.
    """
    if "ccxt" in sys.modules:
        return
    spec = importlib.util.find_spec("ccxt")
    if spec is None:
        raise ModuleNotFoundError("ccxt is not installed")
    package = importlib.util.module_from_spec(spec)  # its code, with all those imports, is not run
    sys.modules["ccxt"] = package
    errors = importlib.import_module("ccxt.base.errors")
    vars(package).update({error: getattr(errors, error) for error in errors.__all__})
    setattr(package, name, getattr(importlib.import_module(f"ccxt.{name}"), name))
