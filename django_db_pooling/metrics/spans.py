"""Checkouts that wait, as spans of OpenTelemetry; needs its API, as ``opentelemetry.py``, which starts this.

Inside of a span that is recorded, the request's for example, a checkout that waits in the queue or for an
opening has one of its own, ``db.client.connection.wait``. It is the current one until the checkout is over,
so that spans of what the pool executes meanwhile (by instrumentations of the driver) are inside of it.

The semantic conventions have a metric for this wait, ``db.client.connection.wait_time``, and no span. So the
name comes from the metric, and the attributes are those of the database's spans and of connection pools:
https://opentelemetry.io/docs/specs/semconv/db/database-spans/ and
https://opentelemetry.io/docs/specs/semconv/db/database-metrics/#connection-pools. The kind is INTERNAL: it is
no call of the database.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial

from opentelemetry import context, trace
from opentelemetry.trace import Span, StatusCode, Tracer, TracerProvider

from django_db_pooling import __version__
from django_db_pooling.backend import waits
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.log import redact
from django_db_pooling.process.deadline import Deadline

NAME = "db.client.connection.wait"
POOL_NAME = "db.client.connection.pool.name"
# What the conventions have no name for: seconds of it.
QUEUED = "django_db_pooling.queue_seconds"
CONNECTING = "django_db_pooling.connect_seconds"


def start(tracer_provider: TracerProvider | None = None) -> None:
    """From now on, with this provider, or else the global one, which may be set later."""
    tracer = trace.get_tracer("django_db_pooling", __version__, tracer_provider)
    waits.watchers.append(partial(Wait, tracer))


class Wait:
    """Of one checkout."""

    def __init__(self, tracer: Tracer, wrapper: LeaseHolder, deadline: Deadline) -> None:
        self._tracer = tracer
        self._wrapper = wrapper
        self._deadline = deadline
        self._began = time.time_ns() - _nanoseconds_since(deadline)
        self._around: context.Context | None = None
        self._span: Span | None = None

    def begin(self) -> None:
        if not trace.get_current_span().is_recording():
            return
        span = self._tracer.start_span(NAME, attributes=_attributes(self._wrapper), start_time=self._began)
        # Else it was sampled out, alone.
        if span.is_recording():
            self._span, self._around = span, context.get_current()
            context.attach(trace.set_span_in_context(span))

    def end(self, failure: type[BaseException] | None) -> None:
        span, around = self._span, self._around
        if span is None or around is None:
            return
        # As detach(), which needs what attach() has returned: that may have been interrupted just before.
        context.attach(around)
        span.set_attributes({QUEUED: self._deadline.queued, CONNECTING: self._deadline.connecting})
        if failure is not None:
            span.set_attribute("error.type", f"{failure.__module__}.{failure.__qualname__}")
            span.set_status(StatusCode.ERROR)
        span.end(self._began + _nanoseconds_since(self._deadline))


def _nanoseconds_since(deadline: Deadline) -> int:
    return int((time.monotonic() - deadline.began) * 1e9)


def _attributes(wrapper: LeaseHolder) -> dict[str, str | int]:
    settings_dict = wrapper.settings_dict
    found: dict[str, str | int] = {
        "db.system.name": wrapper.vendor,
        POOL_NAME: wrapper.alias,
        # Either may be a URL.
        "db.namespace": redact(settings_dict["NAME"] or ""),
        "server.address": redact(settings_dict["HOST"] or ""),
    }
    with suppress(TypeError, ValueError):
        found["server.port"] = int(settings_dict["PORT"])
    return {name: value for name, value in found.items() if value}
