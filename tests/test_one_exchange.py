"""What a gateway has of ccxt: all that the code asks for, of one exchange, and no other."""

from __future__ import annotations

import re
import subprocess
import sys

import ccxt

from engine.kernel import PROJECT_ROOT

# Prints the names that are missing, those that are not ccxt's own, and how many exchanges were imported.
_CODE = """
import sys
from procs.venues.one_exchange import import_one_exchange
import_one_exchange("binanceusdm")
import procs.gateway, ccxt
package = sys.modules["ccxt"]
import_one_exchange("kraken")  # too late: nothing happens
assert sys.modules["ccxt"] is package and package.binanceusdm({}).id == "binanceusdm"
names = sys.argv[1:]
print([name for name in names if not hasattr(ccxt, name)])
print([name for name in names if not getattr(ccxt, name).__module__.startswith("ccxt.")])
print(len([name for name in sys.modules if name.startswith("ccxt.") and name.count(".") == 1]))
"""


def test_a_gateway_imports_the_one_exchange_that_it_trades_at() -> None:
    texts = [path.read_text() for path in (PROJECT_ROOT / "procs").rglob("*.py")]
    names = sorted({name for text in texts for name in re.findall(r"\bccxt\.([A-Za-z]\w+)", text)} - {"base"})
    assert {"binanceusdm", "BaseError", "OrderNotFound"} <= set(names) and all(hasattr(ccxt, name) for name in names)
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *names], capture_output=True, text=True, timeout=60, check=True, cwd=PROJECT_ROOT
    )
    missing, strangers, imported = done.stdout.splitlines()
    assert missing == strangers == "[]"
    assert int(imported) < 10 < len(ccxt.exchanges)
