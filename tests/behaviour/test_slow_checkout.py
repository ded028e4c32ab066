"""POOL["SLOW_CHECKOUT"]: what the log tells of checkouts that take long, and the spans of those that wait."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core import signals
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, connections
from django.db.backends.signals import connection_created
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from django_db_pooling import pooling
from django_db_pooling.backend import waits
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.metrics import spans
from django_db_pooling.pool import journal
from django_db_pooling.process import housekeeper
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    MYSQL,
    PATIENCE,
    another_alias,
    assert_whole,
    eventually,
    held,
    in_thread,
    in_threads,
    one,
    sql,
    token,
)
from tests.behaviour.test_log import only, told
from tests.concurrency import in_threads as in_plain_threads
from tests.proxy import TcpProxy
from tests.servers import free_port

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")

SLOW = 0.3
# Until whoever is waited for goes on.
LONG = 2 * SLOW


@pytest.fixture(autouse=True)
def quick_housekeeper(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(housekeeper, "TICK", 0.02)
    caplog.set_level(logging.INFO, "django_db_pooling")


@contextmanager
def pool(most: int, **options: Any) -> Iterator[str]:
    """An alias with so many connections, for whose checkouts SLOW seconds are long."""
    with another_alias(POOL={"SLOW_CHECKOUT": SLOW, **options}) as alias:
        pooling.set_pool_size(most, max_outstanding=most, timeout=5, alias=alias)
        yield alias


def at(path: str, work: Callable[[], Any]) -> Callable[[], Any]:
    """As a request for this path, in a thread of its own."""

    def handle() -> Any:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
        signals.request_started.send(sender=None, environ=environ)
        try:
            return work()
        finally:
            signals.request_finished.send(sender=None)

    return handle


def queue_up(alias: str, path: str = "/waits", seconds: float = LONG) -> None:
    """A request waits for so long for the only connection, which another one holds: taken in line TAKEN."""

    def hold() -> None:
        connections[alias].ensure_connection()
        eventually(lambda: pooling.stats(alias).waiting == 1)
        time.sleep(seconds)

    def wait() -> None:
        eventually(lambda: pooling.stats(alias).in_use == 1)
        token(alias)

    in_plain_threads([at("/holds", hold), at(path, wait)])


TAKEN = inspect.getsourcelines(queue_up)[1] + 4


# -- the log --------------------------------------------------------------------------------------


def test_who_waits_in_the_queue_and_who_holds_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    with pool(1, LEAK_THRESHOLD=60) as alias:
        queue_up(alias)
        record = only(caplog, alias, "slow")
    assert record["levelname"] == "WARNING"
    assert record["pool_request"] == "GET /waits"
    assert SLOW <= record["pool_queue_seconds"] <= record["pool_seconds"]
    assert record["pool_connect_seconds"] == 0
    assert record["pool_check_seconds"] < SLOW
    # As it was while it waited, and not after that.
    assert (record["pool_in_use"], record["pool_waiting"], record["pool_max_outstanding"]) == (1, 1, 1)
    assert record["pool_holders"].endswith(f"taken at {Path(__file__)}:{TAKEN}")
    assert " s by GET /holds in thread " in record["pool_holders"]
    assert SLOW <= float(record["pool_holders"].partition(" s")[0]) <= record["pool_seconds"] + 1
    for part in ("slow checkout of GET /waits", "1 in use, 1 waiting", record["pool_holders"]):
        assert part in record["message"]


def test_a_pause_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with pool(1) as alias:
        pooling.pause(alias, LONG)
        in_thread(lambda: token(alias))
        record = only(caplog, alias, "slow")
        assert record["message"].endswith("held longest: nobody. The pool is paused, for 0 s more.")
    with pool(1, HOST_LIMIT=1) as alias:
        queue_up(alias)
        assert "HOST_LIMIT 1" in only(caplog, alias, "slow")["message"]


def test_those_who_hold_for_longest_come_first_and_are_few(caplog: pytest.LogCaptureFixture) -> None:
    with pool(5) as alias:

        def hold(number: int) -> None:
            eventually(lambda: pooling.stats(alias).in_use == number)
            one(alias)
            eventually(lambda: told(caplog, alias, "slow") or pooling.stats(alias).waiting)
            time.sleep(LONG)

        def wait() -> None:
            eventually(lambda: pooling.stats(alias).in_use == 5)
            token(alias)

        holders = [at(f"/{number}", lambda number=number: hold(number)) for number in range(5)]
        in_plain_threads([*holders, at("/waits", wait)])
        told_of = only(caplog, alias, "slow")["pool_holders"]
    assert [part.split()[4] for part in told_of.split("; ")] == ["/0", "/1", "/2"]


def test_an_opening_that_takes_long(caplog: pytest.LogCaptureFixture) -> None:
    with pool(2) as alias:

        def dawdle(sender: Any, connection: Any, **kwargs: Any) -> None:
            if connection.alias == alias:
                time.sleep(LONG)

        connection_created.connect(dawdle)
        try:
            in_plain_threads([at("/opens", lambda: one(alias))])
        finally:
            connection_created.disconnect(dawdle)
        record = only(caplog, alias, "slow")
    assert record["pool_request"] == "GET /opens"
    assert SLOW <= record["pool_connect_seconds"] <= record["pool_seconds"]
    assert record["pool_queue_seconds"] < SLOW
    # Not the one that it has got itself.
    assert record["pool_holders"] == "nobody"


# It waits in C code, and the proxy is a greenlet.
@pytest.mark.never("mysqlclient", "gevent")
@servers
def test_a_question_that_takes_long(caplog: pytest.LogCaptureFixture) -> None:
    settings = connection.settings_dict
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        another_alias(
            HOST=proxy.host, PORT=str(proxy.port), CONN_HEALTH_CHECKS=True, POOL={"SLOW_CHECKOUT": SLOW}
        ) as alias,
    ):
        one(alias)
        connections[alias].close()
        proxy.delay(LONG)
        one(alias)
        proxy.resume()
        record = only(caplog, alias, "slow")
    assert SLOW <= record["pool_check_seconds"] <= record["pool_seconds"]
    assert record["pool_queue_seconds"] == record["pool_connect_seconds"] == 0


@servers
def test_one_that_fails_is_told_of_but_a_timeout_only_once(caplog: pytest.LogCaptureFixture) -> None:
    with another_alias(PORT=str(free_port()), POOL={"SLOW_CHECKOUT": SLOW, "CONNECT_RETRY": LONG}) as alias:
        with pytest.raises(OperationalError):
            in_thread(lambda: one(alias))
        assert only(caplog, alias, "slow")["pool_check_seconds"] < SLOW
    with pool(1) as alias, held(1, alias):
        pooling.set_pool_size(1, max_outstanding=1, timeout=LONG, alias=alias)
        with pytest.raises(PoolTimeout):
            in_thread(lambda: one(alias))
        assert only(caplog, alias, "timeout")["pool_seconds"] >= LONG
        assert not told(caplog, alias, "slow")


@pytest.mark.only("gevent")
def test_one_that_is_given_up_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    import gevent

    with pool(1) as alias:
        with held(1, alias), pytest.raises(gevent.Timeout), gevent.Timeout(LONG):
            one(alias)
        assert only(caplog, alias, "slow")["pool_queue_seconds"] >= SLOW
        assert_whole(alias)


def test_those_that_take_no_time_are_not_told_of_and_none_where_it_is_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pool(1) as alias:
        in_threads([lambda: one(alias)] * 5)
        for _ in range(5):
            one(alias)
            connections[alias].close()
        connections[alias].close()
        queue_up(alias, seconds=0)
        time.sleep(0.1)
        assert not told(caplog, alias, "slow")
    with pool(1, SLOW_CHECKOUT=None) as alias:
        queue_up(alias)
        time.sleep(0.1)
        assert not told(caplog, alias, "slow")
        assert registry.pools(alias)[0].queue.looks._latest is None


def test_a_storm_is_one_line_and_one_look(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "QUIET", 3.0)
    looks = []
    with pool(1) as alias:
        one(alias)
        connections[alias].close()
        counted = registry.pools(alias)[0].queue.looks
        look = counted._look
        monkeypatch.setattr(counted, "_look", lambda own: looks.append(own) or look(own))
        with held(1, alias) as let_go:

            def end_it() -> None:
                eventually(lambda: pooling.stats(alias).waiting == 20)
                time.sleep(LONG)
                let_go()

            in_threads([end_it, *[lambda: token(alias)] * 20])
        eventually(lambda: len(told(caplog, alias, "slow")) == 2)
        first, second = told(caplog, alias, "slow")
    assert first.get("pool_suppressed", 0) + second["pool_suppressed"] == 18
    # Who came a moment later may have looked once more.
    assert 1 <= len(looks) <= 3


def test_no_password_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with pool(1) as alias:
        queue_up(alias, "/login?password=c4n4ry\n")
        record = only(caplog, alias, "slow")
    assert "c4n4ry" not in repr(record)
    assert "\n" not in record["message"]


@pytest.mark.parametrize("value", [-1, "1", True])
def test_a_bad_value_is_an_error_that_names_the_key(value: Any) -> None:
    with another_alias(POOL={"SLOW_CHECKOUT": value}) as alias:
        with pytest.raises(ImproperlyConfigured, match="'SLOW_CHECKOUT'.*seconds, 0 or more, or None"):
            one(alias)
        connections.settings[alias]["POOL"] = {}


# -- spans ----------------------------------------------------------------------------------------


class Spans:
    """What a site's tracing records."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = self.provider.get_tracer("the site")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def traced(self, work: Callable[[], Any], name: str = "request") -> Callable[[], Any]:
        """Inside of a span, which is the current one again afterwards."""

        def run() -> Any:
            with self.tracer.start_as_current_span(name) as span:
                try:
                    return work()
                finally:
                    assert trace.get_current_span() is span

        return run


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    monkeypatch.setattr(waits, "watchers", [])
    found = Spans()
    spans.start(found.provider)
    yield found
    found.provider.shutdown()


