"""Entry of spawned processes: `python -m procs.spawned ROLE first|successor`.

The plan and the credentials come on standard input, one JSON line each; who does not trade is given no credentials.
A kill switch with a credentials file of its own reads that. Kill switch and gateway load everything before they read
their plan, so that a standby (procs/standby.py) has to do little more than to open its connections; one that is not
needed finds the input closed.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson

from engine.kernel import kernel_digest
from procs.children import settle
from procs.instance import Plan, ProcessContext
from procs.table import STRATEGIES, Role
from procs.venues.binance_usdm.endpoints import Credentials
from shm.control import TripSource


def main() -> int:
    """Run one spawned process until it is told to stop."""
    role = Role[sys.argv[1].upper()]
    own_code = kernel_digest()
    if role == Role.KILLSWITCH:
        from procs.emergency.load import load

        load()
    elif role == Role.GATEWAY:
        from procs.venues.one_exchange import import_one_exchange

        import_one_exchange("binanceusdm")
        from procs.gateway import Gateway
    plan_json = sys.stdin.buffer.readline()
    if not plan_json:
        return 0
    plan = Plan.from_json(plan_json)
    plan.require_same_code(own_code)
    secrets = orjson.loads(sys.stdin.buffer.readline())
    context = ProcessContext(plan, role, successor=sys.argv[2] == "successor")
    settle(context)
    if role == Role.RECORDER:
        from procs.recorder import Recorder

        Recorder(context).run()
        return 0
    if role in STRATEGIES:
        from procs.strategy_process import StrategyProcess

        StrategyProcess(context).run()
        return 0
    if role == Role.GATEWAY:
        Gateway(context, Credentials(**secrets)).run()
    elif role == Role.KILLSWITCH:
        run_kill_switch(context, secrets)
    else:
        raise ValueError(f"{role.label} is not a spawned process")
    return 0


def run_kill_switch(context: ProcessContext, secrets: dict[str, str], outside: Any = None) -> None:
    """The kill switch, from its first import on: whatever keeps it from working sets the word.

    outside: see procs.killswitch.Outside.
    """
    try:
        from procs.kill_credentials import kill_credentials
        from procs.killswitch import KillSwitch

        switch = KillSwitch(context, kill_credentials(context.plan.settings.venue, secrets), outside)
        switch.settle()
        switch.run()
    except BaseException:
        context.control.trip(TripSource.KILLSWITCH)
        raise


if __name__ == "__main__":
    sys.exit(main())
