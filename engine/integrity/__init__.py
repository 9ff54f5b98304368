"""Integrity of books: checksums of venues, and books that know whether they are right.

- crc32: CRC-32 over bytes and over the digits of integers
- wire_checksum: how a checksum travels in a MARKET record
- kraken_checksum: Kraken's rule over the best ten levels
- checked_book: books with their verdicts
"""
