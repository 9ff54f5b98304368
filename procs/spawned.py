"""Entry of spawned processes: `python -m procs.spawned ROLE first|successor`.

The plan and the credentials come on standard input, one JSON line each; who does not trade is given no credentials.
"""

from __future__ import annotations

import sys

import orjson

from procs.children import settle
from procs.instance import Plan, ProcessContext
from procs.table import Role
from procs.venues.binance_usdm.endpoints import Credentials


def main() -> int:
    """Run one spawned process until it is told to stop."""
    role = Role[sys.argv[1].upper()]
    plan = Plan.from_json(sys.stdin.buffer.readline())
    plan.require_same_code()
    secrets = sys.stdin.buffer.readline()
    context = ProcessContext(plan, role, successor=sys.argv[2] == "successor")
    settle(context)
    if role == Role.RECORDER:
        from procs.recorder import Recorder

        Recorder(context).run()
        return 0
    credentials = Credentials(**orjson.loads(secrets))
    if role == Role.GATEWAY:
        from procs.gateway import Gateway

        Gateway(context, credentials).run()
    elif role == Role.KILLSWITCH:
        from procs.killswitch import KillSwitch

        KillSwitch(context, credentials).run()
    else:
        raise ValueError(f"{role.label} is not a spawned process")
    return 0


if __name__ == "__main__":
    sys.exit(main())
