"""Strategy files: read, checked, compiled, kept with the session, and found again by a replay.

A strategy file is trusted code, so nobody else may be able to write it. It is one file: it imports the engine, numpy
and the standard library's mathematics and types, so that its content is all of it. What runs is the copy under its
digest in the user's cache folder: an edit of the file is another copy with another kernel cache, and every process of
a session, whenever it starts, runs the same one. The session folder keeps a copy too, and `strategies.json` beside it
says which file ran as what.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
import orjson

from engine.config import Settings
from engine.features.settings import FeatureSettings
from engine.features.vector import FEATURE_NAMES, schema_hash
from engine.records import TARGET_SOURCES
from engine.settings import SettingsError
from engine.strategies import maker, momentum
from engine.strategies.apart import PythonStrategy
from engine.strategies.plugin import Bound, Strategy, StrategyError, bind
from engine.strategies.relay import RELAY_CODE
from engine.strategies.table import MAKER_CODE, default_strategies
from procs.python_strategies import check_import, declare, is_python_alone
from procs.strategy_rules import check_source
from procs.trusted import NotOurs, check_code, our_folder

SHIPPED = {"maker": (maker.on_event, MAKER_CODE), "momentum": (momentum.on_event, int.from_bytes(b"momentm", "big"))}
MANIFEST = "strategies.json"
FOLDER = "strategies"
_LONGEST = 1 << 20
COPIES_KEPT = 128  # in the cache folder


@dataclass(frozen=True)
class StrategyFile:
    """One strategy as configured: its file's content, or which of the shipped ones it is."""

    name: str
    shipped: str  # empty for a file
    path: Path
    content: bytes

    @cached_property
    def apart(self) -> bool:
        """Whether it is Python alone, and runs in a process of its own."""
        return is_python_alone(self.content)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def code(self) -> int:
        """Its code in engine/strategies/registry.py."""
        if self.apart:
            return RELAY_CODE
        return int.from_bytes(bytes.fromhex(self.digest[:16]), "big") >> 1 | 1 << 62


_loaded: dict[str, Strategy] = {}  # by digest of the file
_declarations: dict[str, PythonStrategy] = {}


def read_strategies(settings: Settings) -> tuple[StrategyFile, ...]:
    """The files that the settings name, in their order. Raises StrategyError."""
    found = []
    for name, chosen in settings.strategies.items():
        shipped = chosen.shipped(name)
        content = b"" if shipped else read_content(name, chosen.file)
        found.append(StrategyFile(name, shipped, Path(chosen.file or name), content))
    apart = [file.name for file in found if file.apart]
    if len(apart) > TARGET_SOURCES:
        raise StrategyError(
            f"strategies: {', '.join(apart)} are Python alone; {TARGET_SOURCES} can run in processes of their own"
        )
    return tuple(found)


def read_content(name: str, file: str) -> bytes:
    """The content of a strategy file that nobody else may write. Raises StrategyError."""
    path = Path(file)
    try:
        check_code(path)
        content = path.read_bytes()
    except NotOurs as error:
        raise StrategyError(f"strategies.{name}.file: {error}") from None
    except OSError as error:
        raise StrategyError(f"strategies.{name}.file = {file!r}: {error.strerror}") from None
    if len(content) > _LONGEST:
        raise StrategyError(f"strategies.{name}.file = {file!r}: {len(content)} bytes, {_LONGEST} are the most")
    return content


def load_strategies(settings: Settings, files: Sequence[StrategyFile] | None = None) -> tuple[Bound, ...]:
    """The strategies of a session, compiled and ready to run in this process.

    files: what to run; None reads what the settings name. Raises StrategyError or SettingsError.
    """
    if not settings.strategies:
        return default_strategies(settings.maker)
    bound = []
    for file in read_strategies(settings) if files is None else files:
        chosen = settings.strategies[file.name]
        made, code = SHIPPED[file.shipped] if file.shipped else (load_file(file), file.code)
        stale_ms = chosen.stale_ms if file.apart else 0
        bound.append(bind(file.name, made, chosen.parameters, code, chosen.symbols, stale_ms))
    return tuple(bound)