def contains(outer: ReadableSpan, inner: ReadableSpan) -> bool:
    assert outer.context is not None and inner.parent is not None
    return inner.parent.span_id == outer.context.span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def nanoseconds(span: ReadableSpan) -> int:
    assert span.start_time is not None and span.end_time is not None
    return span.end_time - span.start_time


def wait_for_one(alias: str, work: Callable[[], Any], seconds: float = LONG) -> None:
    """While another thread holds the only connection for so long."""
    with held(1, alias) as let_go:

        def end_it() -> None:
            eventually(lambda: pooling.stats(alias).waiting == 1)
            time.sleep(seconds)
            let_go()

        in_threads([end_it, work])


def test_a_wait_in_the_queue_is_a_span_inside_of_the_request_s(tracing: Spans) -> None:
    with pool(1) as alias:
        wait_for_one(alias, tracing.traced(lambda: token(alias)))
        [wait], [request] = tracing.named(spans.NAME), tracing.named("request")
        found = attributes(wait)
    assert contains(request, wait)
    assert request.start_time <= wait.start_time <= wait.end_time <= request.end_time  # type: ignore[operator]
    assert nanoseconds(wait) >= LONG * 0.9e9
    assert wait.kind is SpanKind.INTERNAL
    assert wait.status.status_code is StatusCode.UNSET
    assert found["db.client.connection.pool.name"] == alias
    assert found["db.system.name"] == connection.vendor
    settings = connection.settings_dict
    assert found["db.namespace"] == settings["NAME"]
    assert found.get("server.address", "") == settings["HOST"]
    assert str(found.get("server.port", "")) == settings["PORT"]
    assert found[spans.QUEUED] == pytest.approx(nanoseconds(wait) / 1e9, abs=0.2)
    assert found[spans.CONNECTING] == 0


