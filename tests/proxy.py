"""A TCP proxy that refuses, drops, delays or goes deaf, for tests of what a network does to connections.

One thread owns every socket and all state. The methods hand that thread a function and wait until it has run,
so that the proxy behaves as asked from the moment a method returns.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from tests.servers import HOST, free_port

CHUNK_BYTES = 65_536
MOST_HELD_CHUNKS = 64
CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 10.0


class _Stream:
    """One direction of a connection: what was read from one side and is not yet written to the other.

    ``cut``: of the next chunk only half is written, and then it fails.
    """

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.held: deque[tuple[float, bytes]] = deque()  # (when to write, what); an empty chunk is the end
        self.has_ended = False
        self.is_finished = False
        self.cut = False

    def read(self, due: float) -> None:
        chunk = self.source.recv(CHUNK_BYTES)
        self.has_ended = not chunk
        self.held.append((due, chunk))

    def write(self) -> None:
        due, chunk = self.held[0]
        if chunk and self.cut:
            self.target.send(chunk[: len(chunk) // 2])
            raise ConnectionAbortedError
        if chunk:
            rest = chunk[self.target.send(chunk) :]
        else:
            self.target.shutdown(socket.SHUT_WR)
            self.is_finished = True
            rest = b""
        self.held.popleft()
        if rest:
            self.held.appendleft((due, rest))


class _Link:
    """A client's connection and, once the proxy has connected, the server's."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None
        self.streams: list[_Stream] = []

    def connect(self, address: tuple[str, int]) -> None:
        self.server = socket.create_connection(address, CONNECT_SECONDS)
        for sock in (self.client, self.server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.streams = [_Stream(self.client, self.server), _Stream(self.server, self.client)]

    def close(self, reset: bool = False) -> None:
        for sock in (self.client, self.server):
            if sock is not None:
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()


class TcpProxy:
    """Forwards connections to host:port; a context manager.

    refuse(), deaf(), delay() and cut() stay in force, together if need be, until resume().
    """

    def __init__(self, host: str, port: int, at: str = HOST, own_port: int | None = None) -> None:
        """``at``: its own address, of this machine; ``own_port``: if it matters which one."""
        self.host = at
        self.port = own_port or free_port()
        self._address = (host, port)
        self._links: list[_Link] = []
        self._forgotten: list[_Link] = []
        self._listener: socket.socket | None = None
        self._is_deaf = False
        self._delay = 0.0
        self._is_closed = False
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._bell, self._ringer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._listen()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._do(self._close)
        self._thread.join()
        self._bell.close()
        self._ringer.close()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._links)

    def refuse(self) -> None:
        """Close the listening socket; present connections live on."""
        self._do(self._refuse)

    def drop(self, reset: bool = False) -> None:
        """Close all present connections, by RST if asked; what they held is lost."""
        self._do(lambda: self._drop(reset))

    def cut(self) -> None:
        """Close each present connection in the middle of the next that the server says on it."""
        self._do(self._cut)

    def deaf(self) -> None:
        """Accept connections, but read nothing and forward nothing, on present connections neither."""
        self._do(lambda: setattr(self, "_is_deaf", True))

    def forget(self) -> None:
        """Have nothing to do with the present connections any more, without a word to either side."""
        self._do(self._forget)

    def delay(self, seconds: float) -> None:
        """Hold each chunk to a client for so long; also the first of a new connection."""
        self._do(lambda: setattr(self, "_delay", seconds))

    def lead_to(self, host: str, port: int) -> None:
        """New connections go to another server."""
        self._do(lambda: setattr(self, "_address", (host, port)))

    def resume(self) -> None:
        """Forward everything at once again, also what was held."""
        self._do(self._resume)

    def _do(self, command: Callable[[], None]) -> None:
        done: Future[None] = Future()
        self._commands.append((command, done))
        self._ringer.send(b"!")
        done.result(COMMAND_SECONDS)

    def _listen(self) -> None:
        self._listener = socket.create_server((self.host, self.port), backlog=1024)
        self._listener.setblocking(False)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _forget(self) -> None:
        self._forgotten += self._links
        self._links.clear()

    def _drop(self, reset: bool = False) -> None:
        for links in (self._links, self._forgotten):
            while links:
                links.pop().close(reset)

    def _cut(self) -> None:
        for link in self._links:
            for stream in link.streams:
                stream.cut = stream.target is link.client

    def _resume(self) -> None:
        self._is_deaf = False
        self._delay = 0.0
        for stream in self._streams():
            stream.cut = False
            stream.held = deque((0.0, chunk) for _, chunk in stream.held)
        if self._listener is None:
            self._listen()

    def _close(self) -> None:
        self._refuse()
        self._drop()
        self._is_closed = True

    def _streams(self) -> list[_Stream]:
        return [stream for link in self._links for stream in link.streams]

    def _run(self) -> None:
        while not self._is_closed:
            ready = self._wait()
            if self._bell.fileno() in ready:
                self._obey()
            elif self._listener is not None and self._listener.fileno() in ready:
                self._accept()
            elif not self._is_deaf:
                for link in list(self._links):
                    self._serve(link, ready)

    def _wait(self) -> set[int]:
        """Wait until something can be done; return the file descriptors that are ready for it."""
        now = time.monotonic()
        interest = {self._bell.fileno(): select.POLLIN}
        due_times = []
        if self._listener is not None:
            interest[self._listener.fileno()] = select.POLLIN
        for stream in [] if self._is_deaf else self._streams():
            if not stream.has_ended and len(stream.held) < MOST_HELD_CHUNKS:
                source = stream.source.fileno()
                interest[source] = interest.get(source, 0) | select.POLLIN
            if stream.held and stream.held[0][0] <= now:
                target = stream.target.fileno()
                interest[target] = interest.get(target, 0) | select.POLLOUT
            elif stream.held:
                due_times.append(stream.held[0][0])
        poller = select.poll()
        for descriptor, events in interest.items():
            poller.register(descriptor, events)
        milliseconds = (min(due_times) - now) * 1000 + 1 if due_times else None
        has_unconnected = not self._is_deaf and any(link.server is None for link in self._links)
        return {descriptor for descriptor, _ in poller.poll(0 if has_unconnected else milliseconds)}

    def _obey(self) -> None:
        self._bell.recv(1)
        command, done = self._commands.popleft()
        try:
            command()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client, _ = self._listener.accept()
            self._links.append(_Link(client))

    def _serve(self, link: _Link, ready: set[int]) -> None:
        try:
            if link.server is None:
                link.connect(self._address)
            for stream in link.streams:
                self._pass_on(stream, link, ready)
        except OSError:
            self._links.remove(link)
            link.close(reset=True)
            return
        if all(stream.is_finished for stream in link.streams):
            self._links.remove(link)
            link.close()

    def _pass_on(self, stream: _Stream, link: _Link, ready: set[int]) -> None:
        now = time.monotonic()
        if stream.source.fileno() in ready and not stream.has_ended and len(stream.held) < MOST_HELD_CHUNKS:
            with contextlib.suppress(BlockingIOError):
                stream.read(now + (self._delay if stream.target is link.client else 0.0))
        if stream.held and stream.held[0][0] <= now:
            with contextlib.suppress(BlockingIOError):
                stream.write()
