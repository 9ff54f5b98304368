"""Settings of the embedded exchange: what it lists, how its market behaves, what an account starts with."""

from __future__ import annotations

from dataclasses import dataclass

from engine.instruments import Instrument
from engine.settings import section, setting
from engine.units import MONEY_EXP, parse_units

USDM, SPOT = "binance_usdm", "binance_spot"
EMBEDDED_MARKETS = (USDM, SPOT)  # whose protocols the embedded exchange speaks


@dataclass(frozen=True)
class SymbolSettings:
    """One listed contract and the flow of orders that others send to it. Defaults are those of BTCUSDT."""

    symbol: str = setting("BTCUSDT", "The venue's name of the contract, upper case.")
    base: str = setting("BTC", "Base asset.")
    quote: str = setting("USDT", "Quote and margin asset.")
    price_exp: int = setting(2, "Decimals of a price on the wire (pricePrecision).", minimum=0, maximum=8)
    size_exp: int = setting(3, "Decimals of a size on the wire (quantityPrecision).", minimum=0, maximum=8)
    tick_size: str = setting("0.10", "Smallest price step.")
    lot_size: str = setting("0.001", "Smallest size step and smallest order.")
    max_size: str = setting("1000", "Largest order.")
    min_notional: str = setting("100", "Smallest value of an order that is not reduce-only, in the quote asset.")
    status: str = setting("TRADING", "Whether it takes orders, in the venue's word.",
                          choices=("TRADING", "PENDING_TRADING", "SETTLING", "CLOSE"))
    latent_price: float = setting(60_000.0, "Where the hidden price starts.", minimum=0.0)
    volatility: float = setting(3.0e-5, "Fair value: relative standard deviation of one second, over all regimes.",
                                minimum=0.0, maximum=0.01)
    limit_rate: float = setting(110.0, "Mean limit orders a second.", minimum=0.0, maximum=100_000.0)
    market_rate: float = setting(8.0, "Mean market orders a second.", minimum=0.0, maximum=10_000.0)
    order_lifetime_s: float = setting(1.2, "Mean life of a resting order of the flow.", minimum=0.01)
    near_ticks: float = setting(5.0, "Mean distance of most limit orders from the opposite touch.", minimum=1.0)
    far_ticks: float = setting(80.0, "Mean distance of the others.", minimum=1.0)
    far_share: float = setting(0.25, "Share of limit orders placed far out.", minimum=0.0, maximum=1.0)
    limit_size: str = setting("0.010", "Smallest limit order of the flow; sizes are Pareto with exponent 2.")
    market_size: str = setting("0.002", "Smallest market order of the flow; sizes are Pareto with exponent 1.")
    mark_smoothing_s: float = setting(30.0, "Time over which the mark price smooths the mid's distance from the index.",
                                      minimum=0.0)

    def instrument(self, index: int) -> Instrument:
        """The contract as an Instrument. Raises ValueError where a number has more digits than its unit."""
        return Instrument(
            index=index,
            symbol=self.symbol,
            base=self.base,
            quote=self.quote,
            price_exp=self.price_exp,
            size_exp=self.size_exp,
            tick_size=parse_units(self.tick_size, self.price_exp),
            lot_size=parse_units(self.lot_size, self.size_exp),
            min_notional=parse_units(self.min_notional, MONEY_EXP),
        )


@dataclass(frozen=True)
class EtherSettings(SymbolSettings):
    """The same for ETHUSDT."""

    symbol: str = setting("ETHUSDT", "The venue's name of the contract, upper case.")
    base: str = setting("ETH", "Base asset.")
    tick_size: str = setting("0.01", "Smallest price step.")
    max_size: str = setting("10000", "Largest order.")
    min_notional: str = setting("20", "Smallest value of an order that is not reduce-only, in the quote asset.")
    latent_price: float = setting(3_000.0, "Where the hidden price starts.", minimum=0.0)
    volatility: float = setting(3.5e-5, "Fair value: relative standard deviation of one second, over all regimes.",
                                minimum=0.0, maximum=0.01)
    limit_rate: float = setting(90.0, "Mean limit orders a second.", minimum=0.0, maximum=100_000.0)
    market_rate: float = setting(7.0, "Mean market orders a second.", minimum=0.0, maximum=10_000.0)
    limit_size: str = setting("0.200", "Smallest limit order of the flow; sizes are Pareto with exponent 2.")
    market_size: str = setting("0.040", "Smallest market order of the flow; sizes are Pareto with exponent 1.")


