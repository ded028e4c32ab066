"""Under gevent: who has a connection goes on before others, and nobody is left behind for that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.ldap_manager.conftest import Make, assert_whole, eventually, find, held
from tests.slapd import Slapd

pytestmark = pytest.mark.gevent


def burn(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_the_next_one_has_the_connection_before_the_last_one_goes_on(manager: Make, server: Slapd) -> None:
    import gevent

    one = manager(size=1)
    order: list[str] = []

    def use(name: str) -> None:
        with one.connection() as connection:
            order.append(f"{name} has it")
            find(connection, server)
        order.append(f"{name} goes on")

    with one.connection():
        greenlets = [gevent.spawn(use, name) for name in "abc"]
        eventually(lambda: one.stats().waiting == 3)
    gevent.joinall(greenlets, raise_error=True)
    assert len(order) == 6
    for name, following in ("ab", "bc"):
        assert order.index(f"{following} has it") < order.index(f"{name} goes on"), order


def test_an_answer_is_read_before_those_who_have_just_come_are_through(manager: Make, server: Slapd) -> None:
    """Each of many who come at once has work to do first: gevent would look for answers after all of it."""
    import gevent

    one = manager(size=1, wait_timeout=20.0)
    read: list[float] = []

    def first() -> None:
        with one.connection() as connection:
            find(connection, server)
            read.append(time.perf_counter())

    def later() -> None:
        burn(0.005)
        with one.connection():
            pass

    with one.connection():
        pass
    began = time.perf_counter()
    greenlets = [gevent.spawn(first), *(gevent.spawn(later) for _ in range(40))]
    gevent.joinall(greenlets, raise_error=True)
    # All of them together take 0.2 s.
    assert read[0] - began < 0.1
    assert_whole(one, server)


@pytest.mark.parametrize("how", ["kill", "Timeout"])
def test_who_is_interrupted_while_it_waits_for_its_turn_is_woken_by_nobody_else(
    how: str, manager: Make, server: Slapd
) -> None:
    import gevent

    two = manager(wait_timeout=20.0)
    woken: list[str] = []

    def use(number: int) -> None:
        try:
            for _ in range(20):
                with two.connection() as connection:
                    assert find(connection, server, f"(uid=user{number:03})") == [server.user_dn(number)]
        finally:
            # Nothing may end this sleep early.
            began = time.monotonic()
            gevent.sleep(0.05)
            woken.append("early" if time.monotonic() - began < 0.045 else "in time")

    def interrupted(number: int) -> None:
        with gevent.Timeout(0.002 * (number % 7 + 1), False):
            use(number)

    target: Callable[..., Any] = interrupted if how == "Timeout" else use
    greenlets = [gevent.spawn(target, number) for number in range(30)]
    if how == "kill":
        for number, greenlet in enumerate(greenlets):
            gevent.sleep(0.001)
            if number % 2:
                greenlet.kill(block=False)
    gevent.joinall(greenlets)
    assert set(woken) == {"in time"} and len(woken) >= 25
    assert_whole(two, server)


def test_a_hub_that_is_busy_with_searches_still_does_everything_else(manager: Make, server: Slapd) -> None:
    import gevent

    four = manager(size=4, wait_timeout=20.0)
    ticks: list[float] = []
    over: list[bool] = []

    def tick() -> None:
        while not over:
            ticks.append(time.monotonic())
            gevent.sleep(0.005)

    def use() -> None:
        for _ in range(25):
            with four.connection() as connection:
                find(connection, server)

    ticker = gevent.spawn(tick)
    gevent.joinall([gevent.spawn(use) for _ in range(40)], raise_error=True)
    over.append(True)
    ticker.join()
    assert max(after - before for before, after in zip(ticks, ticks[1:], strict=False)) < 0.25
    with held(four, 4):
        pass
