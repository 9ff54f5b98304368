"""Ingestion: frame bytes of a venue to MARKET records, with the venue's sequence rule and the CLOCK rule.

- json_scan: a pull parser over bytes: skip a value, read a number exactly
- members: walking through objects and lists, finding the instrument that a string names
- printed: numbers with their printed decimals, rounded numbers, ISO times
- event_scan: one pass over the members of a Binance event
- binance: the frames of Binance spot, USD-M and COIN-M futures
- sequence: which diff applies, which waits, what is lost
- rows: writing records
- entry: what the entry points of every ingestion share
- state: the one state record and its Python constructor
- kernel: the entry points (start, frame, snapshot, timer, lost)
- kraken_spot_v1, kraken_spot_v2, kraken_futures: the frames of Kraken; kraken_levels: what they share
- kraken_state, kraken_kernel: state and entry points (start, frame, timer, lost), with the sequence rule of futures
"""
