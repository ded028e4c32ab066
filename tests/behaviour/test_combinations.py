"""Each step of a connection's life, each way in which it may come out, each moment for somebody to be killed.

Without real servers, and for each point on the way: tests/unit/test_pool_combinations.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from django.db import Error, connections, transaction

from django_db_pooling import pooling
from django_db_pooling.backend import checkin, errors, opening
from django_db_pooling.pool.slots import Slots
from tests.behaviour.conftest import (
    GEVENT,
    MYSQL,
    PATIENCE,
    another_alias,
    assert_whole,
    eventually,
    one,
    request_finished,
    request_started,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer
from tests.proxy import TcpProxy

# The other drivers wait for a silent server for as long as it takes.
pytestmark = pytest.mark.only("pymysql", "psycopg")

TIMEOUT = 1.5
# For each answer, of which connecting with TLS takes ten: in all less than TIMEOUT.
SLOW = 0.05
# It hasn't ended "by the deadline" when it takes so long: this machine has other things to do.
NEVER = 15.0


class Step(NamedTuple):
    """What a request does before; the method that is the step; whether the request's end brings it about."""

    prepare: Callable[[str], object]
    method: tuple[type[Any], str]
    is_at_the_end: bool


def cold(alias: str) -> None:
    pooling.close_all(alias)


def warm(alias: str) -> None:
    one(alias)
    connections[alias].close()


def dirty(alias: str) -> None:
    sql("SET @mine = 1" if MYSQL else "SET my.own = '1'", using=alias)


def dirty_and_abandoned(alias: str) -> None:
    """Its next taker makes it as new."""
    dirty(alias)
    connections[alias].abandon()


def recycled(alias: str) -> None:
    one(alias)
    pooling.recycle(alias)


def left_open(alias: str) -> None:
    transaction.set_autocommit(False, using=alias)
    Note.objects.using(alias).create(text="never")


STEPS = {
    "open": Step(cold, (opening, "open_once"), False),
    "check": Step(warm, (errors, "is_usable"), False),
    "reset at checkout": Step(dirty_and_abandoned, (checkin, "reset_session"), False),
    "reset at the end": Step(dirty, (checkin, "reset_session"), True),
    "roll back": Step(left_open, (checkin, "roll_back"), True),
    "close": Step(recycled, (Slots, "close"), True),
}


class Scene:
    """One place, one request that comes to the step, and one behind it that waits for the place."""

    def __init__(self, alias: str, proxy: TcpProxy, step: Step, outcome: str, cancelled: str | None) -> None:
        self.alias, self.proxy = alias, proxy
        self.step, self.outcome, self.cancelled = step, outcome, cancelled
        self.arrived = self.left = False
        self.results: dict[str, BaseException | None] = {}
        self.threads: dict[str, Any] = {}

    def arrive(self) -> None:
        """Called where the step begins, for the first time."""
        self.arrived = True
        self.begin("waiter", self.request)
        eventually(lambda: pooling.stats(self.alias).waiting == 1)
        if self.cancelled == "waiting":
            self.cancel("waiter")
        if self.outcome == "slow":
            self.proxy.delay(SLOW)
        elif self.outcome in ("error", "never"):
            self.proxy.deaf()
        if self.outcome == "error":
            # While it waits for the answer.
            self.begin("cutter", self.cut)
        if self.cancelled == "running":
            # It strikes at the first switch from here on, or in the middle.
            self.cancel("first", SLOW / 2 if self.outcome in ("slow", "never") else None)

    def cut(self) -> None:
        time.sleep(SLOW)
        self.proxy.drop()
        self.proxy.resume()

    def cancel(self, name: str, seconds: float | None = None) -> None:
        import gevent

        victim = self.threads[name]
        if seconds is None:
            victim.kill(block=False)
        else:
            gevent.spawn_later(seconds, victim.kill)

    def first_request(self) -> None:
        request_started()
        try:
            self.step.prepare(self.alias)
            self.armed = True
            if not self.step.is_at_the_end:
                token(self.alias)
        finally:
            request_finished()

    def request(self) -> None:
        request_started()
        try:
            token(self.alias)
        finally:
            request_finished()

    armed = False

    def begin(self, name: str, function: Callable[[], object]) -> None:
        def run() -> None:
            self.results[name] = None
            try:
                function()
            except BaseException as error:
                error.__traceback__ = None
                self.results[name] = error

        if GEVENT:
            import gevent

            self.threads[name] = gevent.spawn(run)
        else:
            self.threads[name] = threading.Thread(target=run, daemon=True)
            self.threads[name].start()

    def join(self) -> None:
        for name in ("first", "waiter", "cutter"):
            if name in self.threads:
                self.threads[name].join(NEVER)
                dead = self.threads[name].dead if GEVENT else not self.threads[name].is_alive()
                assert dead, f"{name} hangs"


@pytest.fixture
def proxied() -> Iterator[tuple[str, TcpProxy]]:
    settings = connections.settings["default"]
    pool = {"SIZE": 1, "MAX_OUTSTANDING": 1, "TIMEOUT": TIMEOUT, "CONNECT_RETRY": 0.5}
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(HOST=proxy.host, PORT=str(proxy.port), POOL=pool, CONN_HEALTH_CHECKS=True) as alias,
    ):
        pooling.set_pool_size(1, max_outstanding=1, timeout=TIMEOUT, alias=alias)
        yield alias, proxy
        proxy.resume()


@pytest.mark.parametrize("cancelled", [None, *(["waiting", "running"] if GEVENT else [])])
@pytest.mark.parametrize("outcome", ["ok", "error", "slow", "never"])
@pytest.mark.parametrize("step", STEPS)
def test_slots_are_exact(
    step: str,
    outcome: str,
    cancelled: str | None,
    proxied: tuple[str, TcpProxy],
    observer: Observer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody hangs, whoever isn't hit is served, and the only place can be had afterwards."""
    alias, proxy = proxied
    warm(alias)
    scene = Scene(alias, proxy, STEPS[step], outcome, cancelled)
    where, name = scene.step.method
    method = getattr(where, name)

    def arriving(*args: Any, **kwargs: Any) -> Any:
        if scene.armed and not scene.arrived:
            scene.arrive()
        return method(*args, **kwargs)

    monkeypatch.setattr(where, name, arriving)
    scene.begin("first", scene.first_request)
    scene.join()
    proxy.resume()
    assert scene.arrived
    for name, error in scene.results.items():
        assert error is None or isinstance(error, Error) or cancelled, (name, error)
    if outcome in ("ok", "slow"):
        hit = {"waiting": "waiter", "running": "first"}.get(cancelled or "")
        assert all(error is None for who, error in scene.results.items() if who != hit), scene.results
    stats = pooling.stats(alias)
    assert (stats.in_use, stats.opening, stats.waiting) == (0, 0, 0)
    token(alias)
    assert_whole(alias)
    connections[alias].close()
    connections["default"].close()
    assert pooling.close_all("default", timeout=PATIENCE)
    eventually(lambda: observer.count() == pooling.stats(alias).idle)
    assert not Note.objects.exists()
