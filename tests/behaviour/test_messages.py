"""What the log and the errors say to somebody who is called at night."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from django.core import signals
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError
from django.db.utils import OperationalError

from django_db_pooling import pooling
from django_db_pooling.exceptions import PoolTimeout
from tests.behaviour.conftest import GEVENT, another_alias, eventually, in_thread, one, sql


def begin(method: str, path: str) -> dict[str, str]:
    """A request, for as long as somebody has its environ."""
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path}
    signals.request_started.send(sender=None, environ=environ)
    return environ


def exhausted(caplog: pytest.LogCaptureFixture, **pool: Any) -> tuple[str, str]:
    """A request has the only connection, another one waits in vain: its error, and the line in the log."""
    with another_alias(POOL=pool) as alias:
        pooling.set_pool_size(1, max_outstanding=1, timeout=0.05, alias=alias)
        holding = begin("GET", "/holds")
        block = ExitStack()
        if pool.get("SCOPE") == "transaction":
            block.enter_context(transaction.atomic(using=alias))
        one(alias)

        def wait() -> str:
            waiting = begin("POST", "/waits")
            with pytest.raises(PoolTimeout) as caught:
                one(alias)
            signals.request_finished.send(sender=None)
            waiting.clear()
            return str(caught.value)

        error = in_thread(wait)
        block.close()
        signals.request_finished.send(sender=None)
        holding.clear()
        lines: list[str] = []

        def is_written() -> bool:
            lines[:] = [text for text in caplog.messages if text.startswith(f"{alias}: checkout of ")]
            return bool(lines)

        eventually(is_written)
        return error, lines[0]


def test_the_log_says_whose_request_got_nothing_who_holds_and_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error, line = exhausted(caplog)
    assert " checkout of POST /waits failed: PoolTimeout: No connection from pool " in line
    assert "CheckoutTimeout" not in line
    assert " s by GET /holds" in line
    assert "(LEAK_THRESHOLD shows the line)" in line
    for text in (error, line):
        assert "pooling.release()" in text
        assert "SCOPE" in text
        assert "MAX_OUTSTANDING" in text
    assert not GEVENT or "in thread Dummy" not in line


def test_with_leak_threshold_the_line_of_code_is_there(caplog: pytest.LogCaptureFixture) -> None:
    _, line = exhausted(caplog, LEAK_THRESHOLD=60)
    assert "conftest.py:" in line
    assert "LEAK_THRESHOLD shows" not in line


def test_in_transaction_scope_it_is_the_blocks_that_are_too_long(caplog: pytest.LogCaptureFixture) -> None:
    error, line = exhausted(caplog, SCOPE="transaction")
    for text in (error, line):
        assert "inside of atomic()" in text
        assert "SCOPE" not in text


@pytest.mark.only("sqlite3", "pymysql", "mysqlclient")
@pytest.mark.transaction_scope
def test_the_function_that_needs_the_last_session_is_named() -> None:
    function = "changes()" if connection.vendor == "sqlite" else "LAST_INSERT_ID()"
    with pooling.scope("transaction"), pytest.raises(TransactionManagementError) as caught:
        sql(f"SELECT {function}")
    assert str(caught.value).startswith(f"{function} depends on the previous statement's session")
    assert not isinstance(caught.value, OperationalError)