def declared_of(file: StrategyFile) -> PythonStrategy:
    """What a file that is Python alone declares. Raises StrategyError."""
    if file.digest not in _declarations:
        found = declare(file.content, file.path, f"strategy_{file.digest[:16]}")
        _check_features(file, _parsed(file), found.declared)
        _declarations[file.digest] = found
    return _declarations[file.digest]


def load_file(file: StrategyFile) -> Strategy:
    """The strategy of a file, compiled; of one that is Python alone what it declares. Raises StrategyError that names
    file and line."""
    if file.apart:
        return declared_of(file).declared
    if file.digest not in _loaded:
        declared = _declared(file)
        _loaded[file.digest] = declared
    return _loaded[file.digest]


def _declared(file: StrategyFile) -> Strategy:
    tree = _parsed(file)
    check_source(file.path, tree)
    copy = _copy_of(file)
    module_name = f"strategy_{file.digest[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, copy)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and annotations look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises is his to read
        del sys.modules[module_name]
        raise StrategyError(_in_words(file, copy, error)) from None
    declared = [value for value in vars(module).values() if isinstance(value, Strategy)]
    if len(declared) != 1:
        raise StrategyError(f"{file.path}: {len(declared)} functions with @strategy(...); one is needed")
    _check_features(file, tree, declared[0])
    return declared[0]


def _copy_of(file: StrategyFile) -> Path:
    """The copy that runs, under its digest. Raises StrategyError where somebody else may have written it."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bot4"
    folder = root / FOLDER / file.digest[:32]
    # numba names its caches after the file, and errors show it.
    copy = folder / file.path.name
    try:
        for part in (root, root / FOLDER, folder):
            our_folder(part)
        if not copy.exists() or copy.read_bytes() != file.content:
            beside = copy.with_name(f"{copy.name}.{os.getpid()}")
            beside.write_bytes(file.content)
            beside.chmod(stat.S_IRUSR | stat.S_IWUSR)
            beside.replace(copy)
            _forget_oldest(root / FOLDER)
    except (NotOurs, OSError) as error:
        raise StrategyError(f"{file.path}: its copy cannot be kept: {error}") from None
    return copy


def _forget_oldest(folder: Path) -> None:
    """Keep the copies that were made last. Who runs an older one has it in memory, and would make it again."""
    copies = sorted((entry.stat().st_mtime_ns, entry) for entry in folder.iterdir() if entry.is_dir())
    for _, entry in copies[:-COPIES_KEPT]:
        shutil.rmtree(entry, ignore_errors=True)


def _parsed(file: StrategyFile) -> ast.Module:
    try:
        return ast.parse(file.content, str(file.path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise StrategyError(f"{file.path}, line {line}: {getattr(error, 'msg', error)}") from None


def _check_features(file: StrategyFile, tree: ast.Module, declared: Strategy) -> None:
    """Every feature that is declared is there, and every one that is read by its name is declared."""
    known = ", ".join(FEATURE_NAMES)
    for name in declared.features:
        if name not in FEATURE_NAMES:
            line = next(
                (node.lineno for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == name), 1
            )
            raise StrategyError(f"{file.path}, line {line}: features names {name!r}; known are {known}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name) or not node.id.isupper():
            continue
        name = node.id.lower()
        if name in FEATURE_NAMES and name not in declared.features:
            raise StrategyError(f"{file.path}, line {node.lineno}: reads {node.id}; declare it: features=(\"{name}\",)")


def _in_words(file: StrategyFile, copy: Path, error: Exception) -> str:
    """An error of a user's file with its place there."""
    lines = [int(number) for number in re.findall(rf'File "[^"]*{re.escape(copy.name)}", line (\d+)', str(error))]
    frames = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(copy)]
    where = str(file.path)
    if isinstance(error, KeyError):  # what numba says of a field that a record does not have
        named = [
            node.lineno for node in ast.walk(_parsed(file))
            if isinstance(node, ast.Attribute) and [node.attr] == list(error.args)
        ]
        if named:
            return f"{where}, line {named[0]}: on_event does not compile: there is no field {error.args[0]!r}"
    if isinstance(error, numba.core.errors.NumbaError):
        line = lines[-1] if lines else getattr(getattr(error, "loc", None), "line", 0) or (frames[-1] if frames else 0)
        return f"{where}, line {line}: on_event does not compile: {_first_words(str(error))}"
    if frames:
        where += f", line {frames[-1]}"
    return f"{where}: {error}" if isinstance(error, SettingsError) else f"{where}: {type(error).__name__}: {error}"


