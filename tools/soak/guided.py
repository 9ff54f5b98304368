"""Coverage-guided fuzzing with atheris: every decoder interpreted and instrumented, beside the compiled one.

A piece gives each target its share of the time, in a process of its own with bounds checks, which begins where the last
one ended: inputs that reached something new are kept in a corpus folder beside the tally, one folder a target. It is
begun with the made frames of seeds.py and, where the recordings are there, with frames of them, and is given the words
of the format. Afterwards the whole corpus is run again through the build without bounds checks. What must hold is told
in decoder_targets.py and body_targets.py; the input that shows a violation is left in the piece's folder.

    python -m tools.soak.guided fuzz TARGET CORPUS ...   one such process (needs atheris; options are libFuzzer's)
    python -m tools.soak.guided check TARGET FILE ...    these inputs, or folders of them, once more, without atheris
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from engine.instruments import Dialect
from engine.kernel import PROJECT_ROOT, checked_mode
from procs.captures import CaptureError
from procs.embedded.mix import Draws
from procs.journal.layout import Entry
from procs.venues.frame_symbols import symbol_of
from tools.soak.accidents import PIECES, mutated
from tools.soak.decoder_targets import BETWEEN, Target
from tools.soak.fuzz import inputs_of
from tools.soak.seeds import INSTRUMENTS
from tools.soak.tally import Piece
from tools.soak.target_table import TARGET_NAMES, make_target

EXECUTIONS = 100_000  # wanted of each target
MOST_BYTES = 4_096  # of an input
_HUNG_S = 30  # no input may take longer
_START_S = 600.0  # to load and, the first time, to compile
_LEAST_S = 5.0
_SEEDED = 400  # recorded frames a target
_SHARE_OF_ACCIDENTS, _SHARE_OF_WORDS = 0.3, 0.2  # of the mutations; the others are libFuzzer's
_WORD = re.compile(rb'"[^"\\]*"|true|false|null')
_BARE = (b"true", b"false", b"null")
_DONE = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)/\S+ .*?exec/s: (\d+)")
_FIGURES = ("executions", "coverage", "features", "corpus", "rate")


def is_there() -> bool:
    """True where atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


def dictionary(words: Iterable[str]) -> str:
    """Words of a format, quoted and bare, and the marks of JSON, as libFuzzer reads a dictionary."""
    entries = [*PIECES, BETWEEN, b"null", b"true", b"false", b"9223372036854775807", b"e-8", b'""', b"[]", b"{}"]
    for word in words:
        entries += [word.encode(), f'"{word}"'.encode(), f'"{word}":'.encode()]
    lines = ("".join(f"\\x{byte:02x}" for byte in entry) for entry in dict.fromkeys(entries) if entry)
    return "".join(f'"{line}"\n' for line in lines)


def recorded(name: str) -> Iterator[bytes]:
    """Frames of the recording of a dialect that are about the instruments of the target; none where it is absent."""
    if name not in Dialect.__members__:
        return
    symbols = {item.symbol for item in INSTRUMENTS[Dialect[name]]}
    try:
        _, inputs = inputs_of(name)
        frames = (entry.payload for entry in inputs if entry.kind in (Entry.FRAME, Entry.SNAPSHOT))
        fitting = (frame for frame in frames if len(frame) <= MOST_BYTES // 2)
        yield from islice((frame for frame in fitting if symbol_of(frame, Dialect[name]) in symbols), _SEEDED)
    except (CaptureError, OSError):
        return


def write_seeds(target: Target, folder: Path, with_recorded: bool) -> None:
    """Fill a fresh folder with what the fuzzer begins with."""
    folder.mkdir(parents=True)
    frames = [*target.seeds, *(recorded(target.name) if with_recorded else ())]
    for number, frame in enumerate(frames):
        (folder / f"{number:04d}").write_bytes(frame)


def other_word(data: bytes, words: Sequence[str], draws: Draws) -> bytes:
    """The input with one of its strings, or true, false or null, become another of the format: still well formed."""
    found = list(_WORD.finditer(data))
    if not found or not words:
        return data
    old = draws.choice(found)
    new = draws.choice(_BARE) if old[0] in _BARE else f'"{draws.choice(words)}"'.encode()
    return data[: old.start()] + new + data[old.end() :]


def fuzz(name: str, arguments: list[str]) -> None:
    """This process becomes the fuzzer of a target; it ends with libFuzzer's exit code."""
    import atheris

    target = make_target(name)
    for function in target.functions():
        atheris.instrument_func(function)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        draws = Draws(seed, 0)
        kind = draws.uniform()
        if kind < _SHARE_OF_ACCIDENTS:
            return mutated(data, target.seeds, draws)[:most]
        if kind < _SHARE_OF_ACCIDENTS + _SHARE_OF_WORDS:
            return other_word(data, target.names, draws)[:most]
        changed: bytes = atheris.Mutate(data, most)
        return changed

    print(json.dumps({"checked": checked_mode()}), flush=True)  # the fuzzer ends without a word of Python's
    atheris.Setup([f"fuzz {name}", *arguments], target.run, custom_mutator=mutate)
    atheris.Fuzz()


def inputs_at(paths: Iterable[Path]) -> Iterator[Path]:
    """These files, and those in these folders, sorted."""
    for path in paths:
        yield from sorted(path.iterdir()) if path.is_dir() else [path]


def check(name: str, paths: Iterable[Path]) -> int:
    """Run inputs through a target in this process; how many were unsound, each with a line."""
    target = make_target(name)
    found = given = 0
    for path in inputs_at(paths):
        given += 1
        try:
            target.run(path.read_bytes())
        except Exception as error:  # whatever it is: it is what is looked for
            found += 1
            print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
    print(json.dumps({"inputs": given, "unsound": found, "checked": checked_mode(), **target.answers}))
    return found


def _call(piece: Piece, checks: bool, limit_s: float, *arguments: str) -> tuple[int, str, str] | None:
    """One process of this module: (exit code, output, errors); None when it did not end, which is a violation."""
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1" if checks else "0", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tools.soak.guided", *arguments]
    try:
        done = subprocess.run(
            command, env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, errors="replace",
            timeout=limit_s, check=False,
        )
    except subprocess.TimeoutExpired:
        piece.hold(False, f"{arguments[1]}: {arguments[0]} did not end in {limit_s:.0f} s")
        return None
    return done.returncode, done.stdout, done.stderr


