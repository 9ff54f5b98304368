"""The disk cache of kernels: what an edit must recompile, what it must not, and that numba's own would miss it.

A small package is written to a folder of its own, imported by one process after the other, and edited in between.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.kernel import PROJECT_ROOT, NamedCacheFile, kernel_stamp, source_closure

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_FILES = {
    "__init__.py": "",
    # The same sources under our locator or, for the negative control, under numba's own.
    "decorator.py": """
import os
if os.environ.get("PLAIN_NUMBA"):
    import numba
    def kernel(signature=None):
        return numba.njit(cache=True) if signature is None else numba.njit(signature, cache=True)
else:
    from engine.kernel import kernel
""",
    "constants.py": "SCALE = 2\n",
    "leaf.py": """
from kernels_under_test.decorator import kernel

@kernel()
def leaf(x):
    return x + 1
""",
    "by_name.py": """
from numba import types
from kernels_under_test.constants import SCALE
from kernels_under_test.decorator import kernel
from kernels_under_test.leaf import leaf

@kernel(types.int64(types.int64))
def by_name(x):
    return leaf(x) * SCALE
""",
    "relative.py": """
from numba import types
from . import middle
from .decorator import kernel

@kernel(types.int64(types.int64))
def relative(x):
    return middle.middle(x)
""",
    "middle.py": """
from .decorator import kernel
from .leaf import leaf

@kernel()
def middle(x):
    return leaf(x) * 100
""",
    "late.py": "OFFSET = 5\n",
    "local_import.py": """
from numba import types
from kernels_under_test.decorator import kernel

def _offset():
    from kernels_under_test.late import OFFSET
    return OFFSET

_OFFSET = _offset()

@kernel(types.int64(types.int64))
def local_import(x):
    return x + _OFFSET
""",
    "unrelated.py": "NOTHING = 1\n",
    "reader.py": """
import numpy as np
from numba import types
from kernels_under_test.decorator import kernel

@kernel()
def item(values, index):
    return values[index]

@kernel(types.int64(types.int64[::1], types.int64))
def read(values, index):
    return item(values, index)
""",
}
_ENTRIES = ("by_name", "relative", "local_import")
_REPORT = """
import importlib, json, sys
result = {}
for name in sys.argv[1:]:
    function = getattr(importlib.import_module("kernels_under_test." + name), name)
    stats = function.stats
    result[name] = [function(1), sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]
print(json.dumps(result))
"""
_READ = """
import numpy as np
from kernels_under_test.reader import read
values = np.arange(4, dtype=np.int64)
try:
    outcome = int(read(values[:2], 3))
except IndexError:
    outcome = "IndexError"
