from __future__ import annotations

import asyncio
from typing import Any

from channels.consumer import AsyncConsumer
from channels.db import aclose_old_connections, database_sync_to_async
from channels.generic.http import AsyncHttpConsumer
from django.db import connection, models, transaction

urlpatterns: list[Any] = []


class Item(models.Model):
    name = models.CharField(max_length=50)


def write(name: str) -> int:
    with transaction.atomic():
        Item.objects.create(name=name)
    return Item.objects.filter(name=name).count()


def fail(name: str) -> None:
    with transaction.atomic():
        Item.objects.create(name=name)
        raise ValueError(name)


def temporary(name: str) -> Any:
    """A temporary table is of one session, and of one visitor."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE mine (a INTEGER)")
        cursor.execute("SELECT count(*) FROM mine")
        told = cursor.fetchone()
        cursor.execute("DROP TABLE mine")
    return told


class Page(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        name = self.scope["path"].strip("/")
        count = await database_sync_to_async(write)(name)
        names = [item.name async for item in Item.objects.filter(name=name)]
        await aclose_old_connections()
        await self.send_response(200, f"{count} {names}".encode())


class Worker(AsyncConsumer):
    async def do_work(self, message: dict[str, Any]) -> None:
        await database_sync_to_async(write, thread_sensitive=False)(message["name"])
        await self.send({"type": "done", "name": message["name"]})


async def _get(name: str) -> Any:
    """One request, as an ASGI server makes it."""
    sent: list[Any] = []
    received: asyncio.Queue[Any] = asyncio.Queue()
    await received.put({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await received.put({"type": "http.disconnect"})

    scope = {"type": "http", "method": "GET", "path": f"/{name}", "headers": [], "query_string": b""}
    await asyncio.wait_for(Page.as_asgi()(scope, received.get, send), 30)
    return sent[0]["status"], sent[1]["body"].decode()


async def _work(name: str) -> Any:
    sent: asyncio.Queue[Any] = asyncio.Queue()
    received: asyncio.Queue[Any] = asyncio.Queue()
    await received.put({"type": "do.work", "name": name})
    task = asyncio.ensure_future(Worker.as_asgi()({"type": "channel"}, received.get, sent.put))
    told = await asyncio.wait_for(sent.get(), 30)
    task.cancel()
    return told


def _all(*functions: Any) -> Any:
    async def main() -> Any:
        told = await asyncio.gather(*(function() for function in functions), return_exceptions=True)
        return [repr(one) if isinstance(one, BaseException) else one for one in told]

    return asyncio.run(main())


def probe_http_consumers() -> Any:
    return _all(*(lambda number=number: _get(f"h{number}") for number in range(24))), Item.objects.count()


def probe_workers() -> Any:
    return _all(*(lambda number=number: _work(f"w{number}") for number in range(24))), Item.objects.count()


def probe_many_threads() -> Any:
    def call(function: Any, name: str) -> Any:
        return lambda: database_sync_to_async(function, thread_sensitive=False)(name)

    calls = [call(function, f"t{number}") for number in range(12) for function in (write, fail, temporary)]
    return _all(*calls), Item.objects.count()
