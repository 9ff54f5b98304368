"""The clearing house of the embedded exchange: every account, marks, funding, insurance, and what must be conserved.

Three accounts hold everything: the client; the crowd, that is all traders of the generated flow together, who pay no
fees; and the insurance fund. Each fill is booked for both of its sides, funding moves between the accounts, and
liquidation fees and bankruptcies move between client and insurance fund.
Invariant: the sum over the accounts of wallet plus unrealised profit at one mark, plus the fees paid, never changes
(exactly: what the rounding of realised profit moves in time, the cost of the position holds). `total` is that sum.
Funding: at every grid point of the interval a position pays its value at the mark times the rate, truncated; longs pay
where the rate is positive, and the crowd takes the other side.
Source: Binance USD-M futures, "Funding Rate", "Insurance Fund", income history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from engine.instruments import Instrument
from engine.matching.account import RATE_ONE, apply_fill, new_account, unrealised
from engine.matching.margin import bracket_of, maintenance_margin
from engine.matching.orders import FundingRate, Income, IncomeEntry
from engine.matching.settings import VenueSettings
from engine.stage import as_bytes
from engine.units import MONEY_EXP, mul_div, notional, parse_units

CROWD = 0  # owner ids in the books
CLIENT = 1
INSURANCE = 2
KEPT_INCOME = 100_000
KEPT_RATES = 10_000
NS = 1_000_000_000


class Clearing:
    """Accounts by owner. Money in 1e-8, prices and sizes in the contract's units."""

    def __init__(self, settings: VenueSettings, instruments: tuple[Instrument, ...], start_ns: int):
        self.instruments = instruments
        self.accounts = (
            new_account(0, 0, 0, 1),
            new_account(
                parse_units(settings.starting_balance, MONEY_EXP),
                parse_units(settings.maker_fee, MONEY_EXP),
                parse_units(settings.taker_fee, MONEY_EXP),
                settings.leverage,
            ),
            new_account(parse_units(settings.insurance_fund, MONEY_EXP), 0, 0, 1),
        )
        self._bytes = tuple(as_bytes(account) for account in self.accounts)
        for account in self.accounts:
            for item in instruments:
                account["unit_exp"][0, item.index] = item.price_exp + item.size_exp
        self.client = self.accounts[CLIENT]
        self.client_bytes = self._bytes[CLIENT]
        self.income: deque[IncomeEntry] = deque(maxlen=KEPT_INCOME)
        self.rates: deque[FundingRate] = deque(maxlen=KEPT_RATES)
        self.liquidations = 0
        self._transactions = 0
        self._rate = parse_units(settings.funding_rate, MONEY_EXP)
        self._interval_ns = settings.funding_interval_s * NS
        self.funding_due_ns = (start_ns // self._interval_ns + 1) * self._interval_ns

    # reading

    def position(self, symbol: int, owner: int = CLIENT) -> int:
        """Signed size."""
        return int(self.accounts[owner]["position"][0, symbol])

    def unrealised(self, symbol: int, owner: int = CLIENT) -> int:
        """Unrealised profit of one position at its mark."""
        return int(unrealised(self._bytes[owner], symbol))

    def mark(self, symbol: int) -> int:
        """Mark price."""
        return int(self.client["mark"][0, symbol])

    def value(self, symbol: int) -> int:
        """Unsigned notional of the client's position at its mark."""
        item = self.instruments[symbol]
        return int(notional(self.mark(symbol), abs(self.position(symbol)), item.price_exp + item.size_exp))

    def maintenance(self, symbol: int) -> int:
        """Maintenance margin of the client's position."""
        return maintenance_margin(self.value(symbol))

    def margin_balance(self) -> int:
        """The client's wallet plus unrealised profit of all positions."""
        return int(self.client["wallet"][0]) + sum(self.unrealised(item.index) for item in self.instruments)

    def liquidation_price(self, symbol: int) -> int:
        """The mark at which the client is liquidated if nothing else moves, price units; 0: none above zero."""
        position = self.position(symbol)
        if position == 0:
            return 0
        item = self.instruments[symbol]
        others = sum(
            self.unrealised(other.index) - self.maintenance(other.index) for other in self.instruments
            if other.index != symbol
        )
        sign = 1 if position > 0 else -1
        bracket = bracket_of(self.value(symbol))
        free = (
            int(self.client["wallet"][0]) + others + bracket.cum - sign * int(self.client["cost"][0, symbol])
        )
        units = 10 ** (item.price_exp + item.size_exp)
        price = free * units * RATE_ONE // (abs(position) * 10**MONEY_EXP * (bracket.rate - sign * RATE_ONE))
        return max(0, price)

    def total(self) -> int:
        """What all accounts are worth plus all fees paid: it never changes."""
        return sum(
            int(account["wallet"][0]) + int(account["fees"][0])
            + sum(self.unrealised(item.index, owner) for item in self.instruments)
            for owner, account in enumerate(self.accounts)
        )

    # changes

    def set_mark(self, symbol: int, mark: int) -> None:
        """The mark price of a contract, for every account."""
        for account in self.accounts:
            account["mark"][0, symbol] = mark

    def fill(self, owner: int, symbol: int, side: int, price: int, size: int, fee_kind: int) -> tuple[int, int]:
        """Book one side of a fill; (realised profit, fee). Owners that have no account are the crowd."""
        place = owner if owner in (CLIENT, INSURANCE) else CROWD
        realised = int(apply_fill(self._bytes[place], symbol, side, price, size, fee_kind))
        return realised, int(self.accounts[place]["last_fee"][0])

    def note_income(self, income: Income, symbol: int, amount: int, time_ns: int, trade_id: int = 0) -> None:
        """Write a line of the client's income history; nothing is written for nothing."""
        if amount:
            self._transactions += 1
            self.income.append(IncomeEntry(income, symbol, amount, time_ns, self._transactions, trade_id))

    def move(self, field: str, giver: int, taker: int, amount: int) -> None:
        """Move money between two accounts; field ("funding" or "insurance") keeps the tally of both."""
        for owner, change in ((giver, -amount), (taker, amount)):
            self.accounts[owner]["wallet"][0] += change
            self.accounts[owner][field][0] += change

    def settle_funding(self) -> Iterator[tuple[int, int]]:
        """Settle what is due; yields (contract, change of the client's wallet) for each payment, right after it."""
        time_ns = self.funding_due_ns
        self.funding_due_ns += self._interval_ns
        for item in self.instruments:
            mark = self.mark(item.index)
            self.rates.append(FundingRate(item.index, self._rate, mark, time_ns))
            for owner in (INSURANCE, CLIENT):
                value = notional(mark, self.position(item.index, owner), item.price_exp + item.size_exp)
                paid = int(mul_div(value, self._rate, RATE_ONE))
                if paid:
                    self.move("funding", owner, CROWD, paid)
                    if owner == CLIENT:
                        self.note_income(Income.FUNDING_FEE, item.index, -paid, time_ns)
                        yield item.index, -paid
