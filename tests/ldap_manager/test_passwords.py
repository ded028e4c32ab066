"""Passwords: the server is asked, and nothing that can be looked at has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.ldap_manager.conftest import Make, assert_whole, whoami
from tests.slapd import Slapd

NEW = "another-secret"


@contextmanager
def changed_password(server: Slapd, number: int) -> Iterator[None]:
    import ldap

    def change(password: str) -> None:
        admin = ldap.initialize(server.uri)
        admin.simple_bind_s(server.admin_dn, server.password)
        admin.modify_s(server.user_dn(number), [(ldap.MOD_REPLACE, "userPassword", password.encode())])
        admin.unbind_s()

    change(NEW)
    try:
        yield
    finally:
        change(server.user_password(number))


def test_a_changed_password_is_refused(manager: Make, server: Slapd) -> None:
    import ldap

    two = manager()
    user, old = server.user_dn(1), server.user_password(1)
    with two.connection(user, old):
        pass
    assert two.stats().idle == 1
    with changed_password(server, 1):
        assert two.stats().idle == 1
        assert not two.authenticate(user, old)
        with two.connection(user, NEW) as connection:
            assert whoami(connection) == f"dn:{user}"
        with pytest.raises(ldap.INVALID_CREDENTIALS), two.connection(user, old):
            pass
        assert two.authenticate(user, NEW)
    assert not two.authenticate(user, NEW)
    assert two.authenticate(user, old)
    assert_whole(two, server)


def test_a_changed_password_is_refused_where_a_connection_is_idle(manager: Make, server: Slapd) -> None:
    import ldap

    two = manager()
    user, old = server.user_dn(1), server.user_password(1)
    with two.connection(user, old):
        pass
    with changed_password(server, 1):
        with pytest.raises(ldap.INVALID_CREDENTIALS), two.connection(user, old):
            pass
        assert len(two) == 0


def test_authenticate_asks_each_time(manager: Make, server: Slapd) -> None:
    two = manager()
    before = server.monitor()
    for _ in range(5):
        assert two.authenticate(server.user_dn(1), server.user_password(1)) is True
    middle = server.monitor()
    assert (middle.binds - before.binds, middle.total_connections - before.total_connections) == (5, 1)
    for _ in range(5):
        assert two.authenticate(server.user_dn(1), "wrong") is False
    assert server.monitor().binds - middle.binds == 5
    assert_whole(two, server)


@pytest.mark.parametrize("password", ["", None, b""])
def test_an_empty_password_is_wrong_without_a_question(manager: Make, server: Slapd, password: Any) -> None:
    two = manager()
    before = server.monitor()
    assert two.authenticate(server.user_dn(1), password) is False
    assert two.authenticate("", server.user_password(1)) is False
    assert server.monitor() == before


def test_a_name_that_is_none_and_a_name_that_is_unknown(manager: Make, server: Slapd) -> None:
    import ldap

    two = manager()
    assert two.authenticate(f"uid=nobody,{server.people_dn}", "x") is False
    from django_db_pooling.ldap import BackendError

    with pytest.raises((ldap.INVALID_DN_SYNTAX, BackendError)):
        two.authenticate("no name at all", "x")
    assert_whole(two, server)


def test_a_password_in_bytes_is_the_same_one(manager: Make, server: Slapd) -> None:
    two = manager()
    with two.connection(server.user_dn(1), server.user_password(1)) as one:
        pass
    with two.connection(server.user_dn(1), server.user_password(1).encode()) as other:
        assert one is other


def test_the_state_says_whose_it_is(manager: Make, server: Slapd) -> None:
    two = manager()
    with two.connection() as connection:
        assert connection.connected
        assert connection.who == server.user_dn(0)
        assert connection.cred == server.user_password(0) == two.passwd
        assert connection.cred != "something" and two.passwd != "something" and connection.cred != 5
        assert connection.get_lifetime() > 0
        assert "connected" in str(connection) and server.user_dn(0) in str(connection)
        assert server.uri in str(two)
    two.close()
    assert not connection.connected
    assert "disconnected" in str(connection)


# -- secrets --------------------------------------------------------------------------------