print(outcome, sum(read.stats.cache_hits.values()), read.stats.cache_path)
"""


class Package:
    """The package under test, the processes that import it, and the edits between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "kernels_under_test"
        self.first: Callable[[], None] | None = None  # what a process does before all else
        self.folder.mkdir()
        for name, text in _FILES.items():
            (self.folder / name).write_text(text)

    def python(self, code: str, *arguments: str, **environment: str) -> str:
        """What a process of its own prints."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        paths = os.pathsep.join([str(self.folder.parent), str(PROJECT_ROOT)])
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False,
            env=inherited | {"PYTHONPATH": paths} | environment, cwd=self.folder.parent, preexec_fn=self.first,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def report(self, **environment: str) -> dict[str, list[int]]:
        """Of every entry point: value, loads from the cache, compilations."""
        answer: dict[str, Any] = json.loads(self.python(_REPORT, *_ENTRIES, **environment))
        return answer

    def edit(self, name: str, old: str, new: str) -> None:
        """Change one file; the length stays, so that size and time stamp alone could not tell."""
        path = self.folder / name
        text = path.read_text()
        assert text.count(old) == 1 and len(old) == len(new)
        before = path.stat()
        path.write_text(text.replace(old, new))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        # The byte code of Python itself looks at size and time stamp; it is not what is tested here.
        for compiled in self.folder.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()


@pytest.fixture
def package(tmp_path: Path) -> Package:
    made = Package(tmp_path)
    assert made.report() == {"by_name": [4, 0, 1], "relative": [200, 0, 1], "local_import": [6, 0, 1]}
    return made


def test_edits_recompile_what_depends_on_them_and_nothing_else(package: Package) -> None:
    hit = {"by_name": [4, 1, 0], "relative": [200, 1, 0], "local_import": [6, 1, 0]}
    assert package.report() == hit
    package.edit("unrelated.py", "NOTHING = 1", "NOTHING = 2")
    assert package.report() == hit
    package.edit("leaf.py", "x + 1", "x + 2")  # imported by name; and two relative imports away
    assert package.report() == hit | {"by_name": [6, 0, 1], "relative": [300, 0, 1]}
    package.edit("constants.py", "SCALE = 2", "SCALE = 3")
    assert package.report() == {"by_name": [9, 0, 1], "relative": [300, 1, 0], "local_import": [6, 1, 0]}
    package.edit("late.py", "OFFSET = 5", "OFFSET = 7")  # imported inside a function
    assert package.report() == {"by_name": [9, 1, 0], "relative": [300, 1, 0], "local_import": [8, 0, 1]}
    assert package.report() == {"by_name": [9, 1, 0], "relative": [300, 1, 0], "local_import": [8, 1, 0]}


def test_the_cache_of_numba_itself_would_return_old_values(tmp_path: Path) -> None:
    """The negative control: without it, the test above could pass because numba got better or the scenario is wrong."""
    package = Package(tmp_path)
    plain = {"PLAIN_NUMBA": "1"}
    assert package.report(**plain) == {"by_name": [4, 0, 1], "relative": [200, 0, 1], "local_import": [6, 0, 1]}
    package.edit("leaf.py", "x + 1", "x + 2")
    package.edit("constants.py", "SCALE = 2", "SCALE = 3")
    package.edit("late.py", "OFFSET = 5", "OFFSET = 7")
    stale = {"by_name": [4, 1, 0], "relative": [200, 1, 0], "local_import": [6, 1, 0]}
    assert package.report(**plain) == stale


def test_checked_and_unchecked_builds_never_share_a_cache(tmp_path: Path) -> None:
    package = Package(tmp_path)
    place = str(package.folder / "__pycache__")
    for hits in (0, 1):
        assert package.python(_READ) == f"3 {hits} {place}"  # beyond the end, unchecked: whatever lies there
        assert package.python(_READ, NUMBA_BOUNDSCHECK="1") == f"IndexError {hits} {place}/checked"
    # The control: numba alone serves the unchecked build to who asked for checks.
    assert package.python(_READ, PLAIN_NUMBA="1") == f"3 0 {place}"
    assert package.python(_READ, PLAIN_NUMBA="1", NUMBA_BOUNDSCHECK="1") == f"3 1 {place}"


def test_a_source_folder_that_cannot_be_written_to_is_no_way_round(tmp_path: Path) -> None:
    """Then the cache lies in the user's folder, and must be as safe there."""
    package = Package(tmp_path)
    cannot_write = (
        "import engine.kernel\n"
        "def refuse(self):\n"
        "    raise OSError(30, 'Read-only file system')\n"
        "engine.kernel.SourceClosureLocator.ensure_cache_path = refuse\n"
    )

    def report() -> dict[str, list[int]]:
        text = package.python(cannot_write + _REPORT, *_ENTRIES, XDG_CACHE_HOME=str(tmp_path / "user"))
        answer: dict[str, list[int]] = json.loads(text)
        return answer

    assert report()["relative"] == [200, 0, 1]
    assert report()["relative"] == [200, 1, 0]
    package.edit("leaf.py", "x + 1", "x + 2")
    assert report()["relative"] == [300, 0, 1]
    assert not list(package.folder.rglob("*.nbc")) and list((tmp_path / "user").rglob("*.nbc"))


