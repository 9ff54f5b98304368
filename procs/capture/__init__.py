"""Captures of our own: market data as it came off the wire, in compressed blocks that a crash cannot spoil."""
