"""The cheapest possible site, with constant answers. It shows what the load generator itself can do."""

from __future__ import annotations

import asyncio
import sys

from benchmarks.load import HOST
from benchmarks.rows import ROWS, token

ANSWERS = [
    f"HTTP/1.1 200 OK\r\nContent-Length: {len(token(key))}\r\n\r\n{token(key)}".encode()
    for key in range(ROWS + 1)
]


class Visit(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWERS[int(data.split(b" ", 2)[1].partition(b"=")[2] or b"0")])
        if b"Connection: close" in data:
            self._transport.close()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Visit, HOST, port, backlog=2048)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
