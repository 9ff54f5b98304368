"""The state of every stage: what a session begins with, and the dtype under which others may read it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.config import Settings
from engine.execution.state import EXECUTION_STATE, make_execution_state
from engine.features.state import features_dtype, make_features_state
from engine.ingest import dialects
from engine.ingest.settings import liquidation_min
from engine.instruments import Instrument
from engine.stage import STATE_HEAD
from engine.strategies.plugin import Bound
from engine.validation.state import make_validation_state, validation_dtype
from models.inference import INFERENCE_STATE
from procs.strategies import load_strategies
from procs.table import Role

# Counters of a gateway, in shared memory for whoever watches: a state without a kernel.
GATEWAY_STATE = np.dtype(
    [
        *STATE_HEAD,
        ("sent", "<i8"),  # new orders that reached the socket
        ("private_frames", "<i8"),
        ("stream_losses", "<i8"),
        ("foreign_events", "<i8"),  # private events about orders that are not of this session
        ("calls", "<i8"),  # made to the venue by the sender
        ("call_errors", "<i8"),  # of them: no answer, a server error, refused for the rate
        ("breaches", "<i8"),  # requests that were not what execution had decided; none was sent
        ("dead_man_until_ns", "<i8"),  # session time until which the venue's dead-man switch is surely armed; 0: not
        ("dead_man_missed", "<i8"),  # refreshes in a row that were not acknowledged
        ("spare", "<i8", (2,)),
        # The orders that passed the last gate, by their count in `sent` modulo their number; at_ns: session time, taken
        # before the gate read the emergency word.
        ("gate", [("order_id", "<i8"), ("at_ns", "<i8")], (4096,)),
    ],
    align=True,
)


def initial_states(
    settings: Settings, instruments: Sequence[Instrument], open_loop: bool = False, strategies: Sequence[Bound] = ()
) -> dict[Role, np.ndarray]:
    """The states that the stages of a session begin with: a pure function of settings, instruments and strategies.

    strategies: those of the session where they were loaded already; else they are loaded as the settings name them.
    Raises StrategyError.
    """
    execution = make_execution_state(
        settings.execution, settings.gate, settings.maker, instruments, open_loop, settings.safety.reduce_over_s,
        strategies or load_strategies(settings),
    )
    return {
        Role.INGESTION: dialects.make_state(instruments, liquidation_min(settings.feed)),
        Role.VALIDATION: make_validation_state(settings.validation, instruments),
        Role.FEATURES: make_features_state(settings.features, instruments),
        Role.ML: np.zeros(1, INFERENCE_STATE),
        Role.EXECUTION: execution,
        Role.GATEWAY: np.zeros(1, GATEWAY_STATE),
    }


def state_dtype(role: Role, instruments: Sequence[Instrument]) -> np.dtype:
    """The dtype of a role's state in a session with these instruments."""
    if role in (Role.VALIDATION, Role.FEATURES):
        dtype = validation_dtype if role == Role.VALIDATION else features_dtype
        return dtype(max(item.index for item in instruments) + 1)
    return {
        Role.INGESTION: dialects.state_dtype(instruments),
        Role.ML: INFERENCE_STATE,
        Role.EXECUTION: EXECUTION_STATE,
        Role.GATEWAY: GATEWAY_STATE,
    }[role]
