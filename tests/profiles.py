"""What hypothesis does in the tests: a red run is of the change, not of the day.

`make test` takes the same examples each time, `make soak SUITE=properties` others. Both profiles say all that they
rely on: what a profile leaves out hypothesis takes from one of its own, and that is another one where CI is set.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_ALWAYS = settings(database=None, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("gate", _ALWAYS, derandomize=True)
settings.register_profile("search", _ALWAYS, derandomize=False)
settings.load_profile("gate")
