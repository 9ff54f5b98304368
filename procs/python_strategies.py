"""Files of strategies that are Python alone (`@python_strategy`): known, declared, tried and loaded.

Such a file may import anything, so the engine's own processes never run it. They know what it declares from a part of
it: its imports of the engine and of the standard library's types, plain constants, the class of its parameters and the
decorator, with the function's body left out. All of it runs in its own process alone, and once before the start in a
child that is given a limited time, so that a file that cannot be imported is refused.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson

from engine.kernel import PROJECT_ROOT
from engine.settings import SettingsError
from engine.strategies.apart import PythonStrategy
from engine.strategies.plugin import StrategyError

IMPORT_TIMEOUT_S = 120.0
_DECORATOR = "python_strategy"
_DECLARATION_IMPORTS = {"__future__", "dataclasses", "engine", "enum", "math", "typing"}
_DECLARED = {"features", "feature_schema", "model", "model_version", "clock"}  # of the decorator's arguments
_ARGUMENTS = 6


def _decorator(node: ast.AST) -> ast.Call | None:
    """The call of the decorator of a function, where it has this one."""
    if not isinstance(node, ast.FunctionDef):
        return None
    for item in node.decorator_list:
        if isinstance(item, ast.Call):
            name = item.func.attr if isinstance(item.func, ast.Attribute) else getattr(item.func, "id", "")
            if name == _DECORATOR:
                return item
    return None


def is_python_alone(content: bytes) -> bool:
    """Whether a strategy file declares one that runs in a process of its own. False for what cannot be parsed."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return False
    return any(_decorator(node) is not None for node in tree.body)


def _may_stay(node: ast.stmt, parameters: str) -> bool:
    """Whether a statement of the file belongs to its declaration."""
    if isinstance(node, ast.Import):
        return all(alias.name.split(".")[0] in _DECLARATION_IMPORTS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return not node.level and (node.module or "").split(".")[0] in _DECLARATION_IMPORTS
    if isinstance(node, ast.ClassDef):
        return node.name == parameters
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if not all(isinstance(target, ast.Name) for target in targets):
            return False
        try:
            ast.literal_eval(node.value)
        except (ValueError, TypeError):
            return False
        return True
    return False


def _declaration(tree: ast.Module, path: Path) -> ast.Module:
    """The part of a file that declares its strategy. Raises StrategyError."""
    made = [node for node in tree.body if _decorator(node) is not None]
    if len(made) != 1:
        raise StrategyError(f"{path}: {len(made)} functions with @{_DECORATOR}(...); one is needed")
    function = made[0]
    call = _decorator(function)
    assert isinstance(function, ast.FunctionDef) and call is not None
    if not call.args or not isinstance(call.args[0], ast.Name):
        raise StrategyError(
            f"{path}, line {call.lineno}: @{_DECORATOR}(...) begins with the name of the class of its parameters"
        )
    named = [keyword for keyword in call.keywords if keyword.arg in _DECLARED]
    short = ast.copy_location(ast.Call(call.func, call.args[:1], named), call)
    empty = ast.FunctionDef(
        function.name, ast.arguments([], [ast.arg("arguments")], None, [], [], None, []), [ast.Pass()], [short]
    )
    kept = [node for node in tree.body if _may_stay(node, call.args[0].id)]
    return ast.fix_missing_locations(ast.Module([*kept, ast.copy_location(empty, function)], []))


def _run(code: Any, name: str, path: Path) -> PythonStrategy:
    """Execute a file or a part of it as a module of this name. Raises what it raises, and StrategyError."""
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and annotations look there
    try:
        exec(code, vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    declared = [value for value in vars(module).values() if isinstance(value, PythonStrategy)]
    if len(declared) != 1:
        raise StrategyError(f"{path}: {len(declared)} functions with @{_DECORATOR}(...); one is needed")
    return declared[0]


def _line_in(path: Path, error: BaseException) -> str:
    """The place of an error in a file, in words; empty where it is none of the file's lines."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {frames[-1]}" if frames else ""


def declare(content: bytes, path: Path, module_name: str) -> PythonStrategy:
    """What a file declares; nothing else of it is executed, and its function does nothing. Raises StrategyError."""
    try:
        code = compile(_declaration(ast.parse(content, str(path)), path), str(path), "exec")
        return _run(code, module_name, path)
    except SettingsError as error:
        raise StrategyError(f"{path}{_line_in(path, error)}: {error}" if str(path) not in str(error) else str(error)) \
            from None
    except NameError as error:
        raise StrategyError(
            f"{path}{_line_in(path, error)}: {error}; the class of the parameters and the arguments of @{_DECORATOR} "
            "can use constants and what is imported of engine, dataclasses, enum, math and typing alone"
        ) from None
    except Exception as error:  # whatever a user's file raises is his to read
        raise StrategyError(f"{path}{_line_in(path, error)}: {type(error).__name__}: {error}") from None


def load_python(content: bytes, path: Path) -> PythonStrategy:
    """The strategy of a file, executed whole, where its imports find what lies beside it.

    path: absolute. Raises what the file raises, and StrategyError.
    """
    sys.path.insert(0, str(path.parent))
    made = _run(compile(content, str(path), "exec"), f"strategy_file_{path.stem}", path)
    arguments = inspect.signature(made.function).parameters
    if len(arguments) != _ARGUMENTS:
        raise StrategyError(
            f"{path}: {made.function.__name__} takes {len(arguments)} arguments; it is called with event, view, own, "
            "parameters, state, quotes"
        )
    return made


def _fields(made: PythonStrategy) -> list[tuple[str, Any]]:
    cls = made.declared.parameters
    return [(field.name, field.default) for field in dataclasses.fields(cls)]


def check_import(path: Path, timeout_s: float = IMPORT_TIMEOUT_S) -> None:
    """Import a file in a child process, which ends then. Raises StrategyError where it cannot be, or not in time."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "procs.python_strategies", str(path.resolve())], cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False,
        )
    except subprocess.TimeoutExpired:
        raise StrategyError(f"{path}: is not imported after {timeout_s:.0f} s") from None
    try:
        words = orjson.loads(done.stdout)["refused"]
    except (orjson.JSONDecodeError, LookupError):
        last = done.stderr.decode(errors="replace").strip().splitlines()
        raise StrategyError(
            f"{path}: its import ends the process with {done.returncode}: {last[-1] if last else 'no last words'}"
        ) from None
    if words:
        raise StrategyError(words)


def main() -> int:
    """The child of `check_import`: `python -m procs.python_strategies PATH`. Its answer is {"refused": WORDS}."""
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever the file prints is no answer
    path, words = Path(sys.argv[1]), ""
    try:
        content = path.read_bytes()
        made = load_python(content, path)
        if _fields(made) != _fields(declare(content, path, "declaration")):
            words = f"{path}: its parameters are others when the whole file is executed"
    except SettingsError as error:
        words = str(error)
    except Exception as error:  # whatever a user's file raises is his to read
        words = f"{path}{_line_in(path, error)}: {type(error).__name__}: {error}"
    os.write(answer, orjson.dumps({"refused": words}))
    sys.stderr.flush()
    os._exit(0)  # threads of the file's own, and what it would do at exit, are not waited for


if __name__ == "__main__":
    sys.exit(main())
