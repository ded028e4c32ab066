"""An HTTP load generator. Runs as a program of its own: ``python -m tests.e2e.load URL --clients 400``.

Each client sends its next request when the last one has ended, to the URLs in turn. Every request that was
begun is accounted for in the JSON that is printed: answered, by status, or failed, by what went wrong.
Nothing is tried again. SIGTERM ends it before its time is up.

TOKEN in a URL stands for a word that no other request has, and an answer with status 200 that isn't this word
is counted as wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

# For requests that are under way when the time is up: seconds until they count as failed.
PATIENCE = 45.0
MOST_ERRORS = 100
TOKEN = "TOKEN"
# Those who leave in the middle have waited for up to so long.
LEAVE_SECONDS = 0.1

_numbers = itertools.count(1)


class Left(Exception):
    """The visitor has had enough, as meant."""


@dataclass
class Client:
    """One visitor: at most one request at a time, on a connection of its own."""

    host: str
    port: int
    targets: Iterator[str]
    keep_alive: bool
    # How many of its requests it doesn't wait for, of 1.
    leaves: float = 0.0
    begun: int = 0
    answered: int = 0
    busy_since: float | None = None
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> tuple[int, str, str | None]:
        """Send one request; the status and the body of the answer, and what that should be if it is known."""
        target = next(self.targets)
        token = f"{os.getpid()}-{next(_numbers)}" if TOKEN in target else None
        target = target.replace(TOKEN, token or "")
        host, connection = f"{self.host}:{self.port}", "keep-alive" if self.keep_alive else "close"
        request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n"
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self._streams
        writer.write(request.encode())
        if random.random() < self.leaves:
            await asyncio.sleep(LEAVE_SECONDS * random.random())
            if random.random() < 0.5:
                writer.transport.abort()
            raise Left
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        if not self.keep_alive or headers.get("connection") == "close":
            self.hang_up()
        return int(head[0].split()[1]), body.decode(errors="replace"), token

    def hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Load:
    """What all clients have seen so far."""

    until: float
    clients: list[Client]
    statuses: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    longest: float = 0.0
    # Of the request that began last among those that were not answered with 200; time.monotonic().
    last_trouble_began: float | None = None

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.end)
        tasks = [asyncio.create_task(self._visit(client)) for client in self.clients]
        await asyncio.wait(tasks, timeout=self.until + PATIENCE - time.monotonic())
        for client, task in zip(self.clients, tasks, strict=True):
            if not task.done():
                task.cancel()
                if client.busy_since is not None:
                    self._fail(client.busy_since, "unanswered")
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        for client in self.clients:
            client.hang_up()

    def end(self) -> None:
        """Begin no more requests."""
        self.until = 0.0

    async def _visit(self, client: Client) -> None:
        while (began := time.monotonic()) < self.until:
            client.begun += 1
            client.busy_since = began
            try:
                status, body, expected = await client.ask()
            except Left:
                self._fail(began, "left")
            except ConnectionRefusedError:
                self._fail(began, "refused")
            except asyncio.IncompleteReadError:
                self._fail(began, "no answer")
            except ConnectionError:
                self._fail(began, "reset")
            except OSError as error:
                self._fail(began, str(error))
            else:
                client.answered += 1
                client.busy_since = None
                self._note(began, status, body)
                if expected is not None and status == 200 and body != expected:
                    self.wrong.append((expected, body[:200]))
                continue
            client.busy_since = None
            client.hang_up()
            # A refused connection costs nothing: without this the loop would do nothing else.
            await asyncio.sleep(0.01)

    def _note(self, began: float, status: int, body: str) -> None:
        self.longest = max(self.longest, time.monotonic() - began)
        self.statuses[str(status)] += 1
        if status != 200:
            self._trouble(began)
            self.errors[body[:200]] += 1

    def _fail(self, began: float, why: str) -> None:
        self.longest = max(self.longest, time.monotonic() - began)
        self.failed[why] += 1
        self._trouble(began)

    def _trouble(self, began: float) -> None:
        self.last_trouble_began = max(began, self.last_trouble_began or began)

    def report(self) -> dict[str, Any]:
        begun = sum(client.begun for client in self.clients)
        assert begun == self.statuses.total() + self.failed.total(), "a request is not accounted for"
        return {
            "begun": begun,
            "answered": dict(self.statuses),
            "failed": dict(self.failed),
            "errors": dict(self.errors.most_common(MOST_ERRORS)),
            "wrong": self.wrong[:MOST_ERRORS],
            "longest_seconds": round(self.longest, 3),
            "fewest_answers_of_a_client": min(client.answered for client in self.clients),
            "last_trouble_began": self.last_trouble_began,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--leave", type=float, default=0.0, help="how many are not waited for, of 1")
    parser.add_argument("--keep-alive", action="store_true")
    arguments = parser.parse_args()
    urls = [urlsplit(url) for url in arguments.urls]
    host, port = urls[0].hostname, urls[0].port
    assert host and port
    targets = [f"{url.path}?{url.query}" if url.query else url.path for url in urls]
    clients = []
    for number in range(arguments.clients):
        # They don't all begin with the same one.
        mine = itertools.islice(itertools.cycle(targets), number % len(targets), None)
        clients.append(Client(host, port, mine, arguments.keep_alive, arguments.leave))
    load = Load(time.monotonic() + arguments.seconds, clients)
    asyncio.run(load.run())
    print(json.dumps(load.report()))


if __name__ == "__main__":
    main()