@dataclass(frozen=True)
class FlowSettings:
    """How the orders of others come, in every contract: they excite one another, in a market with regimes."""

    branching_ratio: float = setting(0.65, "Share of arrivals that earlier ones caused (a Hawkes process).",
                                     minimum=0.0, maximum=0.95)
    fast_share: float = setting(0.6, "Share of them that come soon.", minimum=0.0, maximum=1.0)
    fast_s: float = setting(0.05, "Mean time after which those come.", minimum=0.001, maximum=60.0)
    slow_s: float = setting(2.0, "Mean time after which the others come.", minimum=0.001, maximum=600.0)
    ranging_s: float = setting(40.0, "Mean duration of a ranging regime.", minimum=1.0, maximum=86_400.0)
    trending_s: float = setting(15.0, "Mean duration of a trending regime.", minimum=1.0, maximum=86_400.0)
    volatile_s: float = setting(10.0, "Mean duration of a volatile regime.", minimum=1.0, maximum=86_400.0)
    trend: float = setting(0.2, "Drift of a trend in a second, in standard deviations of a second.", minimum=0.0,
                           maximum=5.0)
    volatile_factor: float = setting(3.0, "Volatility of the volatile regime beside that of the others.", minimum=1.0,
                                     maximum=10.0)
    volatile_activity: float = setting(1.8, "Arrivals of the volatile regime beside those of the others.", minimum=1.0,
                                       maximum=10.0)
    clustering: float = setting(0.5, "Standard deviation of the logarithm of the volatility within a regime.",
                                minimum=0.0, maximum=1.5)
    clustering_s: float = setting(20.0, "Time after which such a change is forgotten.", minimum=0.1, maximum=86_400.0)
    informed_share: float = setting(0.3, "Share of unprovoked market orders sent by those who know the fair value.",
                                    minimum=0.0, maximum=1.0)
    information_lag_s: float = setting(0.5, "Time by which all others lag behind the fair value.", minimum=0.001,
                                       maximum=600.0)
    patient_share: float = setting(0.25, "Share of limit orders whose owners are patient.", minimum=0.0, maximum=1.0)
    patience: float = setting(20.0, "How much longer those stand.", minimum=1.0, maximum=1_000.0)
    improving_share: float = setting(0.8, "Share of limit orders at the best price that the spread has room for.",
                                     minimum=0.0, maximum=1.0)


@dataclass(frozen=True)
class SpotSettings:
    """What the embedded exchange has as a spot market alone."""

    holdings: tuple[str, ...] = setting(
        ("USDT=100000", "BTC=1", "ETH=20"), "What the account holds at the start, as ASSET=AMOUNT."
    )
    weight_limit_1m: int = setting(6_000, "Request weight a minute before HTTP 429.", minimum=1)
    order_limit_10s: int = setting(100, "Orders without a fill in 10 s before error -1015.", minimum=1)
    order_limit_1d: int = setting(200_000, "Orders without a fill in a day before error -1015.", minimum=1)


