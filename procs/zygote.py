"""The zygote: one single-threaded process that has every kernel loaded and forks the stages from it.

`python -m procs.zygote DESCRIPTOR`, started by a supervisor, which asks for stages over the socket of that number
(procs/nursery.py is the other end). It imports numpy, numba, engine and shm; a stage that needs more (onnxruntime,
picows) imports it after the fork. It holds no secret and maps no segment: each stage opens its own.
It ends when the supervisor does; the stages go on, and the next supervisor adopts them.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable

import orjson

from engine.execution.kernel import EXECUTION
from engine.features.step import FEATURES
from engine.validation.step import VALIDATION
from procs.children import STOP_SIGNALS, fork_child
from procs.instance import Plan, ProcessContext
from procs.monitoring import Monitoring
from procs.stage_process import run_stage
from procs.strategies import kept_strategies, load_strategies
from procs.table import Role

MESSAGE_BYTES = 1 << 17


def _run_ingestion(context: ProcessContext) -> None:
    from procs.ingestion import Ingestion

    Ingestion(context).run()


def _run_ml(context: ProcessContext) -> None:
    from procs.inference import run_inference

    run_inference(context)


# What a forked process runs.
BODIES: dict[Role, Callable[[ProcessContext], None]] = {
    Role.INGESTION: _run_ingestion,
    Role.VALIDATION: lambda context: run_stage(context, VALIDATION),
    Role.FEATURES: lambda context: run_stage(context, FEATURES),
    Role.ML: _run_ml,
    Role.EXECUTION: lambda context: run_stage(context, EXECUTION),
    Role.MONITORING: lambda context: Monitoring(context).run(),
}


def _exit_code(pid: int) -> int | None:
    """How a stage ended, once it has: its exit code or minus a signal; None when it is no child of ours."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def serve(channel: socket.socket) -> None:
    """Answer the supervisor's requests until it is gone. One JSON object each way:

    {"plan": PLAN} -> {}; {"fork": ROLE, "successor": BOOL} -> {"pid": N} with a pidfd; {"ended": PID} -> {"status": N}.
    """
    os.register_at_fork(after_in_child=channel.close)
    plan: Plan | None = None
    while message := channel.recv(MESSAGE_BYTES):
        request = orjson.loads(message)
        descriptors: list[int] = []
        answer: dict[str, int | None] = {}
        if "plan" in request:
            plan = Plan.from_json(orjson.dumps(request["plan"]))
            plan.require_same_code()
            # Compiled, or from the cache, before the first fork: every successor runs what the session began with.
            load_strategies(plan.settings, kept_strategies(plan.path, plan.settings))
        elif "fork" in request:
            if plan is None:
                raise ValueError("a stage was asked for before the plan was there")
            role = Role[request["fork"].upper()]
            child = fork_child(plan, role, BODIES[role], request["successor"])
            descriptors = [child.pidfd]
            answer = {"pid": child.pid}
        else:
            answer = {"status": _exit_code(request["ended"])}
        socket.send_fds(channel, [orjson.dumps(answer)], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def main() -> int:
    """Serve one supervisor."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)  # the supervisor alone hears them
    gc.disable()  # nothing here makes garbage, and a collection would copy the pages that the stages share
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        channel.set_inheritable(False)
        try:
            serve(channel)
        except (ConnectionError, BrokenPipeError):
            return 0  # killed in the middle of a request
    return 0


if __name__ == "__main__":
    sys.exit(main())
