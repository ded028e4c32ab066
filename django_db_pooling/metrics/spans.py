"""Checkouts that wait, as spans of OpenTelemetry; needs its API, which the extra ``[opentelemetry]`` installs.

With ``DB_POOL_METRICS = ["opentelemetry"]``, or after ``opentelemetry.start()``: inside of a span that is
recorded, the request's for example, a checkout that waits in the queue or for an opening has a span of its
own, ``db.client.connection.wait``. It is the current one until the checkout is over, so that spans of what is
executed meanwhile (by instrumentations of the driver) are inside of it.

The semantic conventions have a metric for this, ``db.client.connection.wait_time``, and no span. So its name
is that of the metric, and its attributes are those of the database's spans and of connection pools:
https://opentelemetry.io/docs/specs/semconv/db/database-spans/ and
https://opentelemetry.io/docs/specs/semconv/db/database-metrics/#connection-pools.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import Span, StatusCode, Tracer, TracerProvider

from django_db_pooling import __version__
from django_db_pooling.backend import waits
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.log import redact
from django_db_pooling.process.deadline import Deadline

NAME = "db.client.connection.wait"
POOL_NAME = "db.client.connection.pool.name"
# What the conventions have no name for: seconds.
QUEUED = "django_db_pooling.queue_seconds"
CONNECTING = "django_db_pooling.connect_seconds"


def start(tracer_provider: TracerProvider | None = None) -> None:
    """From now on, with this provider, or else the global one, which may be set later."""
    tracer = trace.get_tracer("django_db_pooling", __version__, tracer_provider)
    waits.watchers.append(partial(Wait, tracer))


class Wait:
    """The span of one checkout, if it has one."""

    def __init__(self, tracer: Tracer, wrapper: LeaseHolder, deadline: Deadline) -> None:
        self._tracer = tracer
        self._deadline = deadline
        self._began = time.time_ns() - _nanoseconds_since(deadline)
        self._attributes = partial(_attributes, wrapper.alias, wrapper.vendor, wrapper.settings_dict)
        self._around: context.Context | None = None
        self._span: Span | None = None

    def begin(self) -> None:
        if not trace.get_current_span().is_recording():
            return
        self._around = context.get_current()
        self._span = span = self._tracer.start_span(
            NAME, attributes=self._attributes(), start_time=self._began
        )
        context.attach(trace.set_span_in_context(span))

    def end(self, failure: type[BaseException] | None) -> None:
        span, around = self._span, self._around
        if around is not None:
            # As detach(), which needs what attach() has returned: that may have been interrupted just before.
            context.attach(around)
        if span is None:
            return
        span.set_attributes({QUEUED: self._deadline.queued, CONNECTING: self._deadline.connecting})
        if failure is not None:
            span.set_attribute("error.type", f"{failure.__module__}.{failure.__qualname__}")
            span.set_status(StatusCode.ERROR)
        span.end(self._began + _nanoseconds_since(self._deadline))


def _nanoseconds_since(deadline: Deadline) -> int:
    return int((time.monotonic() - deadline.began) * 1e9)


def _attributes(alias: str, vendor: str, settings_dict: dict[str, Any]) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "db.system.name": vendor,
        POOL_NAME: alias,
        # Either may be a URL.
        "db.namespace": redact(settings_dict["NAME"] or ""),
        "server.address": redact(settings_dict["HOST"] or ""),
    }
    with suppress(TypeError, ValueError):
        found["server.port"] = int(settings_dict["PORT"])
    return {name: value for name, value in found.items() if value}
