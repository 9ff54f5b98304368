"""Ingestion: frame bytes of a venue to MARKET records, with the venue's sequence rule and the CLOCK rule.

- json_scan: a pull parser over bytes: skip a value, read a number exactly
- event_scan: one pass over the members of a Binance event
- binance: the frames of Binance spot, USD-M and COIN-M futures
- sequence: which diff applies, which waits, what is lost
- rows: writing records
- state: the one state record and its Python constructor
- kernel: the entry points (start, frame, snapshot, timer, lost)
"""
