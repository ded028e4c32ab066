"""Connections that break, servers that go away, fall silent or come back."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.ldap_manager.conftest import (
    Make,
    assert_whole,
    beside,
    eventually,
    find,
    held,
    uri_of,
    whoami,
)
from tests.proxy import TcpProxy
from tests.slapd import Slapd


@pytest.fixture
def other() -> Iterator[Slapd]:
    """A server that may be stopped."""
    with Slapd(users=10) as other:
        yield other


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_broken_idle_connections_are_replaced_unnoticed(manager: Make, server: Slapd, other: Slapd) -> None:
    two = manager(other.uri)
    user = other.user_dn(1), other.user_password(1)
    with two.connection(), two.connection(*user):
        pass
    other.restart()
    with two.connection() as connection, two.connection(*user) as theirs:
        assert find(connection, other) == [other.user_dn(7)]
        assert whoami(theirs) == f"dn:{user[0]}"
    assert two.stats().broken >= 1


def test_a_connection_that_breaks_unnoticed_is_replaced_when_it_is_checked(
    manager: Make, server: Slapd, proxy: TcpProxy
) -> None:
    """After one was found broken, all others are checked first; also one that gives no answer at all."""
    two = manager(uri_of(proxy), wait_timeout=2.0)
    with two.connection() as silent:
        pass
    two._pool.suspect_all()
    proxy.deaf()
    resuming = beside(lambda: eventually(lambda: two.stats().opening) or proxy.resume())
    with resuming, two.connection() as connection:
        assert connection is not silent
        assert find(connection, server) == [server.user_dn(7)]
    assert len(two) == 1


def test_silent_idle_connections_and_a_silent_server_take_no_longer_than_they_may(
    manager: Make, server: Slapd, proxy: TcpProxy
) -> None:
    import ldap

    many = manager(uri_of(proxy), size=8, wait_timeout=0.5)
    with held(many, 8):
        pass
    many._pool.suspect_all()
    proxy.deaf()
    began = time.monotonic()
    with pytest.raises(ldap.TIMEOUT), many.connection():
        pass
    # A second for each of them would be eight.
    assert time.monotonic() - began < 4
    proxy.resume()
    assert_whole(many, server)


@pytest.mark.parametrize("timeout", [-1, 60])
def test_a_silent_server_does_not_answer_about_a_password(
    manager: Make, server: Slapd, proxy: TcpProxy, timeout: float
) -> None:
    import ldap

    two = manager(uri_of(proxy), wait_timeout=0.5, timeout=timeout)
    user = server.user_dn(1), server.user_password(1)
    assert two.authenticate(*user)
    proxy.deaf()
    with pytest.raises(ldap.TIMEOUT):
        two.authenticate(*user)
    proxy.resume()
    assert two.authenticate(*user)


def test_a_search_is_made_once_more_on_a_fresh_connection(
    manager: Make, server: Slapd, proxy: TcpProxy
) -> None:
    import ldap

    two = manager(uri_of(proxy))
    before = server.monitor()
    with two.connection() as connection:
        connection.set_option(ldap.OPT_SIZELIMIT, 17)
        connection.timeout = 9
        proxy.deaf()
        with beside(lambda: find(connection, server)) as found:
            eventually(lambda: connection.pending)
            proxy.drop()
            proxy.resume()
        assert found == [[server.user_dn(7)]]
        # What its user has set stays set.
        assert (connection.get_option(ldap.OPT_SIZELIMIT), connection.timeout) == (17, 9)
        assert connection.answer_timeout == 5.0
        proxy.drop()
        assert find(connection, server) == [server.user_dn(7)]
        assert connection.connected
    with two.connection() as again:
        assert again is connection
        assert (again.get_option(ldap.OPT_SIZELIMIT), again.timeout) == (0, -1)
    assert server.monitor().total_connections - before.total_connections == 3
    assert (two.stats().opened, two.stats().closed, len(two)) == (3, 2, 1)


def test_a_search_that_breaks_twice_is_not_made_a_third_time(
    manager: Make, server: Slapd, proxy: TcpProxy
) -> None:
    import ldap

    two = manager(uri_of(proxy), retry_max=1)
    with pytest.raises(ldap.SERVER_DOWN), two.connection() as connection:
        proxy.refuse()
        proxy.drop()
        find(connection, server)
    assert len(two) == 0
    proxy.resume()
    assert_whole(two, server)


def test_a_search_is_never_made_again_as_another_user(manager: Make, server: Slapd, proxy: TcpProxy) -> None:
    """Neither where its user has bound the connection himself, nor where other answers are outstanding."""
    import ldap

    two = manager(uri_of(proxy))
    with two.connection() as connection:
        connection.simple_bind_s(server.user_dn(1), server.user_password(1))
        proxy.drop()
        with pytest.raises(ldap.SERVER_DOWN):
            find(connection, server)
    with two.connection() as connection:
        connection.search_ext(server.people_dn, ldap.SCOPE_SUBTREE)
        proxy.drop()
        with pytest.raises(ldap.SERVER_DOWN):
            find(connection, server)
    assert_whole(two, server)


def test_a_write_is_never_made_again(manager: Make, server: Slapd, proxy: TcpProxy) -> None:
    import ldap

    admin = manager(uri_of(proxy), bind=server.admin_dn, passwd=server.password)
    before = server.monitor()
    with admin.connection() as connection:
        proxy.delay(60)
        change = [(ldap.MOD_REPLACE, "sn", b"changed")]
        with beside(lambda: connection.modify_s(server.user_dn(9), change)) as outcome:
            eventually(lambda: server.monitor().modifies == before.modifies + 1)
            proxy.drop()
            proxy.resume()
        assert isinstance(outcome[0], ldap.SERVER_DOWN)
    after = server.monitor()
    assert (after.modifies, after.total_connections) == (before.modifies + 1, before.total_connections + 1)
    assert_whole(admin, server)


@pytest.mark.parametrize("how", ["deaf", "suspended", "silent TLS"])
def test_connecting_to_a_silent_server_ends_in_time(
    how: str, manager: Make, server: Slapd, proxy: TcpProxy, other: Slapd
) -> None:
    import ldap

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        uri = {
            "deaf": uri_of(proxy),
            "suspended": other.uri,
            "silent TLS": f"ldaps://127.0.0.1:{listener.getsockname()[1]}",
        }[how]
        proxy.deaf()
        other.suspend()
        one = manager(uri, size=1, wait_timeout=1.0)
        with pytest.raises(ldap.TIMEOUT), one.connection():
            pass
        eventually(lambda: len(one) == 0)
    proxy.resume()
    other.resume()
    one.uri = server.uri
    assert_whole(one, server)


def test_while_no_server_is_there_connecting_is_tried_retry_max_times(
    manager: Make, server: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ldap

    from django_db_pooling.ldap import checkout

    tries: list[float] = []
    connect = checkout.connect
    monkeypatch.setattr(checkout, "connect", lambda *args, **more: tries.append(0) or connect(*args, **more))
    away = manager("ldap://127.0.0.1:1", retry_max=4, retry_delay=0.01)
    with pytest.raises(ldap.SERVER_DOWN), away.connection():
        pass
    assert len(tries) == 4
    refused = manager(retry_max=4)
    with pytest.raises(ldap.INVALID_CREDENTIALS), refused.connection(server.user_dn(1), "wrong"):
        pass
    assert len(tries) == 5


def test_a_server_that_comes_up_meanwhile_is_found(manager: Make, server: Slapd, proxy: TcpProxy) -> None:
    two = manager(uri_of(proxy), retry_max=1000, retry_delay=0.02)
    proxy.refuse()
    with beside(lambda: time.sleep(0.1) or proxy.resume()), two.connection() as connection:
        assert find(connection, server) == [server.user_dn(7)]


def test_other_errors_are_backend_errors(manager: Make, server: Slapd) -> None:
    import ldap

    from django_db_pooling.ldap import BackendError

    # It has no TLS to offer.
    with Slapd(users=1) as plain:
        two = manager(plain.uri, use_tls=True)
        with pytest.raises(BackendError) as caught, two.connection():
            pass
    assert isinstance(caught.value.__cause__, ldap.LDAPError)
    assert len(two) == 0


def test_files_are_closed(manager: Make, server: Slapd, proxy: TcpProxy) -> None:
    import ldap

    two = manager(uri_of(proxy), retry_max=1, wait_timeout=5.0)
    with two.connection():
        pass
    eventually(lambda: proxy.connections == 1)
    before, threads = open_files(), threading.active_count()
    for turn in range(50):
        with two.connection():
            pass
        two.close()
        assert not two.authenticate(server.user_dn(1), "wrong")
        assert two.authenticate(server.user_dn(turn % 5), server.user_password(turn % 5))
        with two.connection() as connection:
            proxy.drop(reset=turn % 2 == 0)
            find(connection, server)
    proxy.refuse()
    proxy.drop()
    for _ in range(50):
        with pytest.raises(ldap.SERVER_DOWN), two.connection():
            pass
    proxy.resume()
    with two.connection():
        pass
    eventually(lambda: open_files() <= before + 2 and threading.active_count() <= threads)
    assert len(two._identities._known) <= 3


# -- several servers ------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", ",", ", "])
def test_servers_take_turns_and_one_that_is_down_is_left_out(
    separator: str, manager: Make, server: Slapd, other: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django_db_pooling.ldap import servers

    monkeypatch.setattr(servers, "AWAY_SECONDS", 0.3)
    both = manager(f"{server.uri}{separator}{other.uri}", size=8)

    def on_other() -> int:
        return sum(connection._uri == other.uri for connection in both._pool.connections())

    with held(both, 8):
        assert (on_other(), other.monitor().connections, server.monitor().connections) == (4, 4, 4)
    other.stop()
    both.close()
    with held(both, 8) as connections:
        assert on_other() == 0
        assert all(find(connection, server) for connection in connections)
    other.start()
    both.close()
    time.sleep(0.35)
    with held(both, 8):
        assert on_other() >= 3
    other.stop()
    both.close()
    with both.connection() as connection:
        other.start()
        assert find(connection, server) == [server.user_dn(7)]


def test_a_wrong_password_is_tried_on_one_server(manager: Make, server: Slapd, other: Slapd) -> None:
    both = manager(f"{server.uri},{other.uri}")
    before = server.monitor().binds + other.monitor().binds
    for tries in range(1, 5):
        assert not both.authenticate(server.user_dn(1), "wrong")
        assert server.monitor().binds + other.monitor().binds - before == tries


# -- TLS ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["StartTLS", "ldaps"])
@pytest.mark.parametrize("trusted", [True, False])
def test_tls(way: str, trusted: bool, manager: Make, server: Slapd) -> None:
    import ldap

    from django_db_pooling.ldap import BackendError

    options: dict[int, Any] = {ldap.OPT_X_TLS_REQUIRE_CERT: ldap.OPT_X_TLS_DEMAND}
    if trusted:
        options[ldap.OPT_X_TLS_CACERTFILE] = str(server.certificate)
    uri = server.uri if way == "StartTLS" else server.tls_uri
    two = manager(uri, use_tls=way == "StartTLS", options=options, retry_max=1)
    before = server.monitor()
    if not trusted:
        with pytest.raises((ldap.SERVER_DOWN, BackendError)), two.connection():
            pass
        # The password was not sent.
        assert server.monitor().binds == before.binds
        return
    with two.connection() as connection:
        assert connection.get_option(ldap.OPT_X_TLS_PEERCERT)
        everybody = find(connection, server, "(objectClass=inetOrgPerson)")
        assert len(everybody) == server.users
    assert two.authenticate(server.user_dn(1), server.user_password(1))
    assert not two.authenticate(server.user_dn(1), "wrong")
    assert_whole(two, server)
    two.close()
    eventually(lambda: server.monitor().connections == 0)


def test_one_silent_server_does_not_stop_all_callers(
    manager: Make, server: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try in which it says nothing has its share of the time, and others are asked first meanwhile."""
    import ldap

    from django_db_pooling.ldap import servers

    monkeypatch.setattr(servers, "STALLED_AFTER", 0.1)
    monkeypatch.setattr(servers.random, "randrange", lambda _: 0)

    def use(manager: Any) -> list[str]:
        with manager.connection() as connection:
            return find(connection, server)

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        both = manager(
            f"ldaps://127.0.0.1:{listener.getsockname()[1]} {server.tls_uri}",
            size=3,
            wait_timeout=2.0,
            options={ldap.OPT_X_TLS_CACERTFILE: str(server.certificate)},
        )
        with beside(lambda: use(both)) as outcome:
            eventually(lambda: both.stats().opening == 1)
            time.sleep(0.2)
            for _ in range(6):
                both.close()
                assert use(both) == [server.user_dn(7)]
            assert (outcome, both.stats().opening) == ([], 1)
        assert outcome == [[server.user_dn(7)]]
        assert both.stats().opening == 0
