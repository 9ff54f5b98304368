"""One limit with hysteresis: raised beyond the limit, released well below it, and raised when nothing can be known."""

from __future__ import annotations

import math
from dataclasses import dataclass

_NS_PER_S = 1_000_000_000


@dataclass
class Level:
    """What a monitor says of one instrument, venue or process. `update` is given every figure, in order of time.

    cause: unique among all; action: of panic_settings.ACTIONS. A figure that is NaN for `missing_ns` is a finding; one
    that is None was not to be judged: what was said before stays.
    """

    cause: str
    action: str
    what: str  # "spread of BTCUSDT"
    unit: str  # "times its normal"
    release_share: float
    missing_ns: int
    raised: bool = False
    known: bool = False  # a figure has been judged, or is missing for too long
    reason: str = ""
    figure: float = math.nan
    limit: float = math.nan
    _missing_since_ns: int = -1

    def update(self, now_ns: int, figure: float | None, limit: float) -> None:
        """Judge a figure against a limit above 0; the larger it is the worse."""
        self.limit = limit
        if figure is None:
            self._missing_since_ns = -1
            return
        self.figure = figure
        if math.isnan(figure) or math.isnan(limit):
            self._miss(now_ns)
            return
        self._missing_since_ns = -1
        self.known = True
        if figure > limit:
            self.raised = True
            self.reason = f"{self.what}: {figure:.4g} {self.unit}, {limit:.4g} allowed"
        elif self.raised and figure <= limit * self.release_share:
            self.raised, self.reason = False, ""

    def _miss(self, now_ns: int) -> None:
        if self._missing_since_ns < 0:
            self._missing_since_ns = now_ns
        if now_ns - self._missing_since_ns >= self.missing_ns:
            self.raised = self.known = True
            self.reason = f"{self.what}: no figure for {self.missing_ns / _NS_PER_S:.4g} s, so none within limits"
