"""Settings of what a trip does: by its source it flattens, or cancels and holds; and the bounds of flattening."""

from __future__ import annotations

from dataclasses import dataclass

from engine.settings import section, setting

FLATTEN, CANCEL = "flatten", "cancel"


def _on(default: str, who: str) -> str:
    """What a trip by one source does."""
    field: str = setting(
        default, f"Set by {who}: cancel everything, then flatten, or cancel and hold.", choices=(FLATTEN, CANCEL)
    )
    return field


@dataclass(frozen=True)
class OnTripSettings:
    """[safety.on_trip]: one key for each source of a trip.

    Flatten where somebody has decided to get out: a person (hardware, operator), or a limit of loss (risk). Hold where
    something of ours does not work or a message is missing: positions are then no worse than before, and prices may
    be. With several sources flatten wins if any of them says so: a decision is not undone by a heartbeat that is lost
    too.
    """

    hardware: str = _on(FLATTEN, "the red button")
    operator: str = _on(FLATTEN, "an operator (`bot4 kill`, SIGUSR1)")
    panic: str = _on(CANCEL, "a panic monitor; prices are bad just then, so a person decides")
    supervisor: str = _on(CANCEL, "the supervisor: processes died too often")
    risk: str = _on(FLATTEN, "a limit of loss or exposure")
    execution: str = _on(CANCEL, "execution: something about our orders cannot be")
    dead_man: str = _on(CANCEL, "a heartbeat that is lost, such as that of the remote button")
    storage: str = _on(CANCEL, "storage: no room to keep what must be kept")
    gateway: str = _on(CANCEL, "a gateway: something about our money cannot be understood")
    integrity: str = _on(CANCEL, "a check of our own data")
    killswitch: str = _on(CANCEL, "the kill switch: an error in it, or none was there for too long")
    unknown: str = _on(CANCEL, "a source without a name")

    def flattens(self, sources: tuple[str, ...]) -> bool:
        """Whether a trip by these sources (names of fields) flattens."""
        return any(getattr(self, source) == FLATTEN for source in sources)


@dataclass(frozen=True)
class TripSettings:
    """The keys of [safety] that say what a trip does."""

    flatten_collar_bps: float = setting(
        100.0, "Flattening trades no further than this from the mark price.", minimum=1.0, maximum=450.0
    )
    flatten_depth_share: float = setting(
        0.1, "One order of flattening takes at most this share of what the book shows within the collar.",
        minimum=0.001, maximum=1.0,
    )
    flatten_clip_value: float = setting(
        5000.0, "One order of flattening is worth at most this, in quote currency.", minimum=1.0, maximum=1e9
    )
    gate_shut_ms: float = setting(
        50.0, "After a trip a gateway that has not shut its gate for so long is killed.", minimum=1.0, maximum=10_000.0
    )
    on_trip: OnTripSettings = section(OnTripSettings, "What a trip does, by its source.")
