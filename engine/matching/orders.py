"""What the exchange keeps and says about the client's orders, fills and money."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.matching.events import Refusal, SelfTrade
from engine.records import OrderType, Side, TimeInForce


class OrderStatus(StrEnum):
    """Life of a client order, in the venue's words."""

    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    EXPIRED_IN_MATCH = "EXPIRED_IN_MATCH"  # expired to prevent a self-trade


class Execution(StrEnum):
    """What happened to an order, in the venue's words."""

    NEW = "NEW"
    TRADE = "TRADE"
    CALCULATED = "CALCULATED"  # a fill of a liquidation order
    AMENDMENT = "AMENDMENT"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"


class Income(StrEnum):
    """Why the wallet changed, in the venue's words."""

    REALIZED_PNL = "REALIZED_PNL"
    COMMISSION = "COMMISSION"
    FUNDING_FEE = "FUNDING_FEE"
    INSURANCE_CLEAR = "INSURANCE_CLEAR"


class OrderRefused(Exception):
    """The exchange does not take an order, an amendment or a cancel; reason is a Refusal."""

    def __init__(self, reason: Refusal):
        super().__init__(reason.name)
        self.reason = reason


@dataclass(slots=True)
class ClientOrder:
    """One order of the account. Prices, sizes in the contract's units, money in 1e-8."""

    order_id: int
    client_id: str
    symbol: int
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: int
    size: int
    reduce_only: bool
    time_ns: int
    update_ns: int
    self_trade: SelfTrade = SelfTrade.NONE
    forced: bool = False  # a liquidation order
    amendments: int = 0
    executed: int = 0
    quote: int = 0  # sum of the notionals of its fills
    status: OrderStatus = OrderStatus.NEW
    locked: int = 0  # spot: what it holds of the asset it gives away, 1e-8
    quote_wanted: int = 0  # spot: the value that a market order was given instead of a size, 1e-8
    cancel_id: str = ""  # spot: the client's name of the request that cancelled it

    @property
    def remaining(self) -> int:
        """Size that has not traded, size units."""
        return self.size - self.executed

    @property
    def is_open(self) -> bool:
        """Whether it rests in the book."""
        return self.status in (OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED)

    @property
    def may_rest(self) -> bool:
        """Whether its kind of order can wait in the book."""
        return self.order_type == OrderType.LIMIT and self.time_in_force in (TimeInForce.GTC, TimeInForce.GTX)


@dataclass(frozen=True, slots=True)
class ClientFill:
    """One execution of a client order."""

    trade_id: int
    order_id: int
    client_id: str
    symbol: int
    side: Side
    price: int
    size: int
    quote: int  # notional, 1e-8
    fee: int  # 1e-8, paid; spot: of the asset that was received
    realised: int  # 1e-8, without the fee
    maker: bool
    time_ns: int


@dataclass(frozen=True, slots=True)
class OrderNotice:
    """One change of a client order."""

    execution: Execution
    order: ClientOrder  # a copy
    fill: ClientFill | None
    time_ns: int


@dataclass(frozen=True, slots=True)
class SpotNotice(OrderNotice):
    """One change of a spot order, with what the account has of the two assets right after."""

    balances: tuple[tuple[str, int, int], ...]  # asset, free, locked in 1e-8; base first


@dataclass(frozen=True, slots=True)
class Notice(OrderNotice):
    """One change of an order of futures, with the account as it was right after."""

    wallet: int
    position: int
    cost: int
    unrealised: int
    realised: int  # of this contract and account, accumulated
    bid_value: int  # notional of the open buy orders in this contract
    ask_value: int


@dataclass(frozen=True, slots=True)
class WalletChange:
    """The client's wallet changed without a fill (FUNDING_FEE, INSURANCE_CLEAR), or is about to (margin call)."""

    reason: str  # an Income, or MARGIN_CALL
    symbol: int
    change: int  # 1e-8
    wallet: int  # after it
    time_ns: int


@dataclass(frozen=True, slots=True)
class IncomeEntry:
    """One line of the client's income history."""

    income: Income
    symbol: int
    amount: int  # 1e-8
    time_ns: int
    transaction_id: int
    trade_id: int  # 0: none


@dataclass(frozen=True, slots=True)
class FundingRate:
    """One settlement of a contract."""

    symbol: int
    rate: int  # 1e-8
    mark: int  # price units
    time_ns: int
