"""A middleware that queries, error pages that have something to close, and a file of how requests ended."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.signals import request_finished
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from tests.site.views import connection_number


def _tell(event: str) -> None:
    with Path(os.environ["SITE_EVENTS"]).open("a") as file:
        file.write(event + "\n")


@sync_and_async_middleware
def querying(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Queries where the query string names an error page, as a middleware for sessions does always."""
    request_finished.connect(_finished, dispatch_uid=__name__)
    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            _tell(request.get_full_path())
            if "page" in request.GET:
                await sync_to_async(connection_number)()
            response: HttpResponseBase = await get_response(request)
            return response

        return asynchronous

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        _tell(request.get_full_path())
        if "page" in request.GET:
            connection_number()
        response: HttpResponseBase = get_response(request)
        return response

    return synchronous


def _finished(**kwargs: Any) -> None:
    in_loop = asyncio._get_running_loop() is not None
    _tell("finished in the loop's thread" if in_loop else "finished")


class _File(io.BytesIO):
    def close(self) -> None:
        if not self.closed:
            _tell("closed")
        super().close()


class _Parts:
    """An iterator that would like to be closed."""

    def __iter__(self) -> _Parts:
        return self

    def __next__(self) -> bytes:
        raise StopIteration

    def close(self) -> None:
        _tell("closed")


def error_page(request: HttpRequest) -> HttpResponseBase:
    kind = request.GET["page"]
    if kind == "file":
        return FileResponse(_File(b"sorry"), status=500)
    if kind == "stream":
        return StreamingHttpResponse(_Parts(), status=500)
    return HttpResponse("sorry", status=500)
