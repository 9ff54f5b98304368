"""Coverage-guided fuzzing with atheris: every decoder interpreted, with its ways counted, beside the compiled one.

A piece is one target, the next one each time, for less than a minute: a process of its own with bounds checks fuzzes it
from where the last one ended, since inputs that reached something new are kept in a corpus folder beside the tally. It
is begun with the made frames of seeds.py and, where the recordings are there, with frames of them, and is given the
words of the format. Afterwards the whole corpus is run again through the build without bounds checks. What must hold is
told in decoder_targets.py and body_targets.py; the input that shows a violation is left in the piece's folder.

    python -m tools.soak.guided fuzz TARGET CORPUS ...   one such process (needs atheris; options are libFuzzer's)
    python -m tools.soak.guided check TARGET FILE ...    these inputs, or folders of them, once more, without atheris

How often a kernel took each of its ways in an input is of one of four magnitudes, and each of them is a counter of
atheris's: byte code that atheris instruments would say the same at five times the cost.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from engine.instruments import Dialect
from engine.kernel import PROJECT_ROOT, checked_mode
from procs.captures import CaptureError
from procs.embedded.mix import Draws
from procs.journal.layout import Entry
from procs.venues.frame_symbols import symbol_of
from shm.clock import python_monotonic_ns
from tools.soak.decoder_targets import Target
from tools.soak.fuzz import inputs_of
from tools.soak.mutations import changed, dictionary
from tools.soak.seeds import INSTRUMENTS
from tools.soak.tally import Piece
from tools.soak.target_table import TARGET_NAMES, make_target

EXECUTIONS = 100_000  # wanted of each target, and the most that a piece makes
PIECE_S = 55.0  # for all of a piece
MOST_BYTES = 4_096  # of an input
_BESIDE_S = 15.0  # of it for loading twice, and for the corpus once more
_HUNG_S = 30  # no input may take longer
_START_S = 600.0  # to load and, the first time, to compile
_LEAST_S = 5.0
_TELL_S = 10.0
_LATEST, _TO_LATEST = 16, 0.5  # inputs; share of the changes
_TRIES = 6  # to make an input that was not there before: short ones have few neighbours
_DEPTH = 2  # changes one after another: with more, most inputs are refused at once
_SEEDED = 400  # recorded frames a target
_MAGNITUDES = 4  # once, 2 or 3 times, up to 15 times, more
_AT = re.compile(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)


def is_there() -> bool:
    """True where atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


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


def options_of(words: Path, left: Path, seed: int, runs: int, seconds: float) -> list[str]:
    """libFuzzer's options. words: the dictionary; left: a folder for inputs that raised; runs: the first inputs too."""
    return [
        f"-seed={seed}", f"-runs={runs}", f"-max_total_time={max(1, round(seconds))}", f"-timeout={_HUNG_S}",
        f"-max_len={MOST_BYTES}", f"-mutate_depth={_DEPTH}", f"-dict={words}", f"-artifact_prefix={left}/",
        "-rss_limit_mb=0",
    ]  # fmt: skip


def _magnitude(count: int) -> int:
    return 0 if count == 1 else 1 if count < 4 else 2 if count < 16 else 3


class _Finds:
    """The latest inputs that reached something new, to which a good part of the changes is made.

    A fuzzer shares its time among all inputs that ever did. What is behind several bytes is one step beyond a late one.
    """

    def __init__(self) -> None:
        self._reached: set[int] = set()
        self._latest: deque[bytes] = deque(maxlen=_LATEST)
        self._begun = False

    def chosen(self, draws: Draws) -> bytes | None:
        """One of them, or None where the fuzzer's own choice is to be changed."""
        self._begun = True  # what ran before was there at the start
        return draws.choice(self._latest) if self._latest and draws.uniform() < _TO_LATEST else None

    def note(self, data: bytes, reached: Sequence[int]) -> None:
        """An input that was run, and what it reached."""
        if not self._reached.issuperset(reached):
            self._reached.update(reached)
            if self._begun:
                self._latest.append(data)


def fuzz(target: Target, arguments: list[str]) -> None:
    """This process becomes the fuzzer of a target; it ends with libFuzzer's exit code."""
    import atheris

    # Counters are numbered in the order in which they are reserved.
    first = next(iter([atheris._reserve_counter() for _ in range(_MAGNITUDES * target.ways)]), 0)
    for function in target.functions():
        atheris.instrument_func(function)
    finds = _Finds()
    tried: set[int] = set()

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        draws = Draws(seed, 0)
        new = data
        for _ in range(_TRIES):
            if hash(new) not in tried:
                break
            base = finds.chosen(draws) or data
            other = changed(base, target, draws)
            new = atheris.Mutate(base, most) if other is None else other[:most]
        return new

    def run(data: bytes) -> None:
        tried.add(hash(data))
        target.run(data)
        reached = [_MAGNITUDES * way + _magnitude(count) for way, count in target.take_ways().items()]
        finds.note(data, reached)
        for counter in reached:
            atheris._trace_branch(first + counter)

    print(json.dumps({"checked": checked_mode()}), flush=True)  # the fuzzer ends without a word of Python's
    atheris.Setup([f"fuzz {target.name}", *arguments], run, custom_mutator=mutate)
    atheris.Fuzz()


def inputs_at(paths: Iterable[Path]) -> Iterator[Path]:
    """These files, and those in these folders, sorted."""
    for path in paths:
        yield from sorted(path.iterdir()) if path.is_dir() else [path]


