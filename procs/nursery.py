"""The supervisor's end of the zygote (procs/zygote.py): starts it, asks it for stages, replaces it when it has died."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from procs.children import Child, open_log
from procs.instance import Plan
from procs.table import Role

_MESSAGE_BYTES = 1 << 16
# The first answer waits for the imports, and for a cold kernel cache where nobody has warmed it.
_PATIENCE_S = 120.0


class NurseryError(RuntimeError):
    """The zygote cannot be started."""


class Nursery:
    """Where stages come from."""

    def __init__(self, folder: Path) -> None:
        """Start a zygote, whose output goes to zygote.log in `folder`. It is ready when it first answers."""
        self._folder = folder
        self._plan: Plan | None = None
        self.deaths = 0
        self._start()

    def _start(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(_PATIENCE_S)
        self._settling = False  # the plan is on its way, and not answered yet
        with theirs, open_log(self._folder, "zygote") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "procs.zygote", str(theirs.fileno())], pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=Path(__file__).resolve().parent.parent,
                # A library that starts threads would make the fork unsafe.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )

    @property
    def pid(self) -> int:
        """Of the zygote."""
        return self._process.pid

    def _ask(self, **request: Any) -> tuple[dict[str, Any], list[int]]:
        """Send a request and wait for the answer. Raises OSError when the zygote is dead or does not answer."""
        self._channel.send(orjson.dumps(request))
        if self._settling:
            self._settling = False
            self._answer()
        return self._answer()

    def _answer(self) -> tuple[dict[str, Any], list[int]]:
        message, descriptors, _, _ = socket.recv_fds(self._channel, _MESSAGE_BYTES, 1)
        if not message:
            raise ConnectionError("the zygote has ended")
        return orjson.loads(message), list(descriptors)

    def settle(self, plan: Plan) -> None:
        """Tell the zygote, and any that takes its place, what instance the stages belong to.

        Nobody waits for it to get ready: the supervisor has others to look after. Raises OSError when it is dead.
        """
        self._plan = plan
        self._channel.send(orjson.dumps({"plan": orjson.loads(plan.to_json())}))
        self._settling = True

    def look_after(self) -> bool:
        """Start another zygote when this one has died; True when it had. Its stages live on without it."""
        if self._process.poll() is None:
            return False
        self._restart()
        return True

    def _restart(self) -> None:
        self.deaths += 1
        self.close()
        self._start()
        if self._plan is not None:
            self.settle(self._plan)

    def fork(self, role: Role, successor: bool) -> Child:
        """A new stage. Raises NurseryError when two zygotes in a row do not give one."""
        request = {"fork": role.label, "successor": successor}
        try:
            answer, descriptors = self._ask(**request)
        except OSError:
            try:
                self._restart()
                answer, descriptors = self._ask(**request)
            except OSError as error:
                raise NurseryError(f"no {role.label} can be started: {error}; see {self._folder}/zygote.log") from None
        return Child(role, answer["pid"], descriptors[0], exit_code=self.exit_code)

    def exit_code(self, pid: int) -> int | None:
        """How a stage that has ended did so; None when its zygote is gone, and with it the answer."""
        try:
            answer, _ = self._ask(ended=pid)
        except OSError:
            return None
        status: int | None = answer["status"]
        return status

    def close(self) -> None:
        """End the zygote. What it has forked lives on."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
