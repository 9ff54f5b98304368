"""What the source of a compiled strategy may say, so that its results are a function of its inputs on any processor.

A session is replayed on other machines, and its decision hash must come out there. IEEE 754 fixes the bits of
+ - * / and sqrt, of comparisons and of rounding to whole numbers; those of exp, sin or a power come from a library
that chooses its code by the processor, and those of a sum from the order in which the processor adds. So of math,
numpy and numba a file may use what `MAY_USE` names and nothing else, under whatever name it imports it.

Limits: this guards against what is written by accident. Strategy files are trusted code, and Python has ways around any
such look at its source.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.strategies.plugin import StrategyError

MAY_IMPORT = frozenset({"__future__", "dataclasses", "engine", "enum", "math", "numba", "numpy", "typing"})


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TYPES = "float32 float64 int8 int16 int32 int64 intp uint8 uint16 uint32 uint64 uintp"
# docs/strategies.md has these lists too.
MAY_USE = {
    "math": _names(
        "ceil copysign degrees e fabs floor fmod frexp gcd inf isfinite isinf isnan ldexp nan pi radians sqrt tau trunc"
    ),
    "numpy": _names(
        f"{_TYPES} bool_ dtype record ndarray void e inf nan newaxis pi "
        "arange array asarray empty empty_like full full_like ones ones_like zeros zeros_like "
        "abs absolute add ceil clip copysign divide fabs floor floor_divide fmax fmin fmod maximum minimum multiply "
        "negative remainder rint sign signbit sqrt square subtract true_divide trunc where "
        "all any amax amin argmax argmin argsort count_nonzero max min searchsorted sort "
        "equal greater greater_equal isfinite isinf isnan less less_equal logical_and logical_not logical_or "
        "logical_xor not_equal bitwise_and bitwise_or bitwise_xor invert left_shift right_shift"
    ),
    "numba": _names(f"{_TYPES} boolean njit types void"),
}
_REDUCTIONS = _names("cumprod cumsum dot mean prod std sum trace var")  # of arrays, as methods
_HIDDEN_CALLS = _names("__import__ compile eval exec getattr globals input open vars")
_HIDDEN_OPTIONS = _names("fastmath parallel")
LARGEST_EXPONENT = 16
_HOW = "exp and log of engine.strategies.api do not, sums are loops (docs/strategies.md says what may be used)"
_REORDERED = "sums of arrays are added in another order on another processor; write a loop"
_FUNCTION = "a strategy is a function of its arguments"


class _Bound:
    """What the names of a file stand for that it imports, wherever in the file it does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}

    def bind(self, node: ast.Import | ast.ImportFrom) -> None:
        """Take the names of an import. Raises StrategyError for one that a strategy may not have."""
        if isinstance(node, ast.ImportFrom):
            module = "." if node.level else node.module or "."
            found = self._module(module, node)
            for alias in node.names:
                if alias.name == "*":
                    raise self.refused(node, f"from {module} import *: name what is imported")
                value = self._taken(found, alias.name, f"{module}.{alias.name}", node)
                self._values[alias.asname or alias.name] = value
            return
        for alias in node.names:
            found = self._module(alias.name, node)
            top = alias.name.split(".")[0]
            self._values[alias.asname or top] = found if alias.asname else importlib.import_module(top)
            if alias.name != top:  # numpy.linalg, say, under its name or another
                self._check_module(found, alias.name, node)

    def refused(self, node: ast.AST, words: str) -> StrategyError:
        """The error that names the file and the line."""
        return StrategyError(f"{self._path}, line {getattr(node, 'lineno', 0)}: {words}")

    def check(self, node: ast.Name | ast.Attribute) -> None:
        """Refuse a name, or a chain of attributes of one, that is or goes through what may not be used."""
        words = ast.unparse(node)
        base, parts = _chain(node)
        if base not in self._values:
            return
        value = self._values[base]
        for place, part in enumerate(parts, 1):
            if not isinstance(value, ModuleType):
                return  # an attribute of a value: fields, methods and the like
            value = self._taken(value, part, ".".join([base, *parts[:place]]), node)
        if isinstance(value, ModuleType) and _root(value) in MAY_USE and value.__name__ != "numba.core.types":
            raise self.refused(node, f"{words} is a whole module: name the function of it that is used")

    def _module(self, name: str, node: ast.AST) -> ModuleType:
        if name.split(".", maxsplit=1)[0] not in MAY_IMPORT:
            raise self.refused(
                node, f"imports {name!r}; a strategy is one file that may import {', '.join(sorted(MAY_IMPORT))}"
            )
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise self.refused(node, f"ImportError: {error}") from None

    def _taken(self, module: ModuleType, name: str, words: str, node: ast.AST) -> Any:
        """The value of a name of a module. Raises StrategyError where a strategy may not use it."""
        if module.__name__ in MAY_USE and name not in MAY_USE[module.__name__]:
            raise self.refused(
                node, f"{words}: {_FUNCTION}" if name in ("random", "objmode")
                else f"{words} gives other bits on another processor, or may; {_HOW}"
            )
        try:
            value = getattr(module, name)
        except AttributeError:
            try:
                value = importlib.import_module(f"{module.__name__}.{name}")
            except ImportError:
                raise self.refused(node, f"there is no {words}") from None
        self._check_module(value, words, node)
        if module.__name__ in MAY_USE:
            return value
        # `from engine.x import exp` may bring a function of numpy's or of the mathematics library.
        home = "numpy" if type(value).__name__ == "ufunc" else getattr(value, "__module__", "")
        if home in MAY_USE and callable(value) and (own := getattr(value, "__name__", name)) not in MAY_USE[home]:
            raise self.refused(node, f"{words} is {home}.{own}, which gives other bits on another processor; {_HOW}")
        return value

    def _check_module(self, value: Any, words: str, node: ast.AST) -> None:
        if not isinstance(value, ModuleType) or value.__name__ == "numba.core.types":
            return
        if _root(value) not in MAY_IMPORT:
            raise self.refused(node, f"{words} is the module {value.__name__!r}: {_FUNCTION}")
        if _root(value) in MAY_USE and value.__name__ not in MAY_USE:
            raise self.refused(node, f"{words}: {_FUNCTION}, and of {_root(value)} not all parts give the same bits "
                               f"everywhere; {_HOW}")


