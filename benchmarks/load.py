"""The load generator, a program of its own: ``python -m benchmarks.load --port 8000 --clients 400``.

Each client has one request under way at any time and begins the next when that is answered. Requests that are
finished don't tell how an unfair pool treats the others, so each client is accounted for: who got no answer,
and how long requests have waited that are never answered. One loop over epoll without any layer between, to
take little from the cores that the site and the server need; what it takes is part of its report.
"""

from __future__ import annotations

import argparse
import errno
import gc
import heapq
import json
import os
import re
import select
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.rows import ROWS, partner, person, token

HOST = "127.0.0.1"
# Seconds after the end until requests that are under way count as never answered.
PATIENCE = 5.0
# After a refused connection: without a pause the loop would do nothing but reconnect.
BACK_OFF = 0.05
MOST_ERRORS = 20
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
WAITED = re.compile(rb"\r\nx-waited: *([\d.]+)", re.IGNORECASE)
TICKS = os.sysconf("SC_CLK_TCK")
READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Client:
    """One client. ``socket`` is None between connections, ``began`` 0.0 between requests."""

    __slots__ = ("answers", "began", "key", "received", "socket", "turn")

    def __init__(self, number: int) -> None:
        self.turn = number * 7919
        self.key = 0
        self.socket: socket.socket | None = None
        self.received = b""
        self.began = 0.0
        self.answers = 0


