"""What the exchangeInfo of Binance says of an instrument: units, contract, status, limits of an order.

The three markets name things differently:

                 price decimals     size decimals       status          least value           contract
    spot         those of tickSize  those of stepSize   status          minNotional of        -
                                                                        (MIN_)NOTIONAL
    USD-M        pricePrecision     quantityPrecision   status          notional of           linear, one base unit
                                                                        MIN_NOTIONAL
    COIN-M       pricePrecision     quantityPrecision   contractStatus  -                     inverse, contractSize
                                                                                              quote units

Invariants: a price or size that the venue prints is a whole number of the instrument's units, unless so many
decimals leave no room in int64 for the largest sizes (spot coins worth next to nothing); then the size unit is the
finest that leaves room, and never coarser than the lot.
Source: Binance spot, USD-M and COIN-M futures, "Exchange Information".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.instruments import Dialect, Instrument
from engine.listed import checked, unit_exponent
from engine.records import Status
from engine.units import MONEY_EXP, parse_units

# Largest order in size units: a level of 64 of them is still within validation's bound of 2^56.
SIZE_ROOM = 1 << 50
TRADING = "TRADING"
# By the venue's word; any other, such as BREAK, HALT and PENDING_TRADING, is HALTED.
_STATUS = {
    TRADING: Status.TRADING,
    **dict.fromkeys(
        ("PRE_DELIVERING", "DELIVERING", "DELIVERED", "PRE_SETTLE", "SETTLING", "CLOSE", "END_OF_DAY"), Status.CLOSED
    ),
}


@dataclass(frozen=True)
class Listed:
    """One entry of exchangeInfo. Limits are in the instrument's units, 0 where the venue sets none."""

    instrument: Instrument
    status: str  # as the venue words it
    min_price: int
    max_price: int
    min_size: int
    max_size: int
    max_market_size: int  # of a market order

    @property
    def trading(self) -> bool:
        """True when the venue takes orders for it."""
        return self.status == TRADING


def coin_contract_value(pair: str) -> int:
    """What one COIN-M contract of a pair is worth, in 1e-8 quote units, for who has no exchangeInfo at hand.

    Source: Binance COIN-M futures, "Contract Specifications": 100 USD for BTCUSD, 10 USD for all others.
    """
    return (100 if pair == "BTCUSD" else 10) * 10**MONEY_EXP


def status_of(word: str) -> Status:
    """What the venue's word for the status of a symbol or contract means."""
    return _STATUS.get(word, Status.HALTED)


def listed_from_binance(
    entry: Mapping[str, Any], index: int, dialect: Dialect = Dialect.BINANCE_USDM, venue: int = 0
) -> Listed:
    """One entry of `symbols` of exchangeInfo of the market that the dialect is of.

    Raises ValueError naming the symbol and what is missing or cannot be.
    """
    symbol = str(entry.get("symbol", "?"))
    try:
        return _listed(entry, symbol, index, dialect, venue)
    except KeyError as error:
        raise ValueError(f"exchangeInfo of {symbol}: {error.args[0]} is missing") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"exchangeInfo of {symbol}: {error}") from None


def instrument_from_binance(
    entry: Mapping[str, Any], index: int, dialect: Dialect = Dialect.BINANCE_USDM, venue: int = 0
) -> Instrument:
    """The instrument alone; see `listed_from_binance`."""
    return listed_from_binance(entry, index, dialect, venue).instrument


def _listed(entry: Mapping[str, Any], symbol: str, index: int, dialect: Dialect, venue: int) -> Listed:
    filters = {item["filterType"]: item for item in entry["filters"]}
    prices, sizes = filters["PRICE_FILTER"], filters["LOT_SIZE"]
    tick, lot = prices["tickSize"], sizes["stepSize"]
    if dialect == Dialect.BINANCE_SPOT:
        price_exp, wire_exp = unit_exponent(_decimals(tick)), unit_exponent(_decimals(lot))
        least = (filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or {}).get("minNotional", "0")
    else:
        price_exp, wire_exp = unit_exponent(entry["pricePrecision"]), unit_exponent(entry["quantityPrecision"])
        least = filters.get("MIN_NOTIONAL", {}).get("notional", "0")
    size_exp = _size_exp(lot, sizes.get("maxQty", "0"), wire_exp)
    inverse = dialect == Dialect.BINANCE_COINM
    status = str(entry["contractStatus" if inverse else "status"])
    coarser = 10 ** (wire_exp - size_exp)
    return Listed(
        instrument=checked(Instrument(
            index=index,
            symbol=symbol,
            base=str(entry["baseAsset"]),
            quote=str(entry["quoteAsset"]),
            price_exp=price_exp,
            size_exp=size_exp,
            tick_size=parse_units(tick, price_exp),
            lot_size=parse_units(lot, size_exp),
            min_notional=parse_units(least, MONEY_EXP),
            venue=venue,
            dialect=dialect,
            contract_value=parse_units(str(entry["contractSize"]), MONEY_EXP) if inverse else 0,
            status=status_of(status),
        )),
        status=status,
        min_price=parse_units(prices.get("minPrice", "0"), price_exp),
        max_price=parse_units(prices.get("maxPrice", "0"), price_exp),
        min_size=-(-parse_units(sizes.get("minQty", "0"), wire_exp) // coarser),
        max_size=parse_units(sizes.get("maxQty", "0"), wire_exp) // coarser,
        max_market_size=parse_units(filters.get("MARKET_LOT_SIZE", {}).get("maxQty", "0"), wire_exp) // coarser,
    )


def _decimals(text: str) -> int:
    """Digits after the point of a decimal text as the venue prints it."""
    return len(text.partition(".")[2])


def _size_exp(lot: str, largest: str, wire_exp: int) -> int:
    """The most decimals of a size, up to those of the wire, at which the largest order stays within SIZE_ROOM."""
    size_exp = wire_exp
    while size_exp > 0 and parse_units(largest, wire_exp) > SIZE_ROOM * 10 ** (wire_exp - size_exp):
        if parse_units(lot, wire_exp) % 10 ** (wire_exp - size_exp + 1):
            break  # one decimal less could not hold the lot
        size_exp -= 1
    return size_exp