def _obey_permissions() -> None:
    """In a child before it becomes another program: permissions of files shall bind it even where it is root's."""
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_who_can_write_nowhere_reads_what_is_fresh_and_compiles_the_rest_for_himself(tmp_path: Path) -> None:
    package = Package(tmp_path)
    package.first = _obey_permissions
    home = tmp_path / "home"
    home.mkdir()

    def report_where_nothing_can_be_written() -> dict[str, list[int]]:
        closed = [path for path in (home, package.folder, package.folder / "__pycache__") if path.exists()]
        for path in closed:
            path.chmod(0o555)
        try:
            return package.report(HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
        finally:
            for path in closed:
                path.chmod(0o755)

    missed = {"by_name": [4, 0, 1], "relative": [200, 0, 1], "local_import": [6, 0, 1]}
    assert report_where_nothing_can_be_written() == missed
    assert not list(tmp_path.rglob("*.nb?")), "it was meant to be unable to write"
    assert package.report() == missed
    kept = sorted(tmp_path.rglob("*.nb?"))
    hit = {"by_name": [4, 1, 0], "relative": [200, 1, 0], "local_import": [6, 1, 0]}
    assert report_where_nothing_can_be_written() == hit
    package.edit("leaf.py", "x + 1", "x + 2")
    found = report_where_nothing_can_be_written()
    assert found == {"by_name": [6, 0, 1], "relative": [300, 0, 1], "local_import": [6, 1, 0]}
    for path in package.folder.rglob("*.nbi"):
        path.chmod(0o000)  # left by somebody who keeps his files to himself
    assert report_where_nothing_can_be_written()["local_import"] == [6, 0, 1]
    assert sorted(tmp_path.rglob("*.nb?")) == kept


@pytest.mark.parametrize(("first", "cached"), [("", False), ("import engine.kernel; ", True)])
def test_kernels_of_shm_are_cached_only_under_a_locator_that_covers_imports(first: str, cached: bool) -> None:
    code = f"{first}import shm.ring_kernels as r, shm.atomics as a; print(*(type(k._cache).__name__ for k in " \
        "(r.push_records, r.consumer_ready, a.load_acquire)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["FunctionCache" if cached else "NullCache"] * 3


def test_the_closure_of_a_real_kernel_reaches_what_it_is_made_of() -> None:
    closure = {str(path.relative_to(PROJECT_ROOT)) for path in source_closure(PROJECT_ROOT / "procs" / "pump.py")}
    assert {"procs/pump.py", "procs/__init__.py", "engine/kernel.py", "engine/records.py", "shm/ring_kernels.py",
            "shm/atomics.py", "procs/journal/kernel.py", "procs/journal/layout.py"} <= closure
    assert not any(path.startswith((".venv", "tests")) for path in closure)
    stamps = {kernel_stamp(PROJECT_ROOT / name) for name in ("procs/pump.py", "procs/ports.py", "engine/units.py")}
    assert len(stamps) == 3


def test_noted_imports_are_those_of_a_content(tmp_path: Path) -> None:
    """What a process reads from the note is what it would have parsed; a file that was edited is parsed again."""
    code = """
import sys
from pathlib import Path
import engine.kernel as kernel
kernel.NOTED_IMPORTS = Path(sys.argv[1]) / "imports.json"
parsed = []
parse = kernel.ast.parse
kernel.ast.parse = lambda *arguments: parsed.append(Path(arguments[1]).name) or parse(*arguments)
module = Path(sys.argv[2])
print(kernel.kernel_stamp(module), len(kernel.source_closure(module)), *parsed)
kernel.note_imports()
"""
    (tmp_path / "leaf.py").write_text("import shm.layout\nimport other\n")

    def stamped() -> list[str]:
        arguments = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "leaf.py")]
        return subprocess.run(
            arguments, capture_output=True, text=True, timeout=60, check=True, cwd=PROJECT_ROOT
        ).stdout.split()

    first, second = stamped(), stamped()
    assert first[:2] == second[:2] and "leaf.py" in first[2:] and second[2:] == []
    (tmp_path / "other.py").write_text("from engine import records\n")  # the note holds names, not what they lead to
    third = stamped()
    assert int(third[1]) > int(second[1]) and third[0] != second[0]
    (tmp_path / "leaf.py").write_text("import shm.layout\n")
    fourth = stamped()
    assert fourth[2:] == ["leaf.py"] and fourth[:2] not in (first[:2], third[:2])
    (tmp_path / "imports.json").write_text("[torn")
    assert stamped()[:2] == fourth[:2]


@pytest.mark.parametrize(("first", "loaded"), [("import engine.kernel", False), ("import numba.np.arraymath", True)])
def test_processes_start_without_scipy_and_can_have_it_afterwards(first: str, loaded: bool) -> None:
    """The second is the control: numba by itself imports it."""
    code = f"import sys; {first}; import numba; numba.njit('float64(float64[:])')(lambda x: x.sum()); " \
        "print('scipy.linalg' in sys.modules); import scipy.linalg; print(scipy.linalg.norm([3.0, 4.0]))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=PROJECT_ROOT)
    assert done.stdout.split() == [str(loaded), "5.0"]


class _Interrupted(NamedCacheFile):
    """A cache file during whose saving, at its worst moment, another process saves another signature."""

    other: NamedCacheFile

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self.other.save("of another process", b"its code")
        super()._save_index(overloads)


def test_two_processes_that_save_at_once_never_load_each_others_code(tmp_path: Path) -> None:
    mine = _Interrupted(str(tmp_path), "module.function-1.py311", "stamp")
    mine.other = NamedCacheFile(str(tmp_path), "module.function-1.py311", "stamp")
    mine.save("signature", b"my code")
    reader = NamedCacheFile(str(tmp_path), "module.function-1.py311", "stamp")
    assert reader.load("signature") == b"my code"
    assert reader.load("of another process") is None  # forgotten, to be compiled again
    reader.save("of another process", b"its code")
    assert [reader.load(key) for key in ("signature", "of another process")] == [b"my code", b"its code"]
    assert len(list(tmp_path.glob("*.nbc"))) == 2


def test_numba_itself_would_load_the_other_processs_code(tmp_path: Path) -> None:
    """The negative control, with the same moment: the second data file overwrites the first under its number."""
    plain = NamedCacheFile.__base__
    assert plain is not None
    mine, other = (plain(str(tmp_path), "module.function-1.py311", "stamp") for _ in range(2))
    save_data = mine._save_data

    def interrupted(name: str, data: Any) -> None:
        save_data(name, data)
        (tmp_path / "module.function-1.py311.nbi").unlink()  # the other one had looked before there was an index
        other.save("of another process", b"its code")
        mine._save_index({"signature": name})

    mine._save_data = interrupted
    mine.save("signature", b"my code")
    assert other.load("signature") == b"its code"


def test_code_of_older_sources_is_removed(tmp_path: Path) -> None:
    for stamp in ("old", "new"):
        for key in ("one", "two"):
            NamedCacheFile(str(tmp_path), "module.function-1.py311", stamp).save(key, f"{stamp} {key}")
    assert NamedCacheFile(str(tmp_path), "module.function-1.py311", "new").load("two") == "new two"
    assert len(list(tmp_path.glob("*.nbc"))) == 2
