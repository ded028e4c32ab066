"""The spans of checkouts that wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections
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
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    MYSQL,
    PATIENCE,
    assert_whole,
    eventually,
    held,
    in_thread,
    in_threads,
    one,
    sql,
    token,
)
from tests.behaviour.test_slow_checkout import LONG, SLOW, pool, quick_housekeeper  # noqa: F401


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


def open_with_a_statement(tracing: Spans) -> None:
    """In a request, which is a span, a connection is opened; what that executes is the span "init"."""

    def initialise(sender: Any, connection: Any, **kwargs: Any) -> None:
        tracing.traced(lambda: one(connection.alias), "init")()

    with pool(1) as alias:
        connection_created.connect(initialise)
        try:
            in_thread(tracing.traced(lambda: one(alias)))
        finally:
            connection_created.disconnect(initialise)


def test_what_an_opening_executes_is_inside_of_it(tracing: Spans) -> None:
    open_with_a_statement(tracing)
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
    open_with_a_statement(tracing)
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
