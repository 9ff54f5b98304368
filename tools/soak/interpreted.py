"""The decoders' kernels a second time, interpreted: the same source, run by Python, for a fuzzer that follows coverage.

A tool that instruments byte code sees nothing of a compiled kernel. Here the modules of `INTERPRETED` are executed
again from their source under names of their own, with four things in the place of what only a compiler understands:

    @kernel                  leaves the function as it is, and notes it
    intrinsics               `_address_of` and `_load_byte` over the frame at hand; a read outside it raises IndexError
    records                  objects over the same bytes; a number that its field cannot hold raises, and is not cut
    + - * << and unary -     the result of int64 arithmetic, by a call around each of them in the syntax tree

So what the interpreted kernels answer is what the compiled ones must answer, bit for bit: same state, same records.

Invariants: nothing of the modules in use is changed; bytes read are counted, so that a kernel that does not come to an
end is found without a clock. Known limits: signed 64-bit arithmetic only (engine/units.py stays compiled); kernels run
some hundred times slower than compiled.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

INTERPRETED = ("engine.ingest", "engine.integrity.wire_checksum", "tools.soak.number_kernels")
_LEAST, _MOST, _SPAN = -(1 << 63), (1 << 63) - 1, 1 << 64
_CODES = {"<i8": "q", "<u2": "H", "|u1": "B", "|i1": "b"}
_SIZES = {"q": 8, "H": 2, "B": 1, "b": 1}


class EndlessRead(AssertionError):
    """A kernel has read more bytes than any frame of that length needs."""


def wrapped(value: Any) -> Any:
    """An integer as int64 arithmetic leaves it; floats pass."""
    if _LEAST <= value <= _MOST or isinstance(value, float):
        return value
    return (value - _LEAST) % _SPAN + _LEAST


class _Wrap(ast.NodeTransformer):
    """Puts a call of `_wrapped` around whatever can leave the range of int64."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return _call(node) if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.LShift) else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return node if not isinstance(node.op, ast.USub) or isinstance(node.operand, ast.Constant) else _call(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.target, ast.Name):
            return node  # a field of a record, which holds what fits and raises otherwise
        read = ast.Name(node.target.id, ast.Load())
        return ast.Assign([node.target], _call(ast.BinOp(read, node.op, node.value)))


def _call(node: ast.expr) -> ast.Call:
    return ast.Call(ast.Name("_wrapped", ast.Load()), [node], [])


def _is_kernel(function: ast.FunctionDef) -> bool:
    return any(isinstance(item, ast.Call) and ast.unparse(item.func) == "kernel" for item in function.decorator_list)


