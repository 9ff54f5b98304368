"""The fused path: every stage in this process, one kernel after the other, no ring between them.

Records wait in the decoder's outbox; `decide` takes them from there to order records. Nothing is allocated after the
start. An input of more than BATCH records goes through in parts, which changes nothing: no stage knows where a batch
ends. Replay runs on it, and `bot4 bench decision` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import types

from engine.config import Settings
from engine.direct import direct
from engine.execution.kernel import EXECUTION, execution_step
from engine.features.step import FEATURES, features_step
from engine.instruments import Instrument
from engine.kernel import kernel
from engine.records import FEATURE, MARKET, ORDER, SOURCE_MAIN
from engine.stage import BYTES, as_bytes
from engine.strategies.plugin import Bound
from engine.validation.step import VALIDATION, validate_step
from models.inference import InferenceStage, Model, Scores
from procs.decoding import Decoder
from procs.inference import model_path
from procs.states import initial_states
from procs.table import Role

BATCH = 2048  # more records than the largest diff has levels
_MOST_VALID = BATCH * VALIDATION.max_out
_MOST_FEATURES = _MOST_VALID * FEATURES.max_out
_MOST_ORDERS = _MOST_FEATURES * EXECUTION.max_out

# Where the parts of the room begin: MARKET records, FEATURE records, routes of either.
_MARKET_SIZE = MARKET.itemsize
_FEATURES_AT = _MOST_VALID * _MARKET_SIZE
_ROUTES_AT = _FEATURES_AT + _MOST_FEATURES * FEATURE.itemsize
_ROOM_BYTES = _ROUTES_AT + _MOST_FEATURES


@kernel(types.int64(BYTES, BYTES, BYTES, types.int64, types.int64, BYTES))
def _market_to_features(
    validation: np.ndarray, features: np.ndarray, inbox: np.ndarray, first: int, count: int, room: np.ndarray
) -> int:
    """Validation and features over MARKET records first .. first + count; the FEATURE records then in the room."""
    routes = room[_ROUTES_AT:]
    valid = room[:_FEATURES_AT]
    records = inbox[first * _MARKET_SIZE : (first + count) * _MARKET_SIZE]
    found = validate_step(validation, SOURCE_MAIN, records, count, valid, routes)
    return features_step(features, SOURCE_MAIN, valid, found, room[_FEATURES_AT:_ROUTES_AT], routes)


_to_features, _execute = direct(_market_to_features), direct(execution_step)  # they are called for every frame


class FusedPath:
    """The stages of one session and the way through them.

    states   by role, as `initial_states` makes them, without the gateway's
    decoder  from inputs to records; what it wrote last is what `predict` and `decide` take
    """

    def __init__(
        self, settings: Settings, instruments: Sequence[Instrument], open_loop: bool, strategies: Sequence[Bound] = (),
        model: Scores | None = None,
    ) -> None:
        """open_loop: orders count as accepted at once and never fill. strategies: none for those that the settings
        name. model: for None the one that they name. Raises ModelError or StrategyError."""
        self.states = initial_states(settings, instruments, open_loop, strategies)
        del self.states[Role.GATEWAY]
        self.decoder = Decoder(self.states[Role.INGESTION], instruments)
        model = model or Model(model_path(settings.model.path), settings.features)
        self._inference = InferenceStage(model, self.states[Role.ML], _MOST_FEATURES)
        self._validation = as_bytes(self.states[Role.VALIDATION])
        self._features = as_bytes(self.states[Role.FEATURES])
        self._execution = as_bytes(self.states[Role.EXECUTION])
        self._market = self.decoder.outbox
        self._room = np.zeros(_ROOM_BYTES, np.uint8)
        self._vectors = self._room[_FEATURES_AT:_ROUTES_AT]
        self.predictions = self._inference.records
        self._predictions = self._inference.outbox
        self.orders = np.zeros(_MOST_ORDERS, ORDER)
        self._orders = as_bytes(self.orders)
        self._routes = np.zeros(_MOST_ORDERS, np.uint8)

    def predict(self, first: int, count: int) -> int:
        """Take `count` (at most BATCH) of the decoder's records; how many PREDICTION records lie in `predictions`."""
        found: int = _to_features(self._validation, self._features, self._market, first, count, self._room)
        if found:
            self._inference.step(self._vectors, found)
        return found

    def decide(self, decoded: int) -> int:
        """Take what the decoder wrote, `decoded` records, all the way; how many ORDER records came out.

        Those of the last part lie in `orders`.
        """
        written = 0
        for first in range(0, decoded, BATCH):
            found = self.predict(first, min(BATCH, decoded - first))
            if found:
                written += _execute(
                    self._execution, SOURCE_MAIN, self._predictions, found, self._orders, self._routes
                )
        return written