def check(name: str, paths: Iterable[Path]) -> int:
    """Run inputs through a target in this process; how many were unsound, each with a line."""
    target = make_target(name)
    found = given = 0
    reached: set[int] = set()
    for path in inputs_at(paths):
        given += 1
        try:
            target.run(path.read_bytes())
        except Exception as error:  # whatever it is: it is what is looked for
            found += 1
            print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
        reached |= target.take_ways().keys()
    figures = {"inputs": given, "unsound": found, "checked": checked_mode()}
    if target.ways:
        figures |= {"ways": len(reached), "ways there are": target.ways}
    print(json.dumps({**figures, **target.answers}))
    return found


def environment_of(checks: bool) -> dict[str, str]:
    """The environment of a process with or without bounds checks, in which hashes are what they were."""
    environment = os.environ | {"PYTHONHASHSEED": "0", "NUMBA_BOUNDSCHECK": "1"}
    if not checks:
        del environment["NUMBA_BOUNDSCHECK"]  # with a 0 nothing is found in the cache, and all is compiled anew
    return environment


def _call(piece: Piece, checks: bool, limit_s: float, *arguments: str) -> tuple[int, str, str] | None:
    """One process of this module: (exit code, output, errors); None when it did not end, which is a violation.

    What the fuzzer has done so far is printed from time to time.
    """
    environment = environment_of(checks)
    output, errors = (piece.folder / f"{arguments[0]}-{what}" for what in ("output", "errors"))
    end = python_monotonic_ns() + int(limit_s * 1e9)
    with output.open("w") as told, errors.open("w") as wrong:
        command = [sys.executable, "-m", "tools.soak.guided", *arguments]
        process = subprocess.Popen(command, env=environment, cwd=PROJECT_ROOT, stdout=told, stderr=wrong)
        try:
            while True:
                try:
                    process.wait(_TELL_S)
                    break
                except subprocess.TimeoutExpired:
                    _tell(arguments[1], _text(errors))
                if python_monotonic_ns() > end:
                    piece.hold(False, f"{arguments[1]}: {arguments[0]} did not end in {limit_s:.0f} s")
                    return None
        finally:
            process.kill()
            process.wait()
    return process.returncode, _text(output), _text(errors)


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def _tell(name: str, errors: str) -> None:
    """A line about where the fuzzer is, once it runs."""
    if lines := _AT.findall(errors):
        executions, _, _, features, corpus = lines[-1]
        print(f"    {name}: {int(executions):,} executions, {features} features, corpus {corpus}", flush=True)


def run_target(piece: Piece, name: str, corpus: Path, seconds: float) -> None:
    """Fuzz one target for so long, or until it was executed EXECUTIONS times, then run its corpus without checks."""
    begin, words, left = piece.folder / f"{name}-begin", piece.folder / f"{name}-words", piece.folder / f"{name}-left"
    target = make_target(name)
    write_seeds(target, begin, with_recorded=True)
    words.write_text(dictionary(target.names))
    left.mkdir()
    corpus.mkdir(parents=True, exist_ok=True)
    first = sum(1 for _ in inputs_at([corpus, begin]))  # executed once each before anything new is
    options = options_of(words, left, piece.seed + 1, first + EXECUTIONS + 1, seconds)
    done = _call(piece, True, seconds + _START_S, "fuzz", name, str(corpus), str(begin), *options)
    if done is None:
        return
    code, said, errors = done
    evidence = sorted(left.iterdir())
    again = f"python -m tools.soak.guided check {name} {evidence[0]}" if evidence else ""
    piece.hold(code == 0 and not evidence, f"{name}: exit code {code}: {_gist(said + errors)}", again)
    lines = {what: figures for figures in _AT.findall(errors) for what in [figures[1]]}
    if code or not {"INITED", "DONE"} <= lines.keys():
        piece.hold(code != 0, f"{name}: the fuzzer did not tell what it did: {errors[-500:]}")
        return
    executions, _, _, features, kept = lines["DONE"]
    piece.hold(json.loads(said.splitlines()[0])["checked"], f"{name}: not the build with bounds checks")
    piece.count(name, int(executions) - int(lines["INITED"][0]))
    piece.measure(f"{name} features", int(features))
    piece.measure(f"{name} corpus", int(kept))
    _replay(piece, name, corpus)


def _replay(piece: Piece, name: str, corpus: Path) -> None:
    done = _call(piece, False, _START_S, "check", name, str(corpus))
    if done is None:
        return
    code, said, errors = done
    held = code == 0 and bool(said)
    piece.hold(held, f"{name}, without bounds checks: {_gist(errors)}", f"python -m tools.soak.guided check {name}")
    if held:
        answers = json.loads(said)
        piece.count(f"{name} replayed", answers.pop("inputs"))
        if "ways" in answers:
            piece.measure(f"{name} ways", answers["ways"])
        piece.note(f"{name}, its corpus: {answers}")


def _gist(errors: str) -> str:
    """What is worth telling of what a fuzzer said: the exception, else the end."""
    lines = [line for line in errors.splitlines() if re.search(r"Unsound|Error:|ERROR: libFuzzer", line)]
    return " | ".join(lines[-4:])[:1500] or errors[-800:]


def run_atheris(piece: Piece) -> None:
    """A part of it: the next target, by the seed."""
    if not is_there():
        piece.note("left out, atheris is not installed (pip install '.[fuzz]')")
        return
    name = TARGET_NAMES[piece.seed % len(TARGET_NAMES)]
    seconds = max(_LEAST_S, min(piece.seconds, PIECE_S) - _BESIDE_S)
    run_target(piece, name, piece.folder.parent / "atheris-corpus" / name, seconds)


def main() -> int:
    """One process of it."""
    match sys.argv[1:]:
        case ["fuzz", name, *arguments] if name in TARGET_NAMES:
            if not is_there():
                print("atheris is not installed: pip install '.[fuzz]'", file=sys.stderr)
                return 2
            fuzz(make_target(name), arguments)
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
