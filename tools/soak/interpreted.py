"""The decoders' kernels a second time, interpreted: the same source, run by Python, for a fuzzer that follows coverage.

A tool that instruments byte code sees nothing of a compiled kernel. Here the modules of `INTERPRETED` are executed
again from their source under names of their own, with these in the place of what only a compiler understands:

    @kernel        a function whose syntax tree was rewritten (rewriting.py): int64 arithmetic, loops with a bound
    intrinsics     `_address_of` knows the frame at hand; `_load_byte` is one of its bytes
    records        objects over the same bytes; a number that its field cannot hold raises, and is not cut

So what the interpreted kernels answer is what the compiled ones must answer, bit for bit: same state, same records. And
how often each of their ways was taken is counted, which is what a fuzzer follows.

Invariants: nothing of the modules in use is changed; turns of loops are counted, so that a kernel that does not come to
an end is found without a clock. Known limits: signed 64-bit arithmetic only (engine/units.py stays compiled); kernels
run some hundred times slower than compiled.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
from collections.abc import Callable, Mapping
from itertools import compress, repeat
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tools.soak.rewriting import Rewriting, wrapped

INTERPRETED = ("engine.ingest", "engine.integrity.wire_checksum", "tools.soak.number_kernels")
_CODES = {"<i8": "q", "<u2": "H", "|u1": "B", "|i1": "b"}
_SIZES = {"q": 8, "H": 2, "B": 1, "b": 1}


class EndlessLoop(AssertionError):
    """A kernel has made more turns than any frame of that length needs."""


class _Bytes(dict[int, int]):
    """The bytes of a frame by their places. A subscript of it costs no call, and no negative one means anything."""

    def __missing__(self, place: int) -> int:
        raise IndexError(f"a read at {place}, outside the frame")


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
    """The interpreted modules."""

    def __init__(self, edits: Mapping[str, tuple[str, str]] | None = None) -> None:
        """edits: by module, a piece of its source that is there once, and what stands in its place (for tests)."""
        self.counts: list[int] = []  # a place for each way, whole once all modules were asked for
        self.names: dict[str, None] = {}  # words of the wire formats, in the order in which they were met
        self._edits = dict(edits or {})
        self._modules: dict[str, ModuleType] = {}
        self._frame = b""
        self._bytes = _Bytes()
        self._noted: set[int] = set()
        self._rewriting = Rewriting(self.counts)
        intrinsics = {"_address_of": self._address_of, "_load_byte": self._load_byte}
        self._compiler = SimpleNamespace(kernel=_kernel, checked_mode=lambda: True)
        self._extending = SimpleNamespace(intrinsic=lambda function: intrinsics[function.__name__])

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
                self._rewriting.kernel(node)
        self.names |= dict.fromkeys(_words(tree))
        module = ModuleType(f"interpreted.{name}")
        space = vars(module)
        space["__builtins__"] = {**vars(builtins), "__import__": self._import}
        space |= {"_wrapped": wrapped, "_endless": _endless, "_note": self._noted.add, "_bytes": self._bytes}
        exec(compile(ast.fix_missing_locations(tree), spec.origin, "exec"), space)
        for key, value in list(space.items()):
            space[key] = _plain(value)
        if "np" in space:
            space["np"] = _Numpy()
        space |= {"_counts": self.counts, "_turns": repeat(None, 0)}
        return module

    def _import(self, name: str, space: Any, local: Any, wanted: Any, level: int = 0) -> Any:
        if name.startswith(INTERPRETED) and wanted:
            return self.module(name)
        if name == "engine.kernel":
            return self._compiler
        if name == "numba.extending":
            return self._extending
        return builtins.__import__(name, space, local, wanted, level)

    def hold(self, frame: bytes, turns: int) -> None:
        """The frame that is read from now on, and how many turns the loops of all kernels may make together."""
        self._frame = frame
        self._bytes.clear()
        self._bytes.update(enumerate(frame))
        left = repeat(None, turns)
        for module in self._modules.values():
            vars(module)["_turns"] = left

    def _address_of(self, frame: bytes) -> int:
        if frame is not self._frame:
            raise AssertionError("a frame that was not announced")
        return 0

    def _load_byte(self, address: int) -> int:
        return self._bytes[address]

    def take_ways(self) -> dict[int, int]:
        """How often each way was taken since the last call, by its number; those that were only noted once."""
        ways = compress(range(len(self.counts)), self.counts)
        taken = dict.fromkeys(self._noted, 1) | {way: self.counts[way] for way in ways}
        self.counts[:] = [0] * len(self.counts)
        self._noted.clear()
        return taken


def _kernel(signature: Any = None, **options: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda function: function


def _endless() -> None:
    raise EndlessLoop("more turns than a frame of that length needs")


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
