"""What libpq and proxies say when connecting fails: whether it may be over in a moment."""

from __future__ import annotations

import pytest

from django_db_pooling.drivers.errors import postgresql_server_away

BEFORE = 'connection to server at "127.0.0.1", port 5432 failed: '

AWAY = [
    "Connection refused",
    "FATAL:  the database system is starting up",
    "FATAL:  sorry, too many clients already",
    "session is read-only",
    "session is not read-only",
    "server is in hot standby mode",
    "server is not in hot standby mode",
    "SSL SYSCALL error: EOF detected",
    "SSL error: unexpected eof while reading",
    "FATAL:  query_wait_timeout",
    "FATAL:  client_login_timeout",
    "FATAL:  server conn crashed?",
    "FATAL:  too many active clients for user (pool_size for user app reached 5)",
]
NOT_AWAY = [
    'FATAL:  password authentication failed for user "app"',
    'FATAL:  database "shop" does not exist',
    "SSL error: certificate verify failed",
    "server does not support SSL, but SSL was required",
    'FATAL:  no such user "app"',
]


@pytest.mark.parametrize("text", AWAY)
def test_away(text: str) -> None:
    assert postgresql_server_away(Exception(BEFORE + text))


@pytest.mark.parametrize("text", NOT_AWAY)
def test_not_away(text: str) -> None:
    assert not postgresql_server_away(Exception(BEFORE + text))
