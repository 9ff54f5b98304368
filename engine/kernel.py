"""The one way to declare a compiled kernel, and a disk cache that cannot go stale.

numba stamps a cached kernel with the hash of its own source file only: after an edit of an imported kernel or
constant the caller still loads its old code (numba issue 1833), and a cache made without bounds checks is used
in silence when they are asked for. Here the stamp is the hash of the module *and of every project module that
it imports, directly or not*, plus versions and flags; checked builds live in a folder of their own.

numba also gives its cache files numbers, so that two processes which compile at once can overwrite each other's code
under one name, and load the wrong one. Here a file is named by what it holds, and is there before the index says so.

Kernels use no fastmath, no parallel and no SVML: their results feed the decision hash and must not change with
the processor. Source: numba/core/caching.py (locator protocol).
"""

from __future__ import annotations

import ast
import functools
import glob
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")

import llvmlite
import numba
import numpy as np
from numba.core import caching
from numba.core import config as numba_config
from numba.core.caching import CacheImpl, InTreeCacheLocator, UserWideCacheLocator


def _load_arrays_without_scipy() -> None:
    """Import numba's arrays, which look for scipy's BLAS: importing that is a fifth of the time in which a process
    starts, and 20 MB. No kernel asks for it: np.dot does not add in the same order on every machine.
    """
    if "scipy.linalg" in sys.modules:
        return
    sys.modules["scipy.linalg"] = None  # type: ignore[assignment]  # an import of it fails for this moment
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules["scipy.linalg"]


_load_arrays_without_scipy()

PROJECT_ROOT = Path(__file__).resolve().parent.parent
NOTED_IMPORTS = PROJECT_ROOT / "engine" / "__pycache__" / "imports.json"
_looked_at: set[Path] = set()  # files whose imports were asked for


def checked_mode() -> bool:
    """True when this interpreter compiles kernels with bounds checks (NUMBA_BOUNDSCHECK=1)."""
    return bool(numba_config.BOUNDSCHECK)


@functools.cache
def _import_root(path: Path) -> Path:
    """The folder that must be on sys.path for the file to be imported under its full name."""
    folder = path.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


@functools.cache
def _module_files(name: str, roots: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files that importing a dotted name reads, its packages included; empty for a library."""
    for root in roots:
        if files := _files_below(str(root), name):
            return files
    return ()


@functools.cache
def _files_below(root: str, name: str) -> tuple[Path, ...]:
    """Those of a dotted name in one folder; what is no module there (a function, say) ends the name."""
    package = name.rpartition(".")[0]
    above = _files_below(root, package) if package else ()
    if package and (not above or above[-1].name != "__init__.py"):
        return above  # nothing lies below a module
    base = f"{root}/{name.replace('.', '/')}"
    for file in (f"{base}/__init__.py", f"{base}.py"):
        if os.path.isfile(file):
            return (*above, Path(os.path.realpath(file)))
    return above


@functools.cache
def _noted_imports() -> dict[str, list[str]]:
    """What `note_imports` has left: names by the digest of a file's content and package; empty where it was not run."""
    try:
        noted: dict[str, list[str]] = json.loads(NOTED_IMPORTS.read_bytes())
    except (OSError, ValueError):
        return {}
    return noted


def note_imports() -> None:
    """Keep what every file imports that this process has looked at.

    Parsing them takes a third of the time in which a process starts. Each entry belongs to a content, so it cannot
    become stale; a file that was edited since is parsed.
    """
    names = {_imports_key(file): _imported_names(file) for file in _looked_at}
    try:
        NOTED_IMPORTS.parent.mkdir(exist_ok=True)
        beside = NOTED_IMPORTS.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(names))
        beside.replace(NOTED_IMPORTS)
    except OSError:  # an installation that this user may not write to: each process parses
        return


def _imports_key(path: Path) -> str:
    return hashlib.sha256(_file_digest(path) + "/".join(_package(path)).encode()).hexdigest()


@functools.cache
def _package(path: Path) -> tuple[str, ...]:
    """Names of the packages that a file lies in, the outermost first."""
    return path.relative_to(_import_root(path)).parent.parts


