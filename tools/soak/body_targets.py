"""What Python itself reads of what a venue sends: lists of instruments, answers to subscriptions, reports of orders.

Any bytes must be taken or refused with the error that the reader documents, nothing else, and what a list says of an
instrument must be something that the engine can hold: units of at most 18 decimals, numbers within int64.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import orjson

import engine.binance_listing
import procs.venues.binance
import procs.venues.binance_usdm.rate_limits
import procs.venues.binance_usdm.reports
import procs.venues.kraken_futures.instruments
import procs.venues.kraken_futures.subscriptions
import procs.venues.kraken_spot.instruments
import procs.venues.kraken_spot.market
import procs.venues.kraken_spot.subscriptions
from engine.contracts import MAX_UNIT_EXP
from engine.instruments import Dialect, Instrument
from engine.units import INT64_MAX
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.rate_limits import limits_of
from procs.venues.binance_usdm.reports import ClientIds, from_order_update
from procs.venues.frame_symbols import symbol_of
from procs.venues.kraken_spot.instruments import instruments_from_asset_pairs, instruments_from_channel
from procs.venues.kraken_spot.subscriptions import answer_v1
from procs.venues.market import market_of
from procs.venues.terms import Terms, terms_of
from tools.soak.decoder_targets import Target, Unsound
from tools.soak.seeds import INSTRUMENTS

_MODULES: tuple[ModuleType, ...] = (
    engine.binance_listing, procs.venues.binance, procs.venues.binance_usdm.rate_limits,
    procs.venues.binance_usdm.reports, procs.venues.kraken_futures.instruments,
    procs.venues.kraken_futures.subscriptions, procs.venues.kraken_spot.instruments, procs.venues.kraken_spot.market,
    procs.venues.kraken_spot.subscriptions,
)  # fmt: skip
_EXCHANGE_INFO = (
    '{"rateLimits":[{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":2400},'
    '{"rateLimitType":"ORDERS","interval":"SECOND","intervalNum":10,"limit":300}],"symbols":[{"symbol":"%s",'
    '"status":"TRADING","contractStatus":"TRADING","baseAsset":"NKN","quoteAsset":"USDT","pricePrecision":2,'
    '"quantityPrecision":3,"contractSize":100,"filters":[{"filterType":"PRICE_FILTER","minPrice":"0.10",'
    '"maxPrice":"1000.00","tickSize":"0.10"},{"filterType":"LOT_SIZE","minQty":"0.001","maxQty":"9000.000",'
    '"stepSize":"0.001"},{"filterType":"MARKET_LOT_SIZE","maxQty":"120.000"},{"filterType":"MIN_NOTIONAL",'
    '"notional":"5","minNotional":"5"}]}]}'
)
_PAIRS = (
    '{"error":[],"result":{"XXBTZCHF":{"wsname":"XBT/CHF","pair_decimals":1,"lot_decimals":8,"lot_multiplier":1,'
    '"costmin":"0.5","tick_size":"0.1","status":"online"},"X.d":{"wsname":"XBT/CHF"}}}'
)
_CHANNEL = (
    '{"channel":"instrument","type":"snapshot","data":{"assets":[],"pairs":[{"symbol":"BTC/CHF","base":"BTC",'
    '"quote":"CHF","status":"online","price_precision":1,"price_increment":0.1,"qty_precision":8,'
    '"qty_increment":1e-08,"cost_min":0.5}]}}'
)
_CONTRACTS = (
    '{"result":"success","instruments":[{"symbol":"pi_ethusd","type":"futures_inverse","tickSize":0.05,'
    '"contractSize":1,"contractValueTradePrecision":0,"tradeable":true,"postOnly":false},{"symbol":"in_ethusd"}]}'
)
_FLEXIBLE = _CONTRACTS.replace('inverse"', 'vanilla","base":"ETH","quote":"USD"').replace('sion":0', 'sion":-3')
_ORDER = (
    '{"e":"ORDER_TRADE_UPDATE","o":{"s":"BTCUSDT","c":"b4fuzz-7","S":"BUY","f":"GTC","x":"TRADE","X":"FILLED","i":9,'
    '"l":"0.5","z":"0.5","L":"100.5","n":"0.001","N":"USD","T":1700000000000,"t":4,"m":true}}'
)
_ANSWERS = (
    '{"event":"subscriptionStatus","pair":"XBT/CHF","status":"error","errorMessage":"no","subscription":{"depth":25,'
    '"name":"book"}}',
    '{"method":"subscribe","result":{"channel":"book","symbol":"BTC/CHF"},"success":true,"req_id":1}',
    '{"error":"no","method":"subscribe","success":false,"symbol":"BTC/CHF","req_id":1}',
    '{"event":"subscribed","feed":"book","product_ids":["PI_ETHUSD"]}', '{"event":"alert","message":"no"}',
)  # fmt: skip


def _sound(listed: Instrument, ours: Instrument) -> None:
    """What the engine does with an instrument that a list describes."""
    if not (0 <= listed.price_exp <= MAX_UNIT_EXP and 0 <= listed.size_exp <= MAX_UNIT_EXP):
        raise Unsound(f"units of 10^-{listed.price_exp} and 10^-{listed.size_exp}")
    numbers = (listed.tick_size, listed.lot_size, listed.min_notional, listed.contract_value)
    if min(numbers) < 0 or max(numbers) > INT64_MAX:
        raise Unsound(f"an instrument with {numbers}")
    terms_of(ours, Terms(1, 1, 0, 0), listed).to_bytes()


def _list_again(body: bytes, dialect: Dialect) -> None:
    """As ingestion reads a list anew while it runs."""
    session: Any = SimpleNamespace(get=lambda *_, **__: SimpleNamespace(status_code=200, content=body))
    ours = INSTRUMENTS[dialect][0]
    for listed in market_of(dialect).list_again(session, "", [ours.symbol]).values():
        _sound(listed, ours)


def _channel(body: bytes) -> None:
    for listed in instruments_from_channel(body, ("BTC/CHF",)):
        _sound(listed, INSTRUMENTS[Dialect.KRAKEN_SPOT_V2][0])


def _pairs_v1(body: bytes) -> None:
    for listed in instruments_from_asset_pairs(body, ("XBT/CHF",)):
        _sound(listed, INSTRUMENTS[Dialect.KRAKEN_SPOT_V1][0])


def _limits(body: bytes) -> None:
    answer = orjson.loads(body)
    if isinstance(answer, dict):
        limits_of(answer)


def _answers(frame: bytes) -> None:
    answer_v1(frame)
    for dialect in (Dialect.KRAKEN_SPOT_V2, Dialect.KRAKEN_FUTURES):
        market_of(dialect).answer(frame)
    for dialect in Dialect:
        symbol_of(frame, dialect)


def _order(frame: bytes) -> None:
    """As the gateway reads its private stream."""
    event = orjson.loads(frame)
    from_order_update(event, {"BTCUSDT": INSTRUMENTS[Dialect.BINANCE_USDM][0]}, ClientIds("fuzz"))


class _Body(NamedTuple):
    read: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]  # what it may raise
    seeds: tuple[str, ...]


def _exchange_info(dialect: Dialect) -> _Body:
    seed = _EXCHANGE_INFO % INSTRUMENTS[dialect][0].symbol
    return _Body(lambda body: _list_again(body, dialect), (VenueUnreachable,), (seed,))


# What the gateway takes for a frame that it does not understand.
_NOT_UNDERSTOOD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
BODIES = {
    "LISTING_BINANCE_SPOT": _exchange_info(Dialect.BINANCE_SPOT),
    "LISTING_BINANCE_USDM": _exchange_info(Dialect.BINANCE_USDM),
    "LISTING_BINANCE_COINM": _exchange_info(Dialect.BINANCE_COINM),
    "LISTING_KRAKEN_SPOT": _Body(
        lambda body: _list_again(body, Dialect.KRAKEN_SPOT_V2), (VenueUnreachable,), (_PAIRS,)
    ),
    "LISTING_KRAKEN_SPOT_V1": _Body(_pairs_v1, (ValueError,), (_PAIRS,)),
    "LISTING_KRAKEN_CHANNEL": _Body(_channel, (ValueError,), (_CHANNEL,)),
    "LISTING_KRAKEN_FUTURES": _Body(
        lambda body: _list_again(body, Dialect.KRAKEN_FUTURES), (VenueUnreachable,), (_CONTRACTS, _FLEXIBLE)
    ),
    "RATE_LIMITS": _Body(_limits, (ValueError,), (_EXCHANGE_INFO % "X",)),
    "ANSWERS": _Body(_answers, (), _ANSWERS),
    "ORDER_UPDATE": _Body(_order, _NOT_UNDERSTOOD, (_ORDER, _ORDER.replace('"TRADE"', '"NEW"'))),
}


class BodyTarget(Target):
    """One of BODIES."""

    def __init__(self, name: str) -> None:
        self._body = BODIES[name]
        texts = [text.encode() for text in self._body.seeds]
        words = {word for text in self._body.seeds for word in text.split('"')[1::2]}
        super().__init__(name, tuple(texts), tuple(sorted(words)))

    def functions(self) -> list[Callable[..., Any]]:
        """See Target."""
        return [
            function for module in _MODULES for function in vars(module).values()
            if isinstance(function, FunctionType) and inspect.getmodule(function) is module
        ]  # fmt: skip

    def run(self, data: bytes) -> None:
        """See Target."""
        try:
            self._body.read(data)
        except self._body.refusals as error:
            self.answers[type(error).__name__] += 1
        except Unsound:
            raise
        except Exception as error:
            raise Unsound(f"{type(error).__name__}: {error}") from error
        else:
            self.answers["taken"] += 1
