"""What only watches never raises; its failures are logged once, later."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from django_db_pooling import log
from django_db_pooling.log import redact, safe_label
from django_db_pooling.pool import histogram as histogram_module
from django_db_pooling.pool.histogram import Histogram
from django_db_pooling.pool.holders import Holding
from django_db_pooling.pool.journal import Journal
from django_db_pooling.process.observers import observers
from tests.concurrency import in_child
from tests.unit.fakes import FakePool


class Ours(Exception):
    pass


def fails(*arguments: Any) -> Any:
    raise Ours("password=s3cret")


@pytest.fixture(autouse=True)
def new_observers() -> Iterator[None]:
    observers.every_second()
    observers.tasks._failing.clear()
    yield
    observers._failures.clear()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    observers.every_second()
    tasks = [record.__dict__["pool_task"] for record in caplog.records]
    caplog.clear()
    return tasks


def fail(doing: str) -> None:
    try:
        fails()
    except Exception as error:
        observers.failed(doing, error)


def test_a_failure_is_logged_later_and_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        fail("looking")
        fail("counting")
    assert caplog.records == []
    assert told(caplog) == ["looking", "counting"]
    fail("looking")
    assert told(caplog) == []
    assert "s3cret" not in caplog.text


def test_a_child_logs_its_own(caplog: pytest.LogCaptureFixture) -> None:
    fail("looking")

    def child() -> int:
        observers.every_second()
        before = len(caplog.records)
        fail("looking")
        observers.every_second()
        return 10 * before + len(caplog.records)

    assert in_child(child, os.fork) == 1
    assert told(caplog) == ["looking"]


def test_a_filter_that_raises_keeps_nothing_from_being_done() -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise Ours

    log.logger.addFilter(refuse)
    try:
        fail("looking")
        observers.every_second()
        journal = Journal("default")
        journal.note("recycled")
        journal.note("retired")
        journal.write()
        assert not journal.is_pending
    finally:
        log.logger.removeFilter(refuse)


def test_what_counts_does_not_raise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(histogram_module, "bisect_left", fails)
    counted = Histogram()
    counted.observe(1.0)
    assert told(caplog) == ["counting"]
    pool = FakePool(size=1, max_outstanding=1)
    for durations in (pool.counts.waits, pool.counts.helds, pool.counts.connects):
        durations.buckets = ()  # type: ignore[assignment]
    slot = pool.take_now()
    pool.give(slot)
    assert pool.take_now() is slot


def test_what_notes_does_not_raise(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal("default")
    journal.note("no such event")
    journal.trouble("no such event", "error")
    assert told(caplog) == ["noting for the log"]


class Unprintable:
    def __str__(self) -> str:
        raise Ours


def test_labels_do_not_raise() -> None:
    assert redact(Unprintable()) == "Unprintable"
    assert safe_label(None) == "?"  # type: ignore[arg-type]


def at_the_end_of_the_stack(depth: int, function: Any) -> Any:
    return function() if depth == 0 else at_the_end_of_the_stack(depth - 1, function)


def test_labels_do_not_raise_where_the_stack_is_at_its_end() -> None:
    """Whatever depth is left to them, some is needed for the call itself."""
    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1  # type: ignore[assignment]
    found = set()
    for left in range(3, 40):
        depth = sys.getrecursionlimit() - used - left
        try:
            found.add(at_the_end_of_the_stack(depth, lambda: redact("password=s3cret" + "\x00" * 3000)))
        except RecursionError:
            assert left < 12
    assert found >= {"?"}
    assert not any("s3cret" in text for text in found)


def test_who_holds_a_connection_is_told_wherever_it_was_taken() -> None:
    taken = eval("take()", {"__name__": Unprintable(), "take": lambda: Holding("me", sys._getframe())})
    assert str(taken).startswith("me, taken at ")


class TimeIsUp(Exception):
    pass


class Handler:
    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    def method(self, number: int, frame: FrameType | None) -> None:
        raise TimeIsUp


def function(number: int, frame: FrameType | None) -> None:
    fails_with_time()


def fails_with_time() -> None:
    raise TimeIsUp


@pytest.mark.parametrize("handler", [function, Handler(), Handler().method])
def test_what_a_signals_handler_raises_goes_on(handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Struck:
        def __str__(self) -> str:
            os.kill(os.getpid(), signal.SIGUSR1)
            return "never"

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(TimeIsUp):
            redact(Struck())
        with pytest.raises(TimeIsUp):
            try:
                str(Struck())
            except Exception as error:
                observers.failed("looking", error)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert told(caplog) == []


def test_metrics_of_others_do_not_depend_on_ours(caplog: pytest.LogCaptureFixture) -> None:
    prometheus_client = pytest.importorskip("prometheus_client")
    from django_db_pooling.metrics.prometheus import PoolCollector

    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("theirs", "", registry=registry).inc()
    registry.register(PoolCollector(fails))
    assert b"theirs_total 1.0" in prometheus_client.generate_latest(registry)
    assert told(caplog) == ["collecting metrics"]
