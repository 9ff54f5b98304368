"""Everything that coverage-guided fuzzing takes in turn, by name."""

from __future__ import annotations

from engine.instruments import Dialect
from tools.soak.body_targets import BODIES, BodyTarget
from tools.soak.decoder_targets import NumberTarget, SessionTarget, Target
from tools.soak.interpreted import Interpreter
from tools.soak.seeds import SESSIONS

TARGET_NAMES = (*(dialect.name for dialect in SESSIONS), "NUMBERS", *BODIES)


def make_target(name: str, interpreter: Interpreter | None = None) -> Target:
    """The target of that name; interpreter: another than a fresh one. Raises KeyError for a name that is none."""
    if name in BODIES:
        return BodyTarget(name)
    interpreter = interpreter or Interpreter()
    return NumberTarget(interpreter) if name == "NUMBERS" else SessionTarget(Dialect[name], interpreter)
