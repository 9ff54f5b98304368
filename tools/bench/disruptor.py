"""LMAX Disruptor as a peer of `bench rings`: a small Java driver, compiled at the time, in a JVM of its own.

The consumer waits as ours does, which serves it far better than the library's own spinning strategies. The JVM stays
up over all passes, warm; its two threads wait in the kernel while somebody else is measured.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from shm.clock import python_monotonic_ns, sleep
from tools.bench.report import BenchError
from tools.bench.ring_kernels import PAUSES

_SOURCE = Path(__file__).parent / "java" / "DisruptorBench.java"
_JARS = ("/usr/share/java", "/usr/local/share/java")
_THREADS = ("bench-producer", "bench-consumer")
_OPTIONS = ("-XX:+UseSerialGC", "-Xms256m", "-Xmx256m", "-XX:+AlwaysPreTouch")
WARM_UP = ("single 3000000", "batch 3000000 64") * 3


def _jar() -> Path:
    for folder in _JARS:
        for path in sorted(Path(folder).glob("disruptor*.jar")):
            return path
    raise BenchError(f"no disruptor*.jar in {' or '.join(_JARS)} (Debian: libdisruptor-java)")


class Disruptor:
    """A running driver. Raises BenchError where Java, its compiler or the library is absent."""

    def __init__(self, capacity: int, cores: tuple[int, int], warm_up: tuple[str, ...] = WARM_UP) -> None:
        """capacity: slots of its ring; cores: of the producing and of the consuming thread."""
        java, javac, jar = shutil.which("java"), shutil.which("javac"), _jar()
        if java is None or javac is None:
            raise BenchError("no java or no javac (Debian: default-jdk-headless)")
        found = re.search(r"disruptor-([0-9.]+)\.jar", " ".join(path.name for path in jar.parent.glob("disruptor-*")))
        self.version = found[1] if found else "unknown"
        self._folder = tempfile.TemporaryDirectory(prefix="bot4-bench-")
        try:
            made = subprocess.run(
                [javac, "-cp", str(jar), "-d", self._folder.name, str(_SOURCE)], capture_output=True, text=True,
                check=False,
            )
            if made.returncode:
                raise BenchError(f"javac: {(made.stderr.strip().splitlines() or ['failed'])[0]}")
            self._process = subprocess.Popen(
                [java, *_OPTIONS, "-cp", f"{self._folder.name}:{jar}", "DisruptorBench", str(capacity), str(PAUSES)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
        except BaseException:
            self._folder.cleanup()
            raise
        try:
            if self._line() != "ready":
                raise BenchError("the Disruptor's driver did not start")
            self._pin(cores)
            for command in warm_up:
                self.ask(command)
        except BaseException:
            self.close()
            raise

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _pin(self, cores: tuple[int, int]) -> None:
        deadline = python_monotonic_ns() + 5_000_000_000
        tasks = Path(f"/proc/{self._process.pid}/task")
        while True:
            names = {(task / "comm").read_text().strip(): int(task.name) for task in tasks.iterdir()}
            if all(name in names for name in _THREADS):
                break
            if python_monotonic_ns() > deadline:
                raise BenchError("the Disruptor's threads did not start")
            sleep(0.01)
        for name, core in zip(_THREADS, cores, strict=True):
            os.sched_setaffinity(names[name], {core})

    def ask(self, command: str) -> int:
        """Run `single COUNT` or `batch COUNT SIZE`; ns from the first record to the last one read.

        Raises BenchError when the two ends disagree or the driver is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError("the Disruptor's driver died") from None
        words = self._line().split()
        if len(words) != 3:
            raise BenchError("the Disruptor's driver died")
        nanoseconds, _, wrong = (int(word) for word in words)
        if wrong:
            raise BenchError(f"the Disruptor's two ends disagree about {wrong} records")
        return nanoseconds

    def close(self) -> None:
        """End the JVM and remove what was compiled."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._folder.cleanup()