def _first_words(message: str) -> str:
    """The line of numba's message that says what is wrong, without layouts of records."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", message)
    message = re.sub(r"Record\(.*?\}\)?\], \d+, (True|False)\)|Record\([^\n]*", "a record", message)
    message = re.sub(r"unaligned array\(|nestedarray\(", "array(", message)
    skipped = ("Failed in", "File ", "def ", "During", "There are", "- Of which", "Overload", "<source", "^")
    lines = [line.strip() for line in message.splitlines()]
    useful = [line for line in lines if line and not line.startswith(skipped)]
    return " ".join(useful[:2])[:300] if useful else message[:300]


def check_imports(files: Sequence[StrategyFile]) -> None:
    """Import the files that are Python alone, each in a child process. Raises StrategyError where one cannot be."""
    for file in files:
        if file.apart:
            check_import(file.path)


def check_declared(strategies: Sequence[Bound], features: FeatureSettings, card: dict[str, Any]) -> None:
    """Refuse strategies that were made for other features or another model than these. Raises StrategyError."""
    schema = schema_hash(features)
    for bound in strategies:
        made, where = bound.strategy, f"strategies.{bound.name}"
        if made.feature_schema and not schema.startswith(made.feature_schema):
            raise StrategyError(
                f"{where}: declares feature_schema {made.feature_schema[:12]!r}, this engine computes {schema[:12]!r}: "
                "the features' definitions or time constants ([features]) are others"
            )
        name, version = card.get("name"), card.get("version")
        if made.model and made.model != name:
            raise StrategyError(f"{where}: declares model {made.model!r}, model.path serves {name!r}")
        if made.model and made.model_version and made.model_version != version:
            raise StrategyError(
                f"{where}: declares version {made.model_version} of model {name!r}, model.path serves version {version}"
            )


def keep_strategies(files: Sequence[StrategyFile], session: Path) -> None:
    """Leave what runs in the session folder: the files, and a list of them."""
    if not files:
        return
    folder = session / FOLDER
    folder.mkdir(mode=0o700)
    entries = []
    for file in files:
        entry = {"name": file.name, "shipped": file.shipped, "path": str(file.path)}
        if not file.shipped:
            entry["path"] = str(file.path.resolve())  # processes of the session have other working folders
            kept = folder / f"{file.name}.py"
            kept.write_bytes(file.content)
            entry |= {"file": f"{FOLDER}/{kept.name}", "sha256": file.digest}
        entries.append(entry)
    (session / MANIFEST).write_bytes(orjson.dumps(entries, option=orjson.OPT_INDENT_2))


def kept_strategies(session: Path, settings: Settings) -> tuple[StrategyFile, ...]:
    """What ran in a session. Raises StrategyError where that cannot be known or was changed."""
    if not settings.strategies:
        return ()
    try:
        entries = orjson.loads((session / MANIFEST).read_bytes())
        files = []
        for entry in entries:
            content = b"" if entry["shipped"] else (session / entry["file"]).read_bytes()
            file = StrategyFile(entry["name"], entry["shipped"], Path(entry["path"]), content)
            if not file.shipped and file.digest != entry["sha256"]:
                raise StrategyError(
                    f"{session / entry['file']}: is not the file that ran: its sha256 is {file.digest[:12]}, that of "
                    f"the session {entry['sha256'][:12]}"
                )
            files.append(file)
    except (OSError, orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise StrategyError(
            f"{session}: what its strategies were is not known, so it cannot be replayed as it ran ({error})"
        ) from None
    if [file.name for file in files] != list(settings.strategies):
        raise StrategyError(f"{session / MANIFEST}: its strategies are not those of session.json")
    return tuple(files)