@functools.cache
def _imported_names(path: Path) -> list[str]:
    """Every dotted name that a file may import, anywhere in it, relative imports resolved."""
    if (noted := _noted_imports().get(_imports_key(path))) is not None:
        return noted
    package = list(_package(path))
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(above + ([node.module] if node.module else []))
            if base:
                names.append(base)
            names += [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
    return names


# A process reads each source file once: a kernel's code is what it was when the process imported it.
@functools.cache
def _imported_files(path: Path) -> tuple[Path, ...]:
    """The project files that a file imports itself."""
    _looked_at.add(path)
    roots = (_import_root(path), PROJECT_ROOT)
    return tuple(file for name in dict.fromkeys(_imported_names(path)) for file in _module_files(name, roots))


@functools.cache
def _file_digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@functools.cache
def source_closure(path: Path) -> tuple[Path, ...]:
    """The file and every project file that it imports, directly or not, sorted."""
    seen: set[Path] = set()
    todo = [path.resolve()]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += _imported_files(current)
    return tuple(sorted(seen))


@functools.cache
def kernel_stamp(path: Path) -> str:
    """Hex SHA-256 over the source closure of a file, the compiler versions and the compile flags."""
    digest = hashlib.sha256()
    for file in source_closure(path):
        digest.update(file.name.encode() + b"\0" + _file_digest(file))
    flags = (
        numba.__version__, llvmlite.__version__, np.__version__,
        numba_config.BOUNDSCHECK, numba_config.OPT, numba_config.DEBUGINFO_DEFAULT,
    )
    digest.update(repr(flags).encode())
    return digest.hexdigest()


class _ClosureStamp:
    """What makes a locator of numba's safe: the stamp covers the closure, checked builds have their own folder."""

    covers_imports = True  # kernels of other floors may rely on it (see shm/atomics.py)
    _py_file: str

    def get_cache_path(self) -> str:
        """The folder of the cache files."""
        path: str = super().get_cache_path()  # type: ignore[misc]
        return os.path.join(path, "checked") if checked_mode() else path

    def get_source_stamp(self) -> str:
        """What a cached kernel must have been compiled from."""
        return kernel_stamp(Path(self._py_file))


class SourceClosureLocator(_ClosureStamp, InTreeCacheLocator):
    """Keeps the cache beside the source."""


class UserSourceClosureLocator(_ClosureStamp, UserWideCacheLocator):
    """Keeps the cache in the user's cache folder, where the source's own may not be written to."""


class ReadOnlySourceClosureLocator(SourceClosureLocator):
    """Reads the cache beside the source where neither place can be written; what is not in it stays in memory."""

    def ensure_cache_path(self) -> None:
        """Nothing is made, so nothing is refused (see NamedCacheFile.save)."""


# Before numba's own, which would take over with their stale stamps where ours found no place to write.
if SourceClosureLocator not in CacheImpl._locator_classes:
    CacheImpl._locator_classes[:0] = [SourceClosureLocator, UserSourceClosureLocator, ReadOnlySourceClosureLocator]


class NamedCacheFile(caching.IndexDataCacheFile):
    """Compiled code under a name made of its stamp and signature: no name ever means two things.

    Of two processes that write the index at once one is forgotten, and compiles again another time.
    """

    def load(self, key: Any) -> Any:
        """The entry, or None where there is none, or none that this user may read."""
        try:
            return super().load(key)
        except PermissionError:
            return None

    def save(self, key: Any, data: Any) -> None:
        """Add an entry. Files of other stamps are removed: nobody can load them any more.

        Where the folder is not to be written, each process compiles for itself.
        """
        if not os.access(self._cache_path, os.W_OK | os.X_OK):
            return
        stamp, signature = (hashlib.sha256(repr(part).encode()).hexdigest() for part in (self._source_stamp, key))
        base = self._index_name.removesuffix(".nbi")
        mine = f"{base}.{stamp[:12]}-"
        name = f"{mine}{signature[:16]}.nbc"
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})
        for file in Path(self._cache_path).glob(f"{glob.escape(base)}.*.nbc"):
            if not file.name.startswith(mine):
                file.unlink(missing_ok=True)


caching.IndexDataCacheFile = NamedCacheFile


def kernel(
    signature: Any = None, *, inline: bool = False, makes_arrays: bool = False
) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a pure function over arrays and scalars as a compiled kernel.

    signature: one explicit numba signature for an entry point (compiled or loaded from the cache at import), or
    None for a helper that is compiled into its callers. inline: ask LLVM to inline a small helper. makes_arrays: the
    helper makes or returns an array, or assigns to a slice; any other counts no references to the arrays that its
    caller holds anyway (counting is two locked instructions an array and call: half of the time of a short helper),
    and numba refuses to compile it where it would have to.
    """
    options = {"cache": True, "error_model": "numpy", "fastmath": False, "nogil": True}
    if signature is None and not makes_arrays:
        options["_nrt"] = False
    if inline:
        options["forceinline"] = True

    def decorate(function: Callable[..., Any]) -> Any:
        if signature is None:
            return numba.njit(**options)(function)
        try:
            return numba.njit(signature, **options)(function)
        except numba.core.errors.NumbaRuntimeError as error:
            error.add_note("a helper that makes an array or assigns to a slice needs @kernel(makes_arrays=True)")
            raise

    return decorate


def kernel_digest() -> str:
    """Hex SHA-256 over every source file of the floors that hold kernels, with versions and flags.

    Two processes with different digests must not share memory.
    """
    digest = hashlib.sha256()
    for floor in ("shm", "engine", "procs", "models"):
        for file in sorted((PROJECT_ROOT / floor).rglob("*.py")):
            digest.update(str(file.relative_to(PROJECT_ROOT)).encode() + b"\0" + file.read_bytes())
    digest.update(repr((numba.__version__, llvmlite.__version__, checked_mode())).encode())
    return digest.hexdigest()
