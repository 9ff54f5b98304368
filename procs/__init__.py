"""The processes of Bot4 and everything that touches the outside world."""

from importlib.metadata import version

VERSION = version("bot4")
