"""Under gevent: who waits for the directory lets others run, and may be killed at any point of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from django_db_pooling import pooling
from tests.concurrency import PATIENCE, eventually
from tests.ldap_backend.conftest import Configure, a_request, ask, assert_whole, in_use, new
from tests.proxy import TcpProxy
from tests.slapd import Slapd

pytestmark = pytest.mark.only_gevent
scopes = pytest.mark.parametrize("scope", ["request", "transaction"])
mosts = pytest.mark.parametrize("most", [1, 8])
TIMES = 20


def gevent() -> Any:
    import gevent

    return gevent


@contextmanager
def ticking() -> Iterator[list[int]]:
    """Counts how often another greenlet could run."""
    ticks: list[int] = []

    def tick() -> None:
        while True:
            gevent().sleep(0.005)
            ticks.append(1)

    ticker = gevent().spawn(tick)
    try:
        yield ticks
    finally:
        ticker.kill()


def test_others_run_while_one_connects_and_searches(secured: tuple[TcpProxy, str]) -> None:
    proxy, _ = secured
    proxy.delay(0.1)
    with ticking() as ticks:
        ask(1)
        connecting = len(ticks)
        ask(2)
        searching = len(ticks) - connecting
    assert connecting > 10
    assert searching > 10


def test_others_run_while_many_connect_and_search(secured: tuple[TcpProxy, str], server: Slapd) -> None:
    proxy, alias = secured
    proxy.delay(0.05)
    with ticking() as ticks:
        greenlets = [gevent().spawn(ask, number) for number in range(20)]
        gevent().joinall(greenlets, timeout=PATIENCE, raise_error=True)
    assert all(greenlet.successful() for greenlet in greenlets)
    assert len(ticks) > 20
    assert 2 <= pooling.stats(alias).opened <= 8
    proxy.resume()
    assert_whole(alias, server)


# -- interruptions --------------------------------------------------------------------------------------


def by_kill(work: Callable[[], Any], ready: Callable[[], bool]) -> None:
    greenlet = gevent().spawn(work)
    eventually(ready)
    greenlet.kill()
    assert isinstance(greenlet.value, gevent().GreenletExit)


def by_timeout(work: Callable[[], Any], ready: Callable[[], bool]) -> None:
    def run() -> None:
        with pytest.raises(gevent().Timeout), gevent().Timeout(0.02):
            work()

    gevent().spawn(run).get(timeout=PATIENCE)


interruptions = pytest.mark.parametrize("interrupt", [by_kill, by_timeout])


@interruptions
@scopes
@mosts
def test_an_interruption_in_the_middle_of_a_search(
    interrupt: Any, scope: str, most: int, configure: Configure, server: Slapd, proxy: TcpProxy
) -> None:
    pool = {"SIZE": most, "MAX_OUTSTANDING": most, "SCOPE": scope}
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}", POOL=pool)

    def work() -> None:
        with a_request():
            ask(1)

    for number in range(TIMES):
        # What is connected answers at once, and what is asked in a while.
        proxy.resume()
        ask(number)
        proxy.delay(0.3)
        interrupt(work, lambda: in_use(alias) == 1)
        assert in_use(alias) == 0
    proxy.resume()
    assert_whole(alias, server)
    assert pooling.stats(alias).broken == TIMES


@interruptions
@mosts
def test_an_interruption_while_connecting(
    interrupt: Any, most: int, configure: Configure, server: Slapd, proxy: TcpProxy
) -> None:
    pool = {"SIZE": most, "MAX_OUTSTANDING": most}
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}", POOL=pool)
    proxy.delay(0.05)
    for _ in range(TIMES):
        eventually(lambda: pooling.stats(alias).opening == 0)
        interrupt(lambda: ask(1), lambda: pooling.stats(alias).opening == 1)
        # Nobody waits for it, but it goes on.
        assert pooling.stats(alias).opening == 1
        assert server.monitor().connections <= most
    proxy.resume()
    assert_whole(alias, server)


def test_an_interruption_in_a_handshake(secured: tuple[TcpProxy, str], server: Slapd) -> None:
    proxy, alias = secured
    proxy.delay(0.02)
    for turn in range(8):
        eventually(lambda: pooling.stats(alias).opening == 0)
        pooling.close_all(alias)
        greenlet = gevent().spawn(ask, 1)
        gevent().sleep(0.015 * turn)
        greenlet.kill()
    proxy.resume()
    eventually(lambda: pooling.stats(alias).opening == 0)
    assert_whole(alias, server)


def test_an_interruption_at_any_point_of_a_write(
    configure: Configure, server: Slapd, proxy: TcpProxy
) -> None:
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}")
    ask()
    proxy.delay(0.3)
    for number in range(5):
        by_kill(lambda number=number: new(uid=f"new{number}").save(), lambda: in_use(alias) == 1)
        assert in_use(alias) == 0
    proxy.resume()
    assert_whole(alias, server)


def test_interruptions_while_waiting_for_a_connection(
    configure: Configure, server: Slapd, proxy: TcpProxy
) -> None:
    pool = {"SIZE": 1, "MAX_OUTSTANDING": 1}
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}", POOL=pool)
    ask()
    proxy.delay(0.3)
    greenlets = [gevent().spawn(ask, number) for number in range(TIMES)]
    eventually(lambda: pooling.stats(alias).waiting == TIMES - 1)
    for greenlet in greenlets[1::2]:
        greenlet.kill(block=False)
    proxy.resume()
    gevent().joinall(greenlets, timeout=PATIENCE)
    assert all(greenlet.successful() for greenlet in greenlets[::2])
    assert_whole(alias, server)


def test_interruptions_at_random(configure: Configure, server: Slapd, proxy: TcpProxy) -> None:
    """Many at once through a slow network, each of which has a little less time than it needs, or more."""
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}")
    proxy.delay(0.005)

    def work(number: int) -> None:
        with a_request():
            for turn in range(10):
                with gevent().Timeout(0.002 * (1 + (number * 7 + turn * 5) % 20), False):
                    ask(number + turn)
            ask(number)

    greenlets = [gevent().spawn(work, number) for number in range(20)]
    gevent().joinall(greenlets, timeout=PATIENCE, raise_error=True)
    assert all(greenlet.successful() for greenlet in greenlets)
    proxy.resume()
    assert_whole(alias, server)
