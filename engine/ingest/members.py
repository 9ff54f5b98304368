"""Walking through the members of a JSON object or list, and finding the instrument that a string names.

Layout: positions as in json_scan.py. A caller asks for the key, reads or skips the value, then asks for what follows.
Cost: about 1 ns a byte; a symbol a few ns an instrument. Source: RFC 8259.
"""

from __future__ import annotations

import numpy as np

from engine.ingest.json_scan import (
    BAD_JSON,
    CLOSE_LIST,
    CLOSE_OBJECT,
    COLON,
    COMMA,
    QUOTE,
    Text,
    byte_at,
    skip_space,
    skip_value,
    string_end,
)
from engine.ingest.state import StateRow
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.reasons import Reason

UNKNOWN_SYMBOL = -int(Reason.UNKNOWN_SYMBOL)


def make_names(*names: str) -> np.ndarray:
    """A table of strings for `scan_object` and `name_index`: uint8[n, 1 + longest], each row its length and bytes."""
    data = [name.encode() for name in names]
    table = np.zeros((len(data), 1 + max(map(len, data))), np.uint8)
    for row, text in zip(table, data):
        row[0] = len(text)
        row[1 : 1 + len(text)] = np.frombuffer(text, np.uint8)
    return table


@kernel()
def find_symbol(state: StateRow, text: Text, position: int) -> int:
    """The index of the instrument whose symbol is the string at `position`, or UNKNOWN_SYMBOL, or BAD_JSON."""
    size = text.size
    if position >= size or byte_at(text, position) != QUOTE:
        return BAD_JSON
    for index in range(MAX_INSTRUMENTS):
        length = state.symbol_length[index]
        if length == 0 or position + length + 1 >= size or byte_at(text, position + length + 1) != QUOTE:
            continue
        place = 0
        while place < length and byte_at(text, position + 1 + place) == state.symbol[index, place]:
            place += 1
        if place == length:
            return index
    return UNKNOWN_SYMBOL


@kernel(inline=True)
def next_key(text: Text, position: int) -> tuple[int, int]:
    """(position of the closing quote of the key at `position`, position of its value), or (BAD_JSON, BAD_JSON)."""
    size = text.size
    if position >= size or byte_at(text, position) != QUOTE:
        return BAD_JSON, BAD_JSON
    key_end = string_end(text, position)
    if key_end < 0:
        return BAD_JSON, BAD_JSON
    value = skip_space(text, key_end + 1)
    if value >= size or byte_at(text, value) != COLON:
        return BAD_JSON, BAD_JSON
    value = skip_space(text, value + 1)
    return (key_end, value) if value < size else (BAD_JSON, BAD_JSON)


@kernel(inline=True)
def next_member(text: Text, position: int) -> tuple[bool, int]:
    """After a value: (True, position of the next key) or (False, position after the object), or (False, BAD_JSON)."""
    position = skip_space(text, position)
    if position >= text.size:
        return False, BAD_JSON
    if byte_at(text, position) == COMMA:
        return True, skip_space(text, position + 1)
    return False, (position + 1 if byte_at(text, position) == CLOSE_OBJECT else BAD_JSON)


@kernel(inline=True)
def next_element(text: Text, position: int) -> tuple[bool, int]:
    """After a value: (True, position of the next one) or (False, position after the list), or (False, BAD_JSON)."""
    position = skip_space(text, position)
    if position >= text.size:
        return False, BAD_JSON
    if byte_at(text, position) == COMMA:
        return True, skip_space(text, position + 1)
    return False, (position + 1 if byte_at(text, position) == CLOSE_LIST else BAD_JSON)


@kernel()
def name_index(text: Text, position: int, names: np.ndarray) -> int:
    """Which of `names` (see make_names) the string at `position` is, or -1."""
    size = text.size
    if position >= size or byte_at(text, position) != QUOTE:
        return -1
    for index in range(len(names)):
        length = np.int64(names[index, 0])
        if position + length + 1 >= size or byte_at(text, position + length + 1) != QUOTE:
            continue
        place = 0
        while place < length and byte_at(text, position + 1 + place) == np.int64(names[index, 1 + place]):
            place += 1
        if place == length:
            return index
    return -1


@kernel()
def scan_object(text: Text, position: int, names: np.ndarray, value_at: np.ndarray) -> int:
    """Note in value_at[index] where the value of each of `names` begins, 0 for one that is missing.

    Returns the position after the object that opens at `position`, or BAD_JSON, also for a name met twice.
    """
    for index in range(len(names)):
        value_at[index] = 0
    position = skip_space(text, position + 1)
    if position < text.size and byte_at(text, position) == CLOSE_OBJECT:
        return position + 1
    more = True
    while more:
        key_end, value = next_key(text, position)
        if key_end < 0:
            return BAD_JSON
        index = name_index(text, position, names)
        if index >= 0:
            if value_at[index] != 0:
                return BAD_JSON
            value_at[index] = value
        position = skip_value(text, value)
        if position < 0:
            return position
        more, position = next_member(text, position)
    return position
