"""Balances of a spot account: what is free, what resting orders lock, and where everything went.

Amounts are integers of 1e-8 of their asset; the same holds for all assets, whatever their markets print.
Invariants: free and locked are never negative; for every asset free + locked + what the crowd (all other traders
together) gained + the fees paid is what the account held at the start (`total`). A fee is a part of what was received,
truncated.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.matching.account import RATE_ONE
from engine.matching.events import Refusal
from engine.matching.orders import OrderRefused


class Balances:
    """One account. holdings: asset -> 1e-8 at the start."""

    def __init__(self, holdings: Mapping[str, int]):
        self.free = dict(holdings)
        self.locked = dict.fromkeys(holdings, 0)
        self.crowd = dict.fromkeys(holdings, 0)  # what the others have more than at the start
        self.fees = dict.fromkeys(holdings, 0)

    def lock(self, asset: str, amount: int) -> None:
        """Set an amount aside for an order. Raises OrderRefused where so much is not free."""
        if amount > self.free[asset]:
            raise OrderRefused(Refusal.INSUFFICIENT_BALANCE)
        self.free[asset] -= amount
        self.locked[asset] += amount

    def release(self, asset: str, amount: int) -> None:
        """Give free what was set aside."""
        self.locked[asset] -= amount
        self.free[asset] += amount

    def pay(self, asset: str, amount: int) -> None:
        """Give away what was set aside."""
        self.locked[asset] -= amount

    def receive(self, asset: str, amount: int, rate: int) -> int:
        """Get an amount less the fee at a rate (1e-8); returns the fee."""
        fee = amount * rate // RATE_ONE
        self.free[asset] += amount - fee
        self.fees[asset] += fee
        return fee

    def total(self, asset: str) -> int:
        """What the account held at the start, seen from where it is now."""
        return self.free[asset] + self.locked[asset] + self.crowd[asset] + self.fees[asset]
