"""Benchmarks: what `bot4 bench NAME` runs.

report.py holds what every suite gives back; machine.py what all of them need of the machine; one module a suite, whose
`run(full)` returns a Report. Absolute times are printed with machine and load and gate nothing: only ratios of pairs
that were measured in the same run do.
"""

SUITE_NAMES = (
    "rings", "decode", "ingest", "book", "journal", "features", "inference", "decision", "kill", "strategies",
    "console",
)
