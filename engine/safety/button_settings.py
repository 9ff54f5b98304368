"""Settings of the red button: the one on this machine's pins, and the one that reports over the network.

Pure and light: `bot4 button` reads the same sections on a machine that has nothing but Python.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.settings import setting

LAST_PIN = 27  # the pins of the 40-pin header that can be lines
_NO_PIN = -1
_PINS = ("button_pin", "green_pin", "yellow_pin", "red_pin", "buzzer_pin", "loopback_pin")


def _pin(default: int, doc: str, lowest: int = 0) -> int:
    pin: int = setting(default, f"{doc} (BCM number).", minimum=lowest, maximum=LAST_PIN)
    return pin


@dataclass(frozen=True)
class GpioSettings:
    """The button, the lights and the buzzer on this machine's own pins."""

    enabled: bool = setting(False, "Serve the button and the panel on this machine's pins.")
    backend: str = setting(
        "gpiozero", "Who moves the pins: gpiozero, Linux's character device (libgpiod), or a mock (paper only).",
        choices=("gpiozero", "cdev", "mock"),
    )
    factory: str = setting(
        "auto", "gpiozero's pin factory; auto takes lgpio, else RPi.GPIO.", choices=("auto", "lgpio", "rpigpio")
    )
    chip: str = setting("/dev/gpiochip0", "Character device of the pins, for the cdev backend.")
    contact: str = setting(
        "normally_closed", "A pressed normally closed contact is open, and so is a cut wire.",
        choices=("normally_closed", "normally_open"),
    )
    button_pin: int = _pin(17, "Contact of the button, between the pin and ground")
    green_pin: int = _pin(22, "Green light: NORMAL")
    yellow_pin: int = _pin(23, "Yellow light: REDUCE, PAUSE, not ready, or a warning")
    red_pin: int = _pin(24, "Red light: EMERGENCY")
    buzzer_pin: int = _pin(25, "Buzzer (one that sounds by itself)")
    loopback_pin: int = _pin(_NO_PIN, "Relay that opens the loop for the self-test; -1: there is none", _NO_PIN)
    debounce_s: float = setting(
        0.05, "How long the contact must rest before it counts as released; a press needs no time.",
        minimum=0.001, maximum=1.0,
    )
    unreadable_s: float = setting(
        1.0, "A button that could not be looked at for so long trips.", minimum=0.1, maximum=60.0
    )
    self_test_hour: int = setting(6, "Hour (UTC) of the daily self-test; -1: never.", minimum=-1, maximum=23)
    pulse_s: float = setting(0.2, "How long the self-test holds lights and buzzer on.", minimum=0.02, maximum=5.0)
    relay_settle_s: float = setting(
        0.02, "Time that the self-test's relay is given to open, and to close.", minimum=0.001, maximum=1.0
    )
    trip_buzzer_s: float = setting(30.0, "How long the buzzer sounds after a trip.", minimum=0.0, maximum=3600.0)


@dataclass(frozen=True)
class RemoteButtonSettings:
    """A button on another machine that sends an authenticated heartbeat (`bot4 button`)."""

    enabled: bool = setting(False, "Listen for a remote button; its loss is a trip.")
    host: str = setting("127.0.0.1", "Address to listen on; loopback unless the button is elsewhere.")
    port: int = setting(9417, "UDP port.", minimum=1, maximum=65535)
    key_file: str = setting("", "The shared key, made by `bot4 button --make-key`; an absolute path, mode 0600.")
    heartbeat_s: float = setting(0.2, "Time between two heartbeats.", minimum=0.02, maximum=10.0)
    lost_s: float = setting(1.0, "Without a heartbeat for so long the button is lost: trip.", minimum=0.1, maximum=60.0)
    required: bool = setting(True, "The kill switch is ready, and the engine trades, only once the button was heard.")


def check_gpio(settings: GpioSettings, embedded: bool) -> None:
    """Raises ValueError for pins that are used twice, and for pins of no hardware on a venue that is not embedded."""
    taken: dict[int, str] = {}
    for key in _PINS:
        pin = getattr(settings, key)
        if pin in taken and pin != _NO_PIN:
            raise ValueError(f"gpio.{key} = {pin}: {taken[pin]} has that pin; all pins must differ")
        taken[pin] = key
    if settings.enabled and settings.backend == "mock" and not embedded:
        raise ValueError("gpio.backend = 'mock': allowed on the embedded exchange only")


def check_remote_button(settings: RemoteButtonSettings) -> None:
    """Raises ValueError when one lost datagram would trip, or when there is no key."""
    if settings.lost_s < 3 * settings.heartbeat_s:
        raise ValueError(
            f"remote_button.lost_s = {settings.lost_s}: at least three times heartbeat_s, {settings.heartbeat_s}, is "
            "allowed"
        )
    if settings.enabled and not settings.key_file.startswith("/"):
        raise ValueError(f"remote_button.key_file = {settings.key_file!r}: an absolute path is needed")
