"""Kills and timeouts of gevent, wherever a greenlet can be: no slot is lost, no answer mixed up."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.ldap_manager.conftest import (
    PATIENCE,
    Make,
    assert_whole,
    eventually,
    find,
    held,
    uri_of,
    whoami,
)
from tests.ldap_manager.test_faults import open_files
from tests.proxy import TcpProxy
from tests.slapd import Slapd

pytestmark = pytest.mark.gevent
MOST_SWITCHES = 100
EVERYBODY = "(objectClass=inetOrgPerson)"


def gevent() -> Any:
    import gevent

    return gevent


class Interruption:
    """Runs something in a greenlet, and throws an error into it when it has switched so many times."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.number = number
        self.error = error
        self.happened = False
        self._seen = 0

    def run(self, function: Callable[[], Any]) -> None:
        import greenlet

        self._victim = gevent().Greenlet(function)
        before = greenlet.settrace(self._trace)
        try:
            self._victim.start()
            self._victim.join(PATIENCE)
        finally:
            greenlet.settrace(before)
        assert self._victim.ready(), "it hangs"
        error = self._victim.exception
        assert error is None or error is self.error

    def _trace(self, event: str, switch: Any) -> None:
        if event == "switch" and switch[0] is self._victim and not self.happened:
            if self._seen == self.number:
                self.happened = True
                gevent().get_hub().loop.run_callback(self._victim.throw, self.error)
            self._seen += 1


@pytest.mark.parametrize("state", ["cold", "idle", "another user's", "broken", "breaks"])
@pytest.mark.parametrize("error", ["GreenletExit", "Timeout"])
def test_an_interruption_at_any_point(
    state: str, error: str, manager: Make, server: Slapd, proxy: TcpProxy
) -> None:
    two = manager(uri_of(proxy))
    user = server.user_dn(1), server.user_password(1)

    def use() -> None:
        for whose, name in [((), server.user_dn(0)), (user, user[0])] * 3:
            with two.connection(*whose) as connection:
                if state == "breaks":
                    proxy.drop()
                assert len(find(connection, server, EVERYBODY)) == server.users
                assert whoami(connection) == f"dn:{name}"
            assert two.authenticate(*user)

    for number in range(MOST_SWITCHES):
        if state == "cold":
            two.close()
        elif state == "idle":
            with two.connection(), two.connection(*user):
                pass
        elif state == "another user's":
            third = server.user_dn(2), server.user_password(2)
            with held(two, 2, *third):
                pass
        elif state == "broken":
            with two.connection(), two.connection(*user):
                pass
            proxy.drop()
        interruption = Interruption(number, getattr(gevent(), error)())
        interruption.run(use)
        eventually(lambda: two.stats().in_use == two.stats().opening == 0)
        assert two.stats().waiting == 0 and len(two) <= 2
        if not interruption.happened:
            break
    else:
        raise AssertionError(f"more than {MOST_SWITCHES} switches")
    assert number >= 20, "hardly anything was interrupted"
    assert_whole(two, server)


def test_an_interruption_at_any_point_of_waiting(manager: Make, server: Slapd) -> None:
    one = manager(size=1)
    for number in range(MOST_SWITCHES):
        holding = one.connection()
        holding.__enter__()
        gevent().spawn_later(0.002, holding.__exit__, None, None, None)

        def use() -> None:
            with one.connection() as connection:
                assert find(connection, server) == [server.user_dn(7)]

        interruption = Interruption(number, gevent().GreenletExit())
        interruption.run(use)
        eventually(lambda: one.stats().in_use == 0)
        assert one.stats().waiting == 0
        if not interruption.happened:
            break
    assert 2 <= number < MOST_SWITCHES
    assert_whole(one, server)


def test_kills_at_random_moments(manager: Make, server: Slapd, proxy: TcpProxy) -> None:
    three = manager(uri_of(proxy), size=3)
    files = open_files()

    def use(number: int) -> None:
        with gevent().Timeout(0.0009 * (number % 60) + 0.0001, False):
            whose = (server.user_dn(number % 4), server.user_password(number % 4)) if number % 2 else ()
            with three.connection(*whose) as connection:
                text = f"(uid=user{number % 30:03})"
                assert find(connection, server, text) == [server.user_dn(number % 30)]

    for _ in range(3):
        greenlets = [gevent().spawn(use, number) for number in range(100)]
        gevent().joinall(greenlets, timeout=2 * PATIENCE, raise_error=True)
        assert all(greenlet.ready() for greenlet in greenlets)
    del greenlets
    gc.collect()
    assert_whole(three, server)
    three.close()
    eventually(lambda: proxy.connections == 0 and open_files() <= files + 6)


def test_a_caller_leaves_a_hanging_connect_at_once_and_its_slot_is_free_when_that_is_over(
    manager: Make, server: Slapd
) -> None:
    two = manager(wait_timeout=None)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        two.uri = f"ldaps://127.0.0.1:{listener.getsockname()[1]}"
        for _ in range(2):
            with pytest.raises(gevent().Timeout), gevent().Timeout(0.05), two.connection():
                pass
        assert len(two) == 2
    eventually(lambda: len(two) == 0)
    two.uri = server.uri
    assert_whole(two, server)


def test_others_go_on_while_one_waits(manager: Make, server: Slapd, proxy: TcpProxy) -> None:
    two = manager(uri_of(proxy))
    proxy.deaf()
    turns = []

    def use() -> None:
        with two.connection() as connection:
            find(connection, server)

    waiting = [gevent().spawn(use) for _ in range(2)]
    for turn in range(20):
        gevent().sleep(0.001)
        turns.append(turn)
    assert not any(greenlet.ready() for greenlet in waiting)
    proxy.resume()
    gevent().joinall(waiting, timeout=PATIENCE, raise_error=True)
    assert_whole(two, server)
