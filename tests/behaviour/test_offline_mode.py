"""MySQL that takes in administrators only, as one that has left its group does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from django.db import OperationalError

from django_db_pooling import pooling
from tests.behaviour.conftest import another_alias, eventually, in_threads, plain, request, token
from tests.behaviour.observer import Observer

pytestmark = pytest.mark.only("mysql")

USER = "ordinary"


@pytest.fixture
def ordinary(fresh_pool: None, observer: Observer) -> Iterator[dict[str, str]]:
    observer.rows(f"DROP USER IF EXISTS {USER}")
    observer.rows(f"CREATE USER {USER} IDENTIFIED BY '{USER}'")
    observer.rows(f"GRANT SELECT ON {observer.name}.* TO {USER}")
    try:
        yield {"USER": USER, "PASSWORD": USER}
    finally:
        observer.rows("SET GLOBAL offline_mode = OFF")
        observer.rows(f"DROP USER {USER}")


def test_requests_wait_until_it_is_over(ordinary: dict[str, str], observer: Observer) -> None:
    with another_alias(**ordinary, POOL={"CONNECT_RETRY": 20, "TIMEOUT": 30}) as alias:
        request(lambda: token(alias))
        observer.rows("SET GLOBAL offline_mode = ON")
        with pytest.raises(OperationalError, match="offline mode"), plain(alias) as wrapper:
            wrapper.ensure_connection()

        def back_in_a_moment() -> None:
            eventually(lambda: pooling.stats(alias).waiting or pooling.stats(alias).opening)
            threading.Event().wait(0.5)
            observer.rows("SET GLOBAL offline_mode = OFF")

        in_threads([back_in_a_moment] + [lambda: token(alias)] * 6)


def test_when_it_stays_so_the_error_is_the_servers(ordinary: dict[str, str], observer: Observer) -> None:
    observer.rows("SET GLOBAL offline_mode = ON")
    with (
        another_alias(**ordinary, POOL={"CONNECT_RETRY": 0.3}) as alias,
        pytest.raises(OperationalError, match="offline mode"),
    ):
        token(alias)
