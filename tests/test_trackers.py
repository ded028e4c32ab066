"""What servers tell with each statement: which of it counts as a change of the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pymysql
import pytest

from django_db_pooling.drivers.pymysql import _TRACKS, DRIVER
from django_db_pooling.drivers.trackers import tell_a_change
from tests.conftest import require
from tests.servers import MariaDB, MySQL, MySQLFamily

OPTIONS = {
    MariaDB: [],
    # Without a log there are no GTIDs.
    MySQL: ["--log-bin=binlog", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
}
# By a session that has them told.
INSERT = "INSERT INTO plain VALUES (1)"
NO_CHANGES = [
    [INSERT],
    ["BEGIN", INSERT, "COMMIT"],
    ["START TRANSACTION READ ONLY", "DO 1", "ROLLBACK"],
    ["BEGIN", "SAVEPOINT a", INSERT, "ROLLBACK TO SAVEPOINT a", "RELEASE SAVEPOINT a", "COMMIT"],
    ["XA START 'x'", INSERT, "XA END 'x'", "XA PREPARE 'x'", "XA COMMIT 'x'"],
    ["BEGIN", INSERT, "CREATE TABLE IF NOT EXISTS other (a INT)"],
]
CHANGES = [
    "SET @mine = 1",
    "SET time_zone = '+05:00'",
    "USE information_schema",
    "PREPARE mine FROM 'SELECT 1'",
]
# A row for the table that has a trigger.
HIDDEN = "INSERT INTO watched VALUES (1)"

Told = Callable[[str], bool]


@pytest.fixture(scope="module", params=[MariaDB, MySQL], ids=lambda server: server.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[MySQLFamily]:
    require(request.param)
    with request.param(extra=OPTIONS[request.param]) as server:
        server.create("told")
        server.execute(
            "CREATE TABLE plain (a INT); CREATE TABLE watched (a INT);"
            " CREATE TRIGGER watcher BEFORE INSERT ON watched FOR EACH ROW SET @mine = 1",
            "told",
        )
        yield server


@pytest.fixture(
    params=[
        "transaction_info = 'OFF'",
        "transaction_info = 'STATE'",
        "transaction_info = 'CHARACTERISTICS'",
        "system_variables = '*'",
    ]
)
def told(server: MySQLFamily, request: pytest.FixtureRequest) -> Iterator[Told]:
    """Executes a statement; whether the server has told of a change."""
    params: dict[str, Any] = {"host": server.host, "port": server.port, "user": server.user}
    params |= {"password": server.password, "database": "told", "autocommit": True}
    DRIVER.adapt(params, None)
    with closing(pymysql.connect(**params)) as connection, connection.cursor() as cursor:
        DRIVER.connected(connection, params)
        assert getattr(connection, _TRACKS)
        cursor.execute(f"SET session_track_{request.param}")
        if isinstance(server, MySQL):
            cursor.execute("SET session_track_gtids = 'ALL_GTIDS'")

        def execute(statement: str) -> bool:
            cursor.execute(statement)
            return DRIVER.session_changed(connection)

        execute("DO 1")
        yield execute


@pytest.mark.parametrize("statements", NO_CHANGES, ids="; ".join)
def test_what_is_told_of_transactions_is_no_change(told: Told, statements: list[str]) -> None:
    assert [statement for statement in statements if told(statement)] == []


@pytest.mark.parametrize("statement", CHANGES)
def test_a_change_is_told(told: Told, statement: str) -> None:
    assert told(statement)


def test_a_change_is_told_together_with_what_is_none(told: Told) -> None:
    for statements in (
        [HIDDEN],
        ["BEGIN", HIDDEN, "COMMIT"],
        ["START TRANSACTION READ WRITE", INSERT, HIDDEN],
    ):
        assert [statement for statement in statements if told(statement)] == [HIDDEN]
        told("ROLLBACK")


def entry(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + length(data) + data


def length(data: bytes) -> bytes:
    if len(data) < 251:
        return bytes([len(data)])
    return (
        b"\xfc" + len(data).to_bytes(2, "little")
        if len(data) < 1 << 16
        else (b"\xfd" + len(data).to_bytes(3, "little"))
    )


def test_the_number_of_the_statement_is_no_change() -> None:
    """MySQL's, which it tells with each one where all variables are tracked, as MySQL Router has it."""
    for number in (b"7", b"18446744073709551615"):
        variable = entry(0, b"\x0cstatement_id" + length(number) + number)
        for more, changed in ((b"", False), (entry(2, b"1"), True), (entry(0, b"\x01a\x011"), True)):
            for entries in (variable + more, more + variable):
                assert tell_a_change(b"\0" + length(entries) + entries) is changed
    other = entry(0, b"\x0cstatement_ix\x017")
    both = entry(0, b"\x0cstatement_id\x017\x01a\x011")
    for entries in (other, both):
        assert tell_a_change(b"\0" + length(entries) + entries)


@pytest.mark.parametrize("size", [0, 1, 250, 251, 65_535, 65_536, 1 << 18])
@pytest.mark.parametrize("text", [b"", b"Rows matched: 1", b"x" * 300])
def test_whatever_the_length_is(size: int, text: bytes) -> None:
    transactions = entry(3, b"x" * size) + entry(4, b"x" * size) + entry(5, b"T_______")
    for more, changed in ((b"", False), (entry(2, b"1"), True), (entry(0, b"x" * size), True)):
        for entries in (transactions + more, more + transactions):
            assert tell_a_change(length(text) + text + length(entries) + entries) is changed


@pytest.mark.parametrize(
    "message", [b"", b"\x05text", b"\x00\xfc", b"\x00\x02\x03", b"\x00\x09\x02", b"\x00\x03\x03\x05a"]
)
def test_what_cannot_be_read_is_a_change(message: bytes) -> None:
    assert tell_a_change(message)