def _words(tree: ast.Module) -> list[str]:
    """The strings that a module compares what it reads with."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call for call in calls if ast.unparse(call.func) in ("pack_name", "make_names")]
    return [str(item.value) for call in named for item in call.args if isinstance(item, ast.Constant)]


class _Numpy:
    """numpy, but for the conversion that kernels use: a plain integer, which Python calculates with exactly."""

    int64 = int

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _plain(value: Any) -> Any:
    """A constant of a module as kernels are to see it: plain integers, and arrays whose items are."""
    if isinstance(value, np.integer):
        return int(value)
    return view_of(value) if isinstance(value, np.ndarray) else value


def view_of(array: Any) -> memoryview:
    """An array whose items are plain integers, and which takes none that does not fit."""
    return memoryview(array)


class Interpreter:
    """The interpreted modules. `kernels` are their functions by module and name, before anybody instruments them."""

    def __init__(self, edits: Mapping[str, tuple[str, str]] | None = None) -> None:
        """edits: by module, a piece of its source that is there once, and what stands in its place (for tests)."""
        self.kernels: dict[str, Callable[..., Any]] = {}
        self.names: dict[str, None] = {}  # words of the wire formats, in the order in which they were met
        self.reads_left = 0
        self._edits = dict(edits or {})
        self._modules: dict[str, ModuleType] = {}
        self._frame = b""
        self._intrinsics: dict[str, Callable[..., int]] = {
            "_address_of": self._address_of, "_load_byte": self._load_byte,
        }
        self._compiler = SimpleNamespace(kernel=self._kernel, checked_mode=lambda: True)
        self._extending = SimpleNamespace(intrinsic=lambda function: self._intrinsics[function.__name__])

    def module(self, name: str) -> ModuleType:
        """The interpreted module of that name."""
        if name not in self._modules:
            self._modules[name] = self._execute(name)
        return self._modules[name]

    def _execute(self, name: str) -> ModuleType:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, name
        source = Path(spec.origin).read_text()
        if name in self._edits:
            old, new = self._edits.pop(name)
            if source.count(old) != 1:
                raise ValueError(f"{name}: {old!r} is there {source.count(old)} times")
            source = source.replace(old, new)
        tree = ast.parse(source, spec.origin)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and _is_kernel(node):
                _Wrap().generic_visit(node)
        self.names |= dict.fromkeys(_words(tree))
        module = ModuleType(f"interpreted.{name}")
        space = vars(module)
        space["__builtins__"] = {**vars(builtins), "__import__": self._import}
        space["_wrapped"] = wrapped
        exec(compile(ast.fix_missing_locations(tree), spec.origin, "exec"), space)
        for key, value in list(space.items()):
            space[key] = _plain(value)
        if "np" in space:
            space["np"] = _Numpy()
        return module

    def _import(self, name: str, space: Any, local: Any, wanted: Any, level: int = 0) -> Any:
        if name.startswith(INTERPRETED) and wanted:
            return self.module(name)
        if name == "engine.kernel":
            return self._compiler
        if name == "numba.extending":
            return self._extending
        return builtins.__import__(name, space, local, wanted, level)

    def _kernel(self, signature: Any = None, **options: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def note(function: Callable[..., Any]) -> Callable[..., Any]:
            self.kernels[f"{function.__module__}.{function.__name__}"] = function
            return function

        return note

    def hold(self, frame: bytes, reads: int) -> None:
        """The frame that is read from now on, and how many bytes of it may be read, each time counted."""
        self._frame = frame
        self.reads_left = reads

    def _address_of(self, frame: bytes) -> int:
        if frame is not self._frame:
            raise AssertionError("a frame that was not announced")
        return 0

    def _load_byte(self, address: int) -> int:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise EndlessRead("more bytes were read than a frame of that length needs")
        if address < 0:
            raise IndexError("read before the frame")
        return self._frame[address]


class Buffer:
    """A state or an outbox as kernels are given it: bytes, of which `view` makes records."""

    def __init__(self, array: np.ndarray) -> None:
        """array: contiguous, of one structured dtype; it is written to."""
        self._records = (_Single if len(array) == 1 else _Rows)(array)
        self._dtype = array.dtype
        self._size = array.nbytes

    def __len__(self) -> int:
        return self._size

    def view(self, dtype: np.dtype) -> Any:
        """The records. Raises AssertionError for another dtype than that of the array."""
        if dtype != self._dtype:
            raise AssertionError("a buffer of another dtype")
        return self._records


def _views(array: np.ndarray) -> dict[str, memoryview]:
    raw: Any = view_of(array.view(np.uint8).reshape(-1))
    return {code: raw.cast(code) for code in _SIZES if array.dtype.itemsize % _SIZES[code] == 0}


def _scalar(view: memoryview, place: int, stride: int) -> property:
    def read(record: Any) -> Any:
        return view[record.at * stride + place]

    def write(record: Any, value: int) -> None:
        view[record.at * stride + place] = value

    return property(read, write)


def _record_class(array: np.ndarray) -> type:
    """A class whose objects are the records of this array: `at` says which."""
    views = _views(array)
    space: dict[str, Any] = {"__slots__": ("at",)}
    for name, (kind, offset, *_) in (array.dtype.fields or {}).items():
        if kind.subdtype is not None:
            space[name] = view_of(array[name][0])  # of the one record there is
            continue
        code = _CODES[kind.str]
        space[name] = _scalar(views[code], offset // _SIZES[code], array.dtype.itemsize // _SIZES[code])
    return type("Record", (), space)


class _Single:
    """The one record of a state, as an array of one."""

    def __init__(self, array: np.ndarray) -> None:
        self._record = _record_class(array)()
        self._record.at = 0

    def __getitem__(self, at: int) -> Any:
        if at != 0:
            raise IndexError("a state is one record")
        return self._record


class _Rows:
    """The records of an outbox."""

    def __init__(self, array: np.ndarray) -> None:
        self._class = _record_class(array)
        self._array = array

    def __getitem__(self, at: int) -> Any:
        if not 0 <= at < len(self._array):
            raise IndexError("outside the outbox")
        record = self._class()
        record.at = at
        return record

    def __setitem__(self, at: int, record: Any) -> None:
        if not 0 <= at < len(self._array):
            raise IndexError("outside the outbox")
        self._array[at] = self._array[record.at]
