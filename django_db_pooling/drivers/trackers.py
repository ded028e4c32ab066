"""What the trackers of a session tell, MySQL's and MariaDB's, with the OK packet of a statement.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_ok_packet.html
"""

from __future__ import annotations

import re

# Of those that tell what changes a session: variables, the database, anything. The others tell of
# transactions and their GTIDs.
_CHANGES = frozenset({0, 1, 2})
# One that tells of a variable: MySQL's number of the statement. Where all variables are tracked, as MySQL
# Router has it, each statement tells of it.
_NUMBER = re.compile(rb"\x00[\x0e-\x22]\x0cstatement_id[\x01-\x14][0-9]+")
# How many bytes follow the first of an integer.
_MORE_BYTES = {0xFC: 2, 0xFD: 3, 0xFE: 8}


def tell_a_change(message: bytes) -> bool:
    """``message``: of such a packet, a text and what the trackers tell. What can't be read is a change."""
    try:
        return not _CHANGES.isdisjoint(_kinds(message))
    except IndexError:
        return True


def _kinds(message: bytes) -> list[int]:
    """Of the trackers that tell something, but the number of the statement. Raises IndexError."""
    length, place = _integer(message, 0)
    _, place = _integer(message, place + length)
    kinds = []
    while place < len(message):
        start = place
        length, place = _integer(message, start + 1)
        place += length
        if not _NUMBER.fullmatch(message, start, place):
            kinds.append(message[start])
    if place > len(message):
        raise IndexError
    return kinds


def _integer(message: bytes, place: int) -> tuple[int, int]:
    """The one there, of 1 to 9 bytes, and the place behind it."""
    first, start = message[place], place + 1
    end = start + _MORE_BYTES.get(first, 0)
    if end > len(message):
        raise IndexError
    return (first if end == start else int.from_bytes(message[start:end], "little")), end
