"""A server that is away for a moment, as when it restarts: nobody gets an error but who was writing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.ldap_manager.conftest import (
    Make,
    assert_whole,
    beside,
    eventually,
    find,
    held,
    together,
    uri_of,
)
from tests.proxy import TcpProxy
from tests.slapd import Slapd

CLIENTS = 20


@pytest.fixture
def other() -> Iterator[Slapd]:
    """A server that may be stopped."""
    with Slapd(users=10) as other:
        yield other


@pytest.mark.parametrize("whose", ["own", "users"])
def test_a_restart_of_a_second_fails_nobody(whose: str, manager: Make, server: Slapd, other: Slapd) -> None:
    eight = manager(other.uri, bind=other.admin_dn, passwd=other.password, size=8, wait_timeout=20.0)
    over = threading.Event()
    outcomes: Counter[str] = Counter()

    def use(number: int) -> None:
        user = (other.user_dn(number % 3), other.user_password(number % 3)) if whose == "users" else ()
        while not over.is_set():
            with eight.connection(*user) as connection:
                time.sleep(0.003)
                outcomes[find(connection, other)[0]] += 1

    with beside(lambda: together(*[lambda number=number: use(number) for number in range(CLIENTS)])) as ended:
        eventually(lambda: outcomes.total() > 100)
        for _ in range(2):
            other.stop()
            time.sleep(1.0)
            before = outcomes.total()
            other.start()
            eventually(lambda before=before: outcomes.total() > before + 100)
        over.set()
    assert ended == [[None] * CLIENTS]
    assert set(outcomes) == {other.user_dn(7)}
    assert len(eight) <= 8


def test_an_outage_costs_the_first_caller_its_patience_and_no_other(
    manager: Make, server: Slapd, proxy: TcpProxy
) -> None:
    import ldap

    two = manager(uri_of(proxy), connect_retry=0.5, wait_timeout=20.0)
    proxy.refuse()

    def fails() -> float:
        began = time.monotonic()
        with pytest.raises(ldap.SERVER_DOWN), two.connection():
            pass
        return time.monotonic() - began

    assert 0.4 < fails() < 2
    assert all(seconds < 0.4 for seconds in together(*[fails] * 10))
    proxy.resume()
    assert_whole(two, server)


def test_the_numbers_of_ldappool_are_what_they_were(
    manager: Make, server: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ldap

    from django_db_pooling.ldap import checkout

    tries: list[float] = []
    connect = checkout.connect
    monkeypatch.setattr(
        checkout, "connect", lambda *args, **more: tries.append(time.monotonic()) or connect(*args, **more)
    )
    for given, count, apart in [
        ({"retry_max": 3}, 3, 0.1),
        ({"retry_max": 2, "retry_delay": 0.3}, 2, 0.3),
        ({"retry_max": 1}, 1, None),
    ]:
        tries.clear()
        with pytest.raises(ldap.SERVER_DOWN), manager("ldap://127.0.0.1:1", **given).connection():
            pass
        assert len(tries) == count
        if apart is not None:
            assert all(b - a >= apart for a, b in zip(tries, tries[1:], strict=False))
    tries.clear()
    by_time = manager("ldap://127.0.0.1:1", connect_retry=0.9, retry_delay=0.4)
    with pytest.raises(ldap.SERVER_DOWN), by_time.connection():
        pass
    assert 2 <= len(tries) <= 4


def test_connections_that_break_in_use_wait_for_the_server_too(
    manager: Make, server: Slapd, proxy: TcpProxy
) -> None:
    two = manager(uri_of(proxy))
    with held(two, 2) as connections:
        proxy.refuse()
        proxy.drop()
        with beside(lambda: time.sleep(1.0) or proxy.resume()):
            found = together(*[lambda one=one: find(one, server) for one in connections])
        assert found == [[server.user_dn(7)]] * 2
    assert_whole(two, server)
