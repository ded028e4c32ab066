"""Ways of using the database in async views. Parameters ``s`` are seconds, ``t`` is the client's token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from threading import Barrier
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.db.models import Value
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from django_db_pooling import pooling
from tests.site.models import Row
from tests.site.views import connection_number, sleep_in_database, tokens

AT_ONCE = 5

T = TypeVar("T")

_tasks: set[asyncio.Task[None]] = set()


def _answer(seen: set[str]) -> HttpResponse:
    return HttpResponse(" ".join(sorted(seen)))


async def orm(request: HttpRequest) -> HttpResponse:
    """The ORM's async methods and async iteration, each with the token in its rows."""
    rows = Row.objects.annotate(token=Value(request.GET["t"]))
    seen = {(await rows.aget(pk=1)).token}
    assert await rows.acount() == len([row async for row in rows])
    seen |= {row.token async for row in rows.filter(pk__gt=10)}
    return _answer(seen)


async def token(request: HttpRequest) -> HttpResponse:
    """Sync code of the request, with other requests' code in between."""
    seen = await sync_to_async(tokens)(request.GET["t"])
    await asyncio.sleep(0.01)
    return _answer(seen | await sync_to_async(tokens)(request.GET["t"]))


async def gather(request: HttpRequest) -> HttpResponse:
    """Several queries at the same time; each has a token of its own, which is cut off here."""
    mine = [f"{request.GET['t']} {number}" for number in range(AT_ONCE)]
    answers = await asyncio.gather(*(sync_to_async(tokens)(one) for one in mine))
    assert answers == [{one} for one in mine], answers
    return _answer({one.rpartition(" ")[0] for seen in answers for one in seen})


async def deadline(request: HttpRequest) -> HttpResponse:
    """The view loses patience with a statement and goes on with another one."""
    with suppress(TimeoutError):
        await asyncio.wait_for(sync_to_async(sleep_in_database)(0.2), timeout=0.05)
    return _answer(await sync_to_async(tokens)(request.GET["t"]))


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    """A long answer that is made while it is sent, ``s`` seconds apart, with queries in between.

    ``fail``: an error in the middle of it.
    """
    rows = Row.objects.annotate(token=Value(request.GET["t"]))

    async def parts() -> AsyncIterator[str]:
        async for row in rows.aiterator(chunk_size=5):
            yield row.token + "\n"
            await asyncio.sleep(float(request.GET["s"]))
            assert "fail" not in request.GET
        async for row in rows:
            yield row.token + "\n"

    return StreamingHttpResponse(parts())


async def sleep(request: HttpRequest) -> HttpResponse:
    """One statement that takes the server a while."""
    await sync_to_async(sleep_in_database)(float(request.GET["s"]))
    return HttpResponse("slept")


async def background(request: HttpRequest) -> HttpResponse:
    """A task that outlives its request queries when that is over, and waits for what it will do next."""

    async def work() -> None:
        await asyncio.sleep(0.2)
        await sync_to_async(pooling.scope()(connection_number))()
        # As long as it is there, so is its thread.
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return HttpResponse("begun")


async def to_thread(request: HttpRequest) -> HttpResponse:
    """A query in ``n`` threads at once of the event loop's executor: they never end.

    The answer is the server's numbers of the connections, in ascending order.
    """
    scope = request.GET["scope"]
    work = connection_number if scope == "none" else pooling.scope(scope)(connection_number)
    numbers = await in_threads(int(request.GET["n"]), work)
    return HttpResponse(" ".join(map(str, sorted(numbers))))


async def in_threads(count: int, work: Callable[[], T]) -> list[T]:
    """The results of so many different threads: each waits until all have begun."""
    all_have_begun = Barrier(count)

    def begin() -> T:
        all_have_begun.wait()
        return work()

    return await asyncio.gather(*(asyncio.to_thread(begin) for _ in range(count)))