def test_what_an_opening_executes_is_inside_of_it(tracing: Spans) -> None:
    def initialise(sender: Any, connection: Any, **kwargs: Any) -> None:
        tracing.traced(lambda: one(connection.alias), "init")()

    with pool(1) as alias:
        connection_created.connect(initialise)
        try:
            in_thread(tracing.traced(lambda: one(alias)))
        finally:
            connection_created.disconnect(initialise)
    [wait], [request], [init] = map(tracing.named, (spans.NAME, "request", "init"))
    assert contains(request, wait)
    assert contains(wait, init)
    assert attributes(wait)[spans.CONNECTING] >= nanoseconds(init) / 1e9


@pytest.mark.only("pymysql", "psycopg")
def test_a_reset_after_a_wait_is_inside_of_it(tracing: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(1) as alias:
        sql("SET @mine = 1" if MYSQL else "SET my.own = '1'", using=alias)
        driver = type(registry.pools(alias)[0].driver)
        reset = driver.reset

        def instrumented(*arguments: Any) -> Any:
            return tracing.traced(lambda: reset(*arguments), "reset")()

        monkeypatch.setattr(driver, "reset", instrumented)
        waiting = threading.Thread(target=tracing.traced(lambda: token(alias)))
        waiting.start()
        eventually(lambda: pooling.stats(alias).waiting == 1)
        # As the end of a greenlet leaves it: whoever has it next resets it.
        connections[alias].abandon()
        waiting.join(PATIENCE)
    [wait], [request], [reset_span] = map(tracing.named, (spans.NAME, "request", "reset"))
    assert contains(request, wait)
    assert contains(wait, reset_span)


def test_what_does_not_wait_has_none(tracing: Spans) -> None:
    with pool(1) as alias:
        one(alias)
        connections[alias].close()
        in_thread(tracing.traced(lambda: token(alias)))
        connections.settings[alias]["CONN_HEALTH_CHECKS"] = True
        in_thread(lambda: token(alias))
        in_thread(tracing.traced(lambda: token(alias)))
        assert not tracing.named(spans.NAME)


def test_nor_has_what_is_not_traced(tracing: Spans) -> None:
    with pool(1) as alias:
        wait_for_one(alias, lambda: token(alias), seconds=0)
        assert not tracing.named(spans.NAME)


def test_one_that_fails_is_an_error(tracing: Spans) -> None:
    with pool(1) as alias:
        pooling.set_pool_size(1, max_outstanding=1, timeout=SLOW, alias=alias)
        with held(1, alias), pytest.raises(PoolTimeout):
            in_thread(tracing.traced(lambda: one(alias)))
        [wait] = tracing.named(spans.NAME)
    assert wait.status.status_code is StatusCode.ERROR
    assert attributes(wait)["error.type"] == "django_db_pooling.exceptions.PoolTimeout"
    assert nanoseconds(wait) >= SLOW * 0.9e9


@pytest.mark.only("gevent")
def test_one_that_is_given_up_ends_all_the_same(tracing: Spans) -> None:
    import gevent

    def give_up() -> None:
        with pytest.raises(gevent.Timeout), gevent.Timeout(SLOW):
            one(alias)

    with pool(1) as alias:
        with held(1, alias):
            tracing.traced(give_up)()
        [wait] = tracing.named(spans.NAME)
        assert attributes(wait)["error.type"] == "gevent.timeout.Timeout"
        assert_whole(alias)


class LeavesOut(Sampler):
    """It samples all but one name."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *rest: Any, **more: Any) -> Any:
        return SamplingResult(Decision.DROP if name == spans.NAME else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "all but waits"


def test_one_that_is_sampled_out_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "watchers", [])
    tracing = Spans(LeavesOut())
    spans.start(tracing.provider)

    def initialise(sender: Any, connection: Any, **kwargs: Any) -> None:
        tracing.traced(lambda: one(connection.alias), "init")()

    with pool(1) as alias:
        connection_created.connect(initialise)
        try:
            in_thread(tracing.traced(lambda: one(alias)))
        finally:
            connection_created.disconnect(initialise)
    [request], [init] = tracing.named("request"), tracing.named("init")
    assert contains(request, init)


def test_one_that_can_not_watch_is_no_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __init__(self, *arguments: Any) -> None: ...

        def begin(self) -> None:
            raise RuntimeError

        def end(self, failure: Any) -> None:
            raise RuntimeError

    def fails(*arguments: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(waits, "watchers", [fails, Broken])
    with pool(1) as alias:
        in_threads([lambda: token(alias)] * 3)
        assert_whole(alias)
