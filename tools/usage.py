"""The error for a command line that makes no sense together."""


class UsageError(Exception):
    """Exit code 2; the message names the option and what is allowed."""
