"""The whole configuration as one tree of settings: what may stand in bot4.toml.

Pure: a dict comes in, settings or a SettingsError come out. The file is read in procs/config_file.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.execution.settings import ExecutionSettings
from engine.features.settings import FeatureSettings
from engine.ingest.settings import FeedSettings, check_feed_symbols
from engine.instruments import MAX_INSTRUMENTS, Dialect
from engine.matching.settings import EMBEDDED_MARKETS, VenueSettings
from engine.risk.settings import GateSettings
from engine.safety.button_settings import GpioSettings, RemoteButtonSettings, check_gpio, check_remote_button
from engine.safety.panic_settings import PanicSettings
from engine.safety.settings import SHORTEST_LIVE_COOLDOWN_S, SafetySettings
from engine.settings import SettingsError, as_plain, build, section, setting, table
from engine.strategies.settings import MakerSettings, StrategySettings, check_strategies
from engine.validation.settings import ValidationSettings

# Markets by name, and what their frames look like.
MARKETS = {
    "binance_usdm": Dialect.BINANCE_USDM, "binance_spot": Dialect.BINANCE_SPOT, "binance_coinm": Dialect.BINANCE_COINM,
    "kraken_spot": Dialect.KRAKEN_SPOT_V2, "kraken_spot_v1": Dialect.KRAKEN_SPOT_V1,
    "kraken_futures": Dialect.KRAKEN_FUTURES,
}
TRADED_MARKETS = ("binance_usdm",)  # that orders can be sent to
# It becomes part of the names of shared memory and of session folders.
_INSTANCE_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


@dataclass(frozen=True)
class EngineSettings:
    """The instance as a whole."""

    name: str = setting("bot4", "Name of the instance; two of one name cannot run at once on a machine.")
    placement: str = setting("auto", "Which process sits on which core.", choices=("auto", "pinned"))
    memory_budget_mib: int = setting(192, "Shared memory for all rings and states.", minimum=8, maximum=1 << 20)
    data_folder: str = setting("var", "Where sessions (journals, summaries, logs) are kept.")
    deaths_to_stop: int = setting(
        3, "So many deaths of one process within ten minutes stop the engine; 1 stops it at the first.", minimum=1,
        maximum=1000,
    )
    stall_s: float = setting(
        1.0, "A process is killed and replaced that is stuck for so long; one that gets no core is given more time.",
        minimum=0.2, maximum=60.0,
    )
    status_every_s: float = setting(5.0, "Seconds between two status lines of `run`.", minimum=0.5, maximum=3600.0)


@dataclass(frozen=True)
class ConnectionSettings:
    """The venue that is traded."""

    market: str = setting(
        "binance_usdm", "Whose market it is; orders go to binance_usdm alone, all can be recorded. The embedded "
        "exchange speaks as binance_usdm or binance_spot.",
        choices=tuple(MARKETS),
    )
    embedded: bool = setting(True, "Start the embedded exchange and trade on it (paper).")
    symbols: tuple[str, ...] = setting(("BTCUSDT", "ETHUSDT"), "Instruments to trade, by the venue's names.")
    rest_url: str = setting("", "REST root of a venue that is not embedded, such as https://fapi.binance.com.")
    ws_url: str = setting("", "WebSocket root of a venue that is not embedded, such as wss://fstream.binance.com.")
    credentials_file: str = setting("", "TOML file with api_key and secret, mode 0600, for a venue not embedded.")
    kill_credentials_file: str = setting(
        "", "The same for the kill switch, which only asks and cancels with it; empty: the key of the engine."
    )
    flatten_credentials_file: str = setting(
        "", "The same for flattening alone, a key that may trade; empty: the key of the kill switch."
    )
    deadman_s: int = setting(
        0, "The venue cancels everything when it has not heard from us for so long; 0: by the number of symbols.",
        minimum=0, maximum=600,
    )
    accept_no_deadman: bool = setting(
        False, "Trade also where the venue does not take orders to cancel by itself (its dead-man switch)."
    )


@dataclass(frozen=True)
class ModelSettings:
    """The model that is served."""

    path: str = setting("", "ONNX file; empty for the one that is shipped. Its card lies beside it.")


@dataclass(frozen=True)
class Settings:
    """bot4.toml."""

    engine: EngineSettings = section(EngineSettings, "The instance as a whole.")
    venue: ConnectionSettings = section(ConnectionSettings, "The venue that is traded.")
    feed: FeedSettings = section(FeedSettings, "The market data that are subscribed.")
    embedded: VenueSettings = section(VenueSettings, "The embedded exchange.")
    validation: ValidationSettings = section(ValidationSettings, "Bounds of plausible market data.")
    features: FeatureSettings = section(FeatureSettings, "Time constants of the features.")
    model: ModelSettings = section(ModelSettings, "The model that is served.")
    execution: ExecutionSettings = section(ExecutionSettings, "Order handling.")
    gate: GateSettings = section(GateSettings, "Hard limits on every order.")
    maker: MakerSettings = section(MakerSettings, "The market-making strategy, which runs where none is configured.")
    strategies: dict[str, StrategySettings] = table("The strategies, in their order; none: the maker with [maker].")
    safety: SafetySettings = section(SafetySettings, "What a trip does, and what it takes to come back.")
    panic: PanicSettings = section(PanicSettings, "What the panic monitors watch, and what each of them does.")
    gpio: GpioSettings = section(GpioSettings, "The red button, lights and buzzer on this machine's pins.")
    remote_button: RemoteButtonSettings = section(RemoteButtonSettings, "A red button on another machine.")


def settings_from(values: Mapping[str, Any]) -> Settings:
    """The settings that a parsed bot4.toml asks for. Raises SettingsError naming key, value and what is allowed."""
    settings = build(Settings, values)
    if not _INSTANCE_NAME.fullmatch(settings.engine.name):
        raise SettingsError(
            f"engine.name = {settings.engine.name!r}: allowed are 1 to 32 letters, digits, '_' and '-'"
        )
    venue = settings.venue
    if not venue.symbols or len(venue.symbols) > MAX_INSTRUMENTS or len(set(venue.symbols)) != len(venue.symbols):
        raise SettingsError(
            f"venue.symbols = {list(venue.symbols)!r}: allowed are 1 to {MAX_INSTRUMENTS} different names"
        )
    check_strategies(settings.strategies, venue.symbols)
    if settings.strategies and settings.maker != MakerSettings():
        raise SettingsError(
            "maker: is of the strategy that runs where none is configured; where there is [strategies], parameters "
            "stand in [strategies.NAME.parameters]"
        )
    settings = _with_embedded_market(settings, values)
    if venue.embedded:
        try:
            settings.embedded.check()
        except ValueError as error:
            raise SettingsError(f"embedded: {error}") from None
        missing = [name for name in venue.symbols if name not in settings.embedded.symbols]
        if missing:
            raise SettingsError(
                f"venue.symbols = {list(venue.symbols)!r}: the embedded exchange lists "
                f"{list(settings.embedded.symbols)!r}"
            )
    else:
        for key in ("rest_url", "ws_url"):
            if not getattr(venue, key):
                raise SettingsError(f"venue.{key} = '': needed when venue.embedded is false")
        _check_live_safety(settings.safety)
    try:
        check_feed_symbols(settings.feed, venue.symbols)
        check_gpio(settings.gpio, venue.embedded)
        check_remote_button(settings.remote_button)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return settings


def _with_embedded_market(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The embedded exchange speaks as the market that is configured. Raises SettingsError where it cannot, or is told
    to speak as another one."""
    venue, speaks = settings.venue, settings.embedded.market
    if venue.embedded and venue.market not in EMBEDDED_MARKETS:
        raise SettingsError(
            f"venue.market = {venue.market!r}: allowed is {' or '.join(EMBEDDED_MARKETS)} when venue.embedded is true"
        )
    if "market" not in values.get("embedded", {}):
        speaks = venue.market if venue.market in EMBEDDED_MARKETS else speaks
        return dataclasses.replace(settings, embedded=dataclasses.replace(settings.embedded, market=speaks))
    if venue.embedded and speaks != venue.market:
        raise SettingsError(
            f"embedded.market = {speaks!r}: allowed is venue.market = {venue.market!r} when venue.embedded is true"
        )
    return settings


