"""Passwords: the server is asked, and nothing that can be looked at has one."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.ldap_manager.conftest import Make, assert_whole, find, whoami
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


def reachable(*roots: Any) -> Iterator[Any]:
    """Whatever these lead to, but for modules, classes, and what functions are closed over."""
    seen = {id(globals()), id(sys.modules)}
    todo = list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, types.ModuleType | type | types.CellType):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, types.FunctionType):
            todo += [thing.__defaults__, thing.__kwdefaults__, thing.__dict__, thing.__closure__]
        elif isinstance(thing, types.TracebackType):
            todo += [frame.f_locals for frame, _ in traceback.walk_tb(thing)]
        else:
            todo += gc.get_referents(thing)
            if hasattr(thing, "__dict__"):
                todo.append(vars(thing))


def assert_hidden(secrets: list[str], *roots: Any) -> None:
    for thing in reachable(*roots):
        if isinstance(thing, str | bytes | bytearray):
            text = thing if isinstance(thing, str) else bytes(thing).decode("latin-1")
            assert not any(secret in text for secret in secrets), thing


def test_no_password_can_be_read(manager: Make, server: Slapd, caplog: pytest.LogCaptureFixture) -> None:
    import ldap

    caplog.set_level(logging.DEBUG)
    secrets = [server.user_password(0), server.user_password(1), "user002-wrong"]
    two = manager(wait_timeout=0.2, min_size=1)
    errors = []
    with two.connection() as mine, two.connection(server.user_dn(1), server.user_password(1)) as other:
        for connection in (mine, other):
            assert_hidden(secrets, connection, vars(connection))
            for value in vars(connection).values():
                assert not any(secret in repr(value) for secret in secrets)
        assert_hidden(secrets, two, two._pool.slots.all())
        with pytest.raises(Exception) as caught, two.connection():
            pass
        errors.append(str(caught.value))
    with (
        pytest.raises(ldap.INVALID_CREDENTIALS) as refused,
        two.connection(server.user_dn(2), "user002-wrong"),
    ):
        pass
    errors.append(str(refused.value))
    del caught, refused
    two.uri = "ldap://127.0.0.1:1"
    for whose in ((), (server.user_dn(1), server.user_password(1))):
        two.close()
        with pytest.raises(ldap.SERVER_DOWN) as away, two.connection(*whose):
            pass
        errors.append(str(away.value))
        del away
    texts = [repr(two), str(two), repr(vars(two)), repr(two.stats()), repr(two.passwd), str(two.passwd)]
    texts += [repr(mine), str(mine), repr(mine.cred), str(other), repr(other.cred), repr(two._own_identity)]
    texts += [caplog.text, *errors]
    assert not any(secret in text for secret in secrets for text in texts)
    assert_hidden(secrets, two, two.stats(), mine, other, *two._pool.connections())


def test_an_error_of_connecting_keeps_no_object_alive(manager: Make, server: Slapd) -> None:
    """What the pool remembers of it has no frames, in which there are passwords and other people's things."""
    import weakref

    import ldap

    class Thing:
        pass

    two = manager("ldap://127.0.0.1:1", retry_delay=0.01)

    def use() -> weakref.ref[Thing]:
        thing = Thing()
        with pytest.raises(ldap.SERVER_DOWN), two.connection():
            pass
        return weakref.ref(thing)

    dropped = use()
    gc.collect()
    assert dropped() is None
    two.uri = server.uri
    with two.connection() as connection:
        assert find(connection, server) == [server.user_dn(7)]
