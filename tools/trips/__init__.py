"""Whole engines that are tripped: every trigger, every condition, from every mode, judged from the venue's own log."""

# Of tools/trips/triggers.py, for the command line, which does not load all that they need.
TRIGGER_NAMES = (
    "button", "remote button lost", "kill", "SIGUSR1", "mode emergency", "panic", "risk", "execution", "three deaths",
    "dead engine",
)
