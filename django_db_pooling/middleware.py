"""Answers for requests that the pool had no connection for."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from django_db_pooling.exceptions import PoolTimeout

# Attribute of a request: a PoolTimeout that became an error page further in, in another middleware.
_NOTED = "_pool_timeout"


class PoolTimeoutMiddleware:
    """Turns ``PoolTimeout`` into a response with status 503 and a ``Retry-After`` header (seconds).

    First in ``MIDDLEWARE``, so that it covers the others. A subclass may have another ``retry_after`` or
    make another ``response()``. Responses that stream have begun before they could time out: these end.
    """

    sync_capable = True
    async_capable = True
    retry_after = 5

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        got_request_exception.connect(_note, dispatch_uid=__name__)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._acall(request)
        return self._checked(request, self.get_response(request))

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        return self._checked(request, await self.get_response(request))

    def _checked(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        error: PoolTimeout | None = getattr(request, _NOTED, None)
        if error is None:
            return response
        replacement = self.response(request, error)
        # Closed with this one: its own close() would say that the request has ended.
        replacement._resource_closers += response._resource_closers  # type: ignore[attr-defined]
        return replacement

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        return self.response(request, exception) if isinstance(exception, PoolTimeout) else None

    def response(self, request: HttpRequest, error: PoolTimeout) -> HttpResponseBase:
        """The answer to a request that the pool had no connection for."""
        return HttpResponse(
            "The service is busy. Please try again in a moment.\n",
            status=503,
            content_type="text/plain; charset=utf-8",
            headers={"Retry-After": str(self.retry_after)},
        )


def _note(request: HttpRequest | None = None, **kwargs: Any) -> None:
    error = sys.exc_info()[1]
    if request is not None and isinstance(error, PoolTimeout):
        setattr(request, _NOTED, error)
