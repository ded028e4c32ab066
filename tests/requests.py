"""The beginning and the end of a request, as a server would tell them."""

from __future__ import annotations

import threading

from django.core import signals

# A server refers to a request's environ as long as the request lasts.
_environs = threading.local()


def request_started() -> None:
    _environs.current = {"REQUEST_METHOD": "GET", "PATH_INFO": "/test"}
    signals.request_started.send(sender=None, environ=_environs.current)


def request_finished() -> None:
    signals.request_finished.send(sender=None)
    _environs.current = None
