"""What the source of a compiled strategy may say: what has the same bits on every processor, under any name."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from engine.strategies.plugin import StrategyError
from procs.strategy_rules import MAY_USE, check_source

HEAD = "from engine.strategies import api\nfrom engine.strategies.api import exp, log, math, np\n"


@pytest.mark.parametrize(("words", "refused"), [
    ("y = math.exp(1.0)", "math.exp"), ("from math import exp\ny = exp(1.0)", "math.exp"),
    ("from math import atan as tangent", "math.atan"), ("y = math.erf(2.0)", "math.erf"),
    ("y = math.sinh(2.0)", "math.sinh"), ("y = math.cbrt(2.0)", "math.cbrt"), ("y = math.pow(2.0, 0.5)", "math.pow"),
    ("y = math.hypot(2.0, 0.5)", "math.hypot"), ("y = math.fma(2.0, 0.5, 1.0)", "math.fma"),
    ("import numpy as n\ny = n.exp(1.0)", "n.exp"), ("import numpy\ny = numpy.arctan(1.0)", "numpy.arctan"),
    ("from numpy import sum as s", "numpy.sum"), ("from numpy import linalg", "numpy.linalg"),
    ("import numpy.linalg", "numpy.linalg"), ("import numpy.linalg as l", "numpy.linalg"),
    ("y = np.linalg.norm(np.zeros(3))", "np.linalg"), ("y = np.cumsum(np.zeros(3))", "np.cumsum"),
    ("y = api.np.exp(1.0)", "api.np.exp"), ("y = api.math.sin(1.0)", "api.math.sin"),
    ("from engine.strategies.plugin import np as q\ny = q.tanh(1.0)", "q.tanh"),
    ("q = np\ny = q.exp(1.0)", "np is a whole module"), ("def f(x):\n    q = api.math\n", "api.math is a whole module"),
    ("y = getattr(np, 'exp')(1.0)", "np is a whole module"), ("from numpy import *", "name what is imported"),
    ("def f(a):\n    return a.sum()", "a.sum"), ("def f(a):\n    return a[1:].mean()", "a[1:].mean"),
    ("def f(a, b):\n    return a @ b", "a @ b"), ("def f(a):\n    return a**0.3", "a ** 0.3"),
    ("def f(a, b):\n    return a**b", "a ** b"), ("def f(a):\n    a **= -0.5", "a **= -0.5"),
    ("def f(a):\n    return a**17", "a ** 17"), ("y = 1.1**3", "1.1 ** 3"), ("y = 10**-4", "10 ** (-4)"),
    ("def f(a, b):\n    return pow(a, b)", "pow"), ("y = open('x')", "open"), ("y = __import__('math')", "__import__"),
    ("y = np.random.random()", "np.random: a strategy is a function"),
    ("from numba import objmode", "numba.objmode: a strategy is a function"),
    ("import numba\n@numba.njit(fastmath=True)\ndef f(a):\n    return a", "fastmath"),
    ("import dataclasses\ny = dataclasses.sys.modules", "dataclasses.sys is the module 'sys'"),
    ("from engine.kernel import hashlib", "engine.kernel.hashlib is the module 'hashlib'"),
    ("from engine.there_is_none import x", "No module named"), ("from math import nothing", "math.nothing"),
])  # fmt: skip
def test_what_may_have_other_bits_elsewhere_is_refused_under_any_name(words: str, refused: str) -> None:
    with pytest.raises(StrategyError, match=re.escape(refused)) as caught:
        check_source(Path("mine.py"), ast.parse(HEAD + words))
    assert re.match(r"mine\.py, line \d+: ", str(caught.value))


@pytest.mark.parametrize("words", [
    "y = math.sqrt(2.0) + math.floor(1.5) + math.copysign(1.0, -0.0) + math.nan",
    "from math import isfinite, ceil as up",
    "import numpy as n\ny = n.zeros(3, n.int64)", "from numpy import sqrt, float64 as number",
    "def f(a: np.ndarray, b: np.record):\n    return a**2 + a**-1 + a.max() + b.sum + b.mean", "y = 10**8 + 2**16",
    "def f(a):\n    return exp(0.3 * log(a))", "y = api.exp(1.0) + api.np.sqrt(2.0)", "y = min(max(1, 2), abs(-3))",
    "from numba import types\ny = types.float64(types.int64)", "import engine.maths\ny = engine.maths.exp(1.0)",
    "import typing, enum, dataclasses\n@dataclasses.dataclass\nclass P:\n    a: typing.Any = 1",
    "def pow(a, b):\n    return a\ny = pow(1, 2)",
])  # fmt: skip
def test_what_has_the_same_bits_everywhere_may_be_used(words: str) -> None:
    check_source(Path("mine.py"), ast.parse(HEAD + words))


@pytest.mark.parametrize("module", MAY_USE)
def test_every_name_that_may_be_used_is_there_and_in_the_guide(module: str) -> None:
    assert all(hasattr(importlib.import_module(module), name) for name in MAY_USE[module])
    (row,) = re.findall(rf"^\| `{module}` \| (.*) \|$", Path("docs/strategies.md").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"\w+", row)) == sorted(MAY_USE[module])