def run_target(piece: Piece, name: str, corpus: Path, seconds: float) -> None:
    """Fuzz one target for so long, then run its corpus through the build without bounds checks."""
    begin, words, left = piece.folder / f"{name}-begin", piece.folder / f"{name}-words", piece.folder / f"{name}-left"
    target = make_target(name)
    write_seeds(target, begin, with_recorded=True)
    words.write_text(dictionary(target.names))
    left.mkdir()
    corpus.mkdir(parents=True, exist_ok=True)
    options = (
        f"-seed={piece.seed + 1}", f"-max_total_time={max(1, round(seconds))}", f"-max_len={MOST_BYTES}",
        f"-timeout={_HUNG_S}", f"-dict={words}", f"-artifact_prefix={left}/", "-print_final_stats=1", "-rss_limit_mb=0",
    )
    done = _call(piece, True, seconds + _START_S, "fuzz", name, str(corpus), str(begin), *options)
    if done is None:
        return
    code, said, errors = done
    evidence = sorted(left.iterdir())
    again = f"python -m tools.soak.guided check {name} {evidence[0]}" if evidence else ""
    piece.hold(code == 0 and not evidence, f"{name}: exit code {code}: {_gist(errors)}", again)
    figures = _DONE.search(errors)
    if code or figures is None:
        piece.hold(code != 0, f"{name}: the fuzzer did not tell what it did: {errors[-500:]}")
        return
    told = dict(zip(_FIGURES, map(int, figures.groups())))
    piece.hold(json.loads(said.splitlines()[0])["checked"], f"{name}: not the build with bounds checks")
    piece.count(name, told["executions"])
    for what in ("coverage", "features", "corpus"):
        piece.measure(f"{name} {what}", told[what])
    piece.note(f"{name}: {', '.join(f'{what} {number:,}' for what, number in told.items())} a second")
    _replay(piece, name, corpus)


def _replay(piece: Piece, name: str, corpus: Path) -> None:
    done = _call(piece, False, _START_S + 600, "check", name, str(corpus))
    if done is None:
        return
    code, said, errors = done
    held = code == 0 and bool(said)
    piece.hold(held, f"{name}, without bounds checks: {_gist(errors)}", f"python -m tools.soak.guided check {name}")
    if held:
        answers = json.loads(said)
        piece.count(f"{name} replayed", answers.pop("inputs"))
        piece.note(f"{name}, its corpus: {answers}")


def _gist(errors: str) -> str:
    """What is worth telling of a fuzzer's errors: the exception, else the end."""
    lines = [line for line in errors.splitlines() if re.search(r"Unsound|Error:|ERROR: libFuzzer", line)]
    return " | ".join(lines[-4:])[:1500] or errors[-800:]


def run_atheris(piece: Piece) -> None:
    """A part of it: each target in its turn, with an equal share of the time."""
    if not is_there():
        piece.note("left out, atheris is not installed (pip install '.[fuzz]')")
        return
    overhead_s = 20.0  # a target's: two processes that load, and the corpus once more
    share_s = max(_LEAST_S, piece.seconds / len(TARGET_NAMES) - overhead_s)
    for name in TARGET_NAMES:
        run_target(piece, name, piece.folder.parent / "atheris-corpus" / name, share_s)


def main() -> int:
    """One process of it."""
    match sys.argv[1:]:
        case ["fuzz", name, *arguments] if name in TARGET_NAMES:
            if not is_there():
                print("atheris is not installed: pip install '.[fuzz]'", file=sys.stderr)
                return 2
            fuzz(name, arguments)
            return 0
        case ["check", name, *paths] if name in TARGET_NAMES and paths:
            missing = [path for path in paths if not Path(path).exists()]
            if missing:
                print(f"no such file: {', '.join(missing)}", file=sys.stderr)
                return 2
            return 1 if check(name, map(Path, paths)) else 0
    print(f"{__doc__}\ntargets: {', '.join(TARGET_NAMES)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
