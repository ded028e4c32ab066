"""The ASGI application, with a beginning and an end (lifespan), of which Django's knows nothing."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application

from django_db_pooling import pooling
from tests.site import pooled as pooled

django_application = get_asgi_application()


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
    else:
        await django_application(scope, receive, send)


async def _live(receive: Any, send: Any) -> None:
    await receive()
    if os.environ.get("SITE_QUERY_AT_START"):
        await sync_to_async(_read_configuration)()
    if "SITE_WARM_UP" in os.environ:
        await sync_to_async(pooling.warm_up)(connections=int(os.environ["SITE_WARM_UP"]))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    # uvicorn ends by raising the signal that it got once more, and so without Python's atexit.
    await asyncio.to_thread(pooling.close_all, timeout=5)
    await send({"type": "lifespan.shutdown.complete"})


@pooling.scope()
def _read_configuration() -> None:
    from tests.site.models import Row

    assert Row.objects.count()
