"""Many sockets at once: ``python -m tests.workers.socket_client URL SOCKETS WAY TOKENS``.

Each sends so many tokens, one after another. Prints the wrong answers, as JSON, and leaves all sockets open
until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect


async def ask(socket: ClientConnection, way: str, count: int) -> list[list[str]]:
    wrong = []
    for _ in range(count):
        token = uuid4().hex
        await socket.send(f"{way} {token}")
        if (answer := await socket.recv()) != token:
            wrong.append([token, str(answer)])
    return wrong


async def main(url: str, sockets: str, way: str, tokens: str) -> None:
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connect(url)) for _ in range(int(sockets))]
        wrong = await asyncio.gather(*(ask(socket, way, int(tokens)) for socket in opened))
        print(json.dumps(sum(wrong, [])), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