@dataclass(frozen=True)
class VenueSettings:
    """The embedded exchange. What names margin, leverage, funding or liquidation is of futures alone."""

    market: str = setting(
        USDM, "Whose protocol and account rules it has. Where it is not set it follows venue.market.",
        choices=EMBEDDED_MARKETS,
    )
    host: str = setting("127.0.0.1", "Loopback address to listen on; others are refused.")
    port: int = setting(0, "TCP port; 0 takes any free one.", minimum=0, maximum=65_535)
    seed: int = setting(1, "Seed of the order flow.", minimum=0)
    symbols: tuple[str, ...] = setting(("BTCUSDT", "ETHUSDT"), "Contracts to list.")
    btcusdt: SymbolSettings = section(SymbolSettings, "The BTCUSDT market.")
    ethusdt: EtherSettings = section(EtherSettings, "The ETHUSDT market.")
    flow: FlowSettings = section(FlowSettings, "How the orders of others come.")
    spot: SpotSettings = section(SpotSettings, "What it has as a spot market alone.")
    starting_balance: str = setting("100000", "Wallet of the account at the start, in USDT; spot: see holdings.")
    maker_fee: str = setting("0.0002", "Fee of a resting order that trades, as a share of the notional.")
    taker_fee: str = setting("0.0005", "Fee of an order that takes, as a share of the notional.")
    leverage: int = setting(20, "Leverage of every contract at the start.", minimum=1, maximum=125)
    funding_rate: str = setting("0", "Funding rate: what longs pay shorts at each settlement, as a share of the value.")
    funding_interval_s: int = setting(28_800, "Seconds between funding settlements, on a grid from the epoch.",
                                      minimum=1)
    insurance_fund: str = setting("1000000", "What the insurance fund holds at the start.")
    liquidation_fee: str = setting("0.0125", "Clearance fee of a liquidation, as a share of the notional.")
    matching_delay_ms: int = setting(0, "Orders, amendments and cancels reach the book this much later.", minimum=0,
                                     maximum=1_000)
    loop_interval_ms: int = setting(10, "The flow moves and depth@0ms is published this often.", minimum=1,
                                    maximum=1_000)
    max_open_orders: int = setting(200, "Open orders of an account in one contract.", minimum=1, maximum=1_000)
    weight_limit_1m: int = setting(2_400, "Request weight a minute before HTTP 429.", minimum=1)
    ban_after: int = setting(20, "Requests over the weight limit in a minute before HTTP 418.", minimum=1)
    ban_s: int = setting(120, "Seconds that HTTP 418 lasts.", minimum=1)
    order_limit_10s: int = setting(300, "Orders in 10 s before error -1015.", minimum=1)
    order_limit_1m: int = setting(1_200, "Orders a minute before error -1015.", minimum=1)
    send_queue: int = setting(4_096, "Frames that may wait for a slow WebSocket client before it is cut off.",
                              minimum=16)

    def listed(self) -> tuple[SymbolSettings, ...]:
        """The listed contracts in order. Raises ValueError for a name that has no market section."""
        known: dict[str, SymbolSettings] = {item.symbol: item for item in (self.btcusdt, self.ethusdt)}
        missing = [name for name in self.symbols if name not in known]
        if missing or not self.symbols:
            raise ValueError(f"venue.symbols = {list(self.symbols)}: allowed are {sorted(known)}")
        return tuple(known[name] for name in self.symbols)

    def limits(self) -> tuple[int, dict[str, int]]:
        """(request weight a minute, orders by window as the headers name them)."""
        if self.market == SPOT:
            return self.spot.weight_limit_1m, {"10S": self.spot.order_limit_10s, "1D": self.spot.order_limit_1d}
        return self.weight_limit_1m, {"1M": self.order_limit_1m, "10S": self.order_limit_10s}

    def holdings(self) -> dict[str, int]:
        """What a spot account holds at the start: every asset that is traded -> 1e-8. Raises ValueError."""
        held = dict.fromkeys((asset for item in self.listed() for asset in (item.base, item.quote)), 0)
        given: set[str] = set()
        for text in self.spot.holdings:
            asset, _, amount = text.partition("=")
            if asset not in held or asset in given:
                raise ValueError(f"spot.holdings: {text!r}: allowed is one ASSET=AMOUNT each of {', '.join(held)}")
            given.add(asset)
            try:
                held[asset] = parse_units(amount, MONEY_EXP)
            except ValueError as error:
                raise ValueError(f"spot.holdings: {text!r}: {error}") from None
            if held[asset] < 0:
                raise ValueError(f"spot.holdings: {text!r}: allowed are amounts from 0")
        return held

    def fee_rates(self) -> tuple[int, int]:
        """(maker, taker) in 1e-8. Raises ValueError; a spot fee is a part of what was received, so below 1."""
        rates = parse_units(self.maker_fee, MONEY_EXP), parse_units(self.taker_fee, MONEY_EXP)
        if self.market == SPOT and not all(0 <= rate < 10**MONEY_EXP for rate in rates):
            raise ValueError(f"maker_fee = {self.maker_fee!r}, taker_fee = {self.taker_fee!r}: allowed is 0 to below 1")
        return rates

    def check(self) -> None:
        """Raises ValueError where the settings make no market."""
        for index, item in enumerate(self.listed()):
            item.instrument(index)
        self.fee_rates()
        if self.market == SPOT:
            self.holdings()
