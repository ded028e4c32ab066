"""A response with status 503 for requests that got no connection from the pool."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from django_db_pooling.exceptions import PoolTimeout

# Attribute of a request: a PoolTimeout that an inner middleware has turned into an error page.
_ATTRIBUTE = "_pool_timeout"


class PoolTimeoutMiddleware:
    """Turns ``PoolTimeout`` into a response with status 503 and a ``Retry-After`` header (seconds).

    Put it first in ``MIDDLEWARE``, so that it covers the others. A subclass may override ``retry_after`` and
    ``response()``. A streaming response that has already begun can't be replaced: it just ends.
    """

    sync_capable = True
    async_capable = True
    retry_after = 5

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        got_request_exception.connect(_remember, dispatch_uid=__name__)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._acall(request)
        return self._replaced(request, self.get_response(request))

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        return self._replaced(request, await self.get_response(request))

    def _replaced(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        error: PoolTimeout | None = getattr(request, _ATTRIBUTE, None)
        if error is None:
            return response
        replacement = self.response(request, error)
        # To be closed with the new response. Its own close() would send request_finished too early.
        replacement._resource_closers += response._resource_closers  # type: ignore[attr-defined]
        return replacement

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        return self.response(request, exception) if isinstance(exception, PoolTimeout) else None

    def response(self, request: HttpRequest, error: PoolTimeout) -> HttpResponseBase:
        """The response to a request that got no connection."""
        return HttpResponse(
            "The service is busy. Please try again in a moment.\n",
            status=503,
            content_type="text/plain; charset=utf-8",
            headers={"Retry-After": str(self.retry_after)},
        )


def _remember(request: HttpRequest | None = None, **kwargs: Any) -> None:
    error = sys.exc_info()[1]
    if request is not None and isinstance(error, PoolTimeout):
        setattr(request, _ATTRIBUTE, error)
