"""The site of tests/site with sockets of Channels: each answers what the database says to a token."""

from __future__ import annotations

from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter

from tests.site.asgi import application as site


def work(token: str) -> str:
    # Imported when Django has been set up.
    from tests.site.views import tokens
    from tests.workers.queues import work

    work.work(token)
    return " ".join(tokens(token))


async def orm(token: str) -> str:
    """Without what Channels does before and after a query."""
    from django.db.models import Value

    from tests.site.models import Row

    row = await Row.objects.annotate(token=Value(token)).aget(pk=1)
    return str(row.token)


WAYS = {
    # In one thread for all sockets, as Channels does it if it isn't told otherwise.
    "thread": database_sync_to_async(work),
    "threads": database_sync_to_async(work, thread_sensitive=False),
    "orm": orm,
}


class Consumer(AsyncWebsocketConsumer):
    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        way, token = text_data.split()
        await self.send(await WAYS[way](token))


application = ProtocolTypeRouter({"http": site, "lifespan": site, "websocket": Consumer.as_asgi()})