class Load:
    """All clients against one view."""

    def __init__(self, port: int, view: str, clients: int, keep_alive: bool) -> None:
        self._port = port
        self._keep_alive = keep_alive
        connection = "keep-alive" if keep_alive else "close"
        ending = f" HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: {connection}\r\n\r\n"
        self._requests = [f"GET /{view}?id={key}{ending}".encode() for key in range(ROWS + 1)]
        self._expected = [_expected(view, key).encode() for key in range(ROWS + 1)]
        self._clients = [Client(number) for number in range(clients)]
        self._poller = select.epoll()
        self._by_fd: dict[int, Client] = {}
        self._resting: list[tuple[float, int, Client]] = []
        self._measuring = self._beginning = False
        self._answers = 0
        self._seconds: list[float] = []
        self._waits: list[float] = []
        self._errors: Counter[str] = Counter()
        self.finished = 0

    # -- one request ----------------------------------------------------------------------------

    def _begin(self, client: Client) -> None:
        client.turn += 1
        client.key = client.turn % ROWS + 1
        client.received = b""
        client.began = time.perf_counter()
        if client.socket is None:
            sock = client.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex((HOST, self._port))
            self._by_fd[sock.fileno()] = client
            if code == errno.EINPROGRESS:
                self._poller.register(sock.fileno(), WRITE)
                return
            if code:
                self._fail(client, os.strerror(code))
                return
            self._poller.register(sock.fileno(), READ)
        self._send(client)

    def _send(self, client: Client) -> None:
        assert client.socket is not None
        try:
            client.socket.send(self._requests[client.key])
        except OSError as error:
            self._fail(client, os.strerror(error.errno or 0))

    def _ready(self, client: Client, event: int) -> None:
        sock = client.socket
        assert sock is not None
        if event & WRITE:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._fail(client, os.strerror(code))
            else:
                self._poller.modify(sock.fileno(), READ)
                self._send(client)
            return
        try:
            piece = sock.recv(65536)
        except OSError as error:
            self._fail(client, os.strerror(error.errno or 0))
            return
        if not piece:
            self._fail(client, "hung up without an answer")
            return
        client.received += piece
        end = client.received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(client.received, 0, end)
        if length is None:
            self._fail(client, "an answer without a length")
        elif len(client.received) >= end + 4 + int(length[1]):
            self._answered(client, client.received[:end], client.received[end + 4 :])

    def _answered(self, client: Client, head: bytes, body: bytes) -> None:
        status = head[9:12].decode()
        if status != "200":
            self._fail(client, f"{status}: {body[:150].decode(errors='replace')}")
        elif body != self._expected[client.key]:
            self._fail(client, f"wrong answer: {body[:50]!r} instead of {self._expected[client.key]!r}")
        else:
            if self._measuring:
                self._answers += 1
                client.answers += 1
            self._end(client, head)

    def _end(self, client: Client, head: bytes) -> None:
        if self._measuring or not self._beginning:
            self._seconds.append(time.perf_counter() - client.began)
            waited = WAITED.search(head)
            if waited:
                self._waits.append(float(waited[1]))
        if not self._keep_alive or CLOSES.search(head):
            self._hang_up(client)
        self._next(client)

    def _fail(self, client: Client, why: str) -> None:
        """Errors don't count as answers: fast errors must not make a variant look fast."""
        self._errors[why] += 1
        self._hang_up(client)
        rest_until = time.perf_counter() + BACK_OFF
        heapq.heappush(self._resting, (rest_until, id(client), client))
        client.began = 0.0
        self.finished += 1

    def _next(self, client: Client) -> None:
        client.began = 0.0
        self.finished += 1
        if self._beginning:
            self._begin(client)

    def _hang_up(self, client: Client) -> None:
        if client.socket is not None:
            del self._by_fd[client.socket.fileno()]
            client.socket.close()
            client.socket = None

    # -- all of them ----------------------------------------------------------------------------

    def run(self, warm_up: float, seconds: float, pids: list[int]) -> dict[str, Any]:
        self._beginning = True
        start = time.perf_counter()
        for client in self._clients:
            self._begin(client)
        self._go_on_until(start + warm_up)
        before = Usage(pids)
        self._measuring = True
        self._go_on_until(before.at + seconds)
        self._measuring = self._beginning = False
        used = Usage(pids).since(before)
        self._go_on_until(time.perf_counter() + PATIENCE)
        self._give_up()
        return self._report(used)

    def _go_on_until(self, end: float) -> None:
        while (now := time.perf_counter()) < end and (self._beginning or self._under_way):
            for fd, event in self._poller.poll(min(end - now, BACK_OFF)):
                client = self._by_fd.get(fd)
                if client is not None:
                    self._ready(client, event)
            while self._beginning and self._resting and self._resting[0][0] <= time.perf_counter():
                self._begin(heapq.heappop(self._resting)[2])

    @property
    def _under_way(self) -> bool:
        return any(client.began for client in self._clients)

    def _give_up(self) -> None:
        now = time.perf_counter()
        for client in self._clients:
            if client.began:
                self._seconds.append(now - client.began)
                self._fail(client, "never answered")
            self._hang_up(client)

    def _report(self, used: dict[str, float]) -> dict[str, Any]:
        seconds = sorted(self._seconds)
        answers = [client.answers for client in self._clients]
        return {
            "requests_per_second": self._answers / used["seconds"],
            "p50_ms": _quantile(seconds, 0.5) * 1000,
            "p95_ms": _quantile(seconds, 0.95) * 1000,
            "p99_ms": _quantile(seconds, 0.99) * 1000,
            "max_ms": _quantile(seconds, 1.0) * 1000,
            "without_answer": answers.count(0),
            "fewest_answers": min(answers),
            "most_answers": max(answers),
            "cpu_ms_per_request": used["watched"] * 1000 / max(self._answers, 1),
            "site_share": used["watched"] / used["seconds"],
            "generator_share": used["own"] / used["seconds"],
            "machine_share": used["machine"],
            "wait_p50_ms": _quantile(sorted(self._waits), 0.5) * 1000,
            "wait_max_ms": _quantile(sorted(self._waits), 1.0) * 1000,
            "finished": self.finished,
            "errors": self._errors.total(),
            "error_texts": dict(self._errors.most_common(MOST_ERRORS)),
        }


class Usage:
    """CPU seconds used so far: by watched processes, by this one, by the whole machine."""

    def __init__(self, pids: list[int]) -> None:
        self.at = time.perf_counter()
        self._own = time.process_time()
        self._watched = sum(_cpu_seconds(pid) for pid in pids)
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        self._all, self._idle = sum(fields), fields[3] + fields[4]

    def since(self, before: Usage) -> dict[str, float]:
        return {
            "seconds": self.at - before.at,
            "own": self._own - before._own,
            "watched": self._watched - before._watched,
            "machine": 1 - (self._idle - before._idle) / max(self._all - before._all, 1),
        }


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _expected(view: str, key: int) -> str:
    if view == "user":
        return person(key)
    return f"{token(key)} {token(partner(key))}" if view == "mixed" else token(key)


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--view", default="one")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--keep-alive", action="store_true")
    parser.add_argument("--pids", type=int, nargs="*", default=[], help="whose CPU time is reported")
    arguments = parser.parse_args()
    gc.disable()
    load = Load(arguments.port, arguments.view, arguments.clients, arguments.keep_alive)
    print(json.dumps(load.run(arguments.warm_up, arguments.seconds, arguments.pids)))


if __name__ == "__main__":
    main()
