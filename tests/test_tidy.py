"""The style of the house, as tests: floors, seams, record layouts, words, files.

What a linter can hold, the linter holds; this file holds the rest.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.instruments import MAX_INSTRUMENTS
from engine.reasons import REASON_COUNT, Reason
from engine.records import ALL_RECORDS, CONTROL_KINDS, Kind, OrderAction, ReportKind
from procs.table import PROCESSES, RINGS, Role

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"tools": 4, "procs": 3, "models": 2, "engine": 1, "shm": 1}
# Third-party clients live in procs alone; learning libraries in models and procs.
CLIENTS = {"ccxt", "websocket", "websockets", "picows", "requests", "aiohttp", "clickhouse_connect", "redis"}
# What is measured beside us there is no client of anything.
MEASURED = {"tools/bench/parsers.py": {"ccxt"}}
LEARNING = {"onnxruntime", "onnx", "sklearn", "torch"}
LAZY = {"sklearn", "onnx", "torch", "arch", "pyspark", "chdb"}


def sources(*floors: str) -> Iterator[Path]:
    for floor in floors or FLOORS:
        yield from sorted((ROOT / floor).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Top-level package of every import, and whether it is made at the top of the module."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], id(node) in top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], id(node) in top


def floor_faults(path: Path, floor: str) -> list[str]:
    faults = []
    for name, at_top in imports(path):
        if name in FLOORS and name != floor and FLOORS[name] >= FLOORS[floor]:
            faults.append(f"{path.relative_to(ROOT)} imports {name}")
        measured = MEASURED.get(str(path.relative_to(ROOT)), set())
        if name in CLIENTS - measured and floor != "procs":
            faults.append(f"{path.relative_to(ROOT)} imports the client {name}")
        if name in LEARNING and floor not in ("models", "procs"):
            faults.append(f"{path.relative_to(ROOT)} imports {name}")
        if name in LAZY and at_top:
            faults.append(f"{path.relative_to(ROOT)} imports {name} at its top, not lazily")
    return faults


def test_imports_run_downward_only() -> None:
    assert [fault for floor in FLOORS for path in sources(floor) for fault in floor_faults(path, floor)] == []


def test_the_layering_test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from procs.table import Role\nimport shm.clock\nimport ccxt\nimport sklearn\n")
    assert len(floor_faults(bad, "engine")) == 5


# Clocks and sleep, randomness, ids: each behind one seam.
SEAMS = {
    r"\btime\.(time|time_ns|monotonic|monotonic_ns|perf_counter|perf_counter_ns|sleep|process_time)\b": {
        "shm/python_clock.py",
    },
    r"\bdatetime\.(now|utcnow|today)\b": set(),
    r"^\s*(import|from) (random|uuid)\b": set(),
    r"\bnp\.random\b": set(),
    r"^\s*(import|from) secrets\b": {"procs/identity.py", "procs/embedded/credentials.py"},
    r"\bos\.urandom\b": set(),
    r"\bfastmath=True|parallel=True\b": set(),
}


@pytest.mark.parametrize("pattern", SEAMS)
def test_one_seam_for_time_randomness_and_ids(pattern: str) -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in sources()
        if re.search(pattern, path.read_text(), re.MULTILINE)
    }
    assert found <= SEAMS[pattern]


def test_the_engine_does_no_io() -> None:
    banned = {"os", "socket", "subprocess", "threading", "asyncio", "mmap", "time", "logging", "multiprocessing"}
    allowed = {"engine/kernel.py"}  # reads its own sources to stamp the cache
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources("engine")
        for name, _ in imports(path)
        if name in banned and str(path.relative_to(ROOT)) not in allowed
    }
    assert found == set()


def test_kernels_of_the_hash_use_no_library_mathematics() -> None:
    """np.exp, np.log, np.dot and np.sum change their bits with the processor."""
    pattern = re.compile(r"\b(np|math)\.(exp|log|pow|tanh|dot|sum|mean|std|var)\(")
    found = []
    for path in sources("engine"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any("kernel" in ast.unparse(d) for d in node.decorator_list):
                if pattern.search(ast.unparse(node)):
                    found.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert found == []


@pytest.mark.parametrize("name", ALL_RECORDS)
def test_record_layouts(name: str) -> None:
    """Whole cache lines, natural alignment, one head for all, and never a silent change."""
    dtype = ALL_RECORDS[name]
    assert dtype.itemsize % 64 == 0
    assert dtype.isalignedstruct
    head = {
        "ingest_id": 0, "recv_ts_ns": 8, "exch_ts_ns": 16, "sequence": 24, "price": 32, "size": 40, "aux": 48,
        "kind": 56, "venue": 57, "side": 58, "flags": 59, "instrument": 60, "reason": 62,
    }
    assert {field: dtype.fields[field][1] for field in head} == head  # type: ignore[index]
    used = sum(field.itemsize for field, _ in dtype.fields.values())  # type: ignore[union-attr,misc]
    assert used == dtype.itemsize, "a gap that nobody named"
    assert all(
        base.byteorder in ("<", "=", "|") and (base.byteorder != "=" or sys.byteorder == "little")
        for field, _ in dtype.fields.values()  # type: ignore[union-attr,misc]
        for base in [np.dtype(field.base)]
    )


def test_enumerations_do_not_collide() -> None:
    values = [int(value) for kind in (Kind, OrderAction, ReportKind) for value in kind]
    assert len(values) == len(set(values))
    assert max(values) < 256
    assert max(Reason) < REASON_COUNT
    assert MAX_INSTRUMENTS < 2**16
    assert set(CONTROL_KINDS) <= set(Kind)


def test_every_ring_has_its_two_ends_in_the_table() -> None:
    for ring in RINGS:
        writers = [process.role for process in PROCESSES if ring.name in process.outputs]
        readers = [process.role for process in PROCESSES if ring.name in process.inputs]
        assert readers == [ring.consumer]
        assert writers == ([ring.producer] if ring.producer != Role.SUPERVISOR else [])


def _tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name.decode() for name in listed.split(b"\0") if name and (ROOT / name.decode()).exists()]


def test_no_leftover_words() -> None:
    """What is unfinished or silent does not belong on main."""
    pattern = re.compile(
        r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|except( Exception)?: *pass|assert True\b", re.MULTILINE
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in _tracked()
        if path.suffix in (".py", ".md", ".toml", ".cfg") and path != Path(__file__)
        for match in pattern.finditer(path.read_text())
    ]
    assert found == []


def test_no_large_files_and_no_recordings() -> None:
    assert [str(path) for path in _tracked() if path.stat().st_size > 1_000_000 or path.suffix == ".gz"] == []


def test_public_functions_are_documented() -> None:
    missing = []
    for path in sources():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    missing.append(f"{path.relative_to(ROOT)}: {node.name}")
                if isinstance(node, ast.ClassDef):
                    missing += [
                        f"{path.relative_to(ROOT)}: {node.name}.{item.name}"
                        for item in node.body
                        if isinstance(item, ast.FunctionDef)
                        and not item.name.startswith("_")
                        and not ast.get_docstring(item)
                        and not any(ast.unparse(decorator).endswith(".setter") for decorator in item.decorator_list)
                    ]
    assert missing == []


def test_every_module_says_what_it_is() -> None:
    assert [str(path) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))] == []