def check_trading(settings: Settings) -> None:
    """What trading needs and looking at a market does not. Raises SettingsError."""
    venue = settings.venue
    if venue.market not in TRADED_MARKETS:
        raise SettingsError(
            f"venue.market = {venue.market!r}: orders go to {' or '.join(TRADED_MARKETS)} alone; this one can be "
            "recorded and replayed"
        )
    if not venue.embedded and not venue.credentials_file:
        raise SettingsError("venue.credentials_file = '': needed when venue.embedded is false")


def _check_live_safety(safety: SafetySettings) -> None:
    """Refuse what is for paper only. Raises SettingsError."""
    if safety.cooldown_s < SHORTEST_LIVE_COOLDOWN_S:
        raise SettingsError(
            f"safety.cooldown_s = {safety.cooldown_s!r}: allowed is at least {SHORTEST_LIVE_COOLDOWN_S:.0f} when "
            "venue.embedded is false"
        )
    if safety.operator_secret != "required":
        raise SettingsError(
            f"safety.operator_secret = {safety.operator_secret!r}: allowed is 'required' when venue.embedded is false"
        )


def config_hash(settings: Settings) -> str:
    """Hex SHA-256 of the resolved settings; the order of the strategies counts."""
    plain = as_plain(settings) | {"order": list(settings.strategies)}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