def _root(module: ModuleType) -> str:
    return module.__name__.split(".")[0]


def _chain(node: ast.AST) -> tuple[str, list[str]]:
    """The name at the left of a chain such as `np.linalg.norm`, and its attributes; '' where it is no name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else ""), parts


def _chains(tree: ast.AST) -> Iterator[ast.Name | ast.Attribute]:
    """Every whole chain of attributes, and every name that is no part of one."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in inner:
            yield node


def _small_power(base: ast.expr, exponent: ast.expr) -> bool:
    """Whether a power is a product of few factors. A constant's is worked out by Python, so only of whole numbers."""
    negative = isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub)
    number = exponent.operand if isinstance(exponent, ast.UnaryOp) and negative else exponent
    if not isinstance(number, ast.Constant) or type(number.value) is not int or number.value > LARGEST_EXPONENT:
        return False
    operand = base.operand if isinstance(base, ast.UnaryOp) else base
    return not isinstance(operand, ast.Constant) or (type(operand.value) is int and not negative)


def check_source(path: Path, tree: ast.Module) -> None:
    """Refuse what would make a file more than itself, or its results less than a function of its inputs.

    path: for the message. Raises StrategyError that names file and line.
    """
    bound = _Bound(path)
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound.bind(node)
    for chain in _chains(tree):
        bound.check(chain)
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    for node in nodes:
        if isinstance(node, ast.BinOp | ast.AugAssign):
            base, exponent = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
            if isinstance(node.op, ast.MatMult):
                raise bound.refused(node, f"{ast.unparse(node)}: {_REORDERED}")
            if isinstance(node.op, ast.Pow) and not _small_power(base, exponent):
                raise bound.refused(
                    node, f"{ast.unparse(node)} gives other bits on another processor: a power is one of a variable by "
                    f"a written whole number up to {LARGEST_EXPONENT}, or made of exp and log of engine.strategies.api"
                )
        elif isinstance(node, ast.Call):
            _check_call(bound, node, own)


def _check_call(bound: _Bound, call: ast.Call, own: set[str]) -> None:
    """Refuse calls of built-in functions that look elsewhere, powers, and reductions of arrays."""
    if isinstance(call.func, ast.Name) and call.func.id not in own:
        if call.func.id in _HIDDEN_CALLS:
            raise bound.refused(call, f"{call.func.id}: {_FUNCTION}")
        if call.func.id == "pow":
            raise bound.refused(call, f"pow gives other bits on another processor; write x**n, with n up to "
                                f"{LARGEST_EXPONENT}")
    if isinstance(call.func, ast.Attribute) and call.func.attr in _REDUCTIONS:
        raise bound.refused(call, f"{ast.unparse(call.func)}: {_REORDERED}")
    for option in call.keywords:
        if option.arg in _HIDDEN_OPTIONS:
            raise bound.refused(call, f"{option.arg}: kernels are compiled without it, so that their bits are the same "
                                "everywhere")
