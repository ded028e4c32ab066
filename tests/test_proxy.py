from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.proxy import TcpProxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(ConnectionError):
            while chunk := self.request.recv(65_536):
                self.request.sendall(chunk)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


@pytest.fixture(scope="module")
def echo_server() -> Iterator[tuple[str, int]]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo_server: tuple[str, int]) -> Iterator[TcpProxy]:
    with TcpProxy(*echo_server) as proxy:
        yield proxy


Client = Callable[[], socket.socket]


@pytest.fixture
def connect(proxy: TcpProxy) -> Iterator[Client]:
    sockets: list[socket.socket] = []

    def connect() -> socket.socket:
        sockets.append(socket.create_connection((proxy.host, proxy.port), timeout=10))
        return sockets[-1]

    yield connect
    for sock in sockets:
        sock.close()


def receive(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (chunk := sock.recv(size - len(received))):
        received += chunk
    return bytes(received)


def echo(sock: socket.socket, message: bytes) -> bytes:
    sock.sendall(message)
    return receive(sock, len(message))


def is_silent(sock: socket.socket) -> bool:
    sock.settimeout(0.1)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(10)
    return False


def test_forwards_both_ways_on_many_connections(connect: Client) -> None:
    clients = [connect() for _ in range(20)]
    assert [echo(client, b"%d" % number) for number, client in enumerate(clients)] == [
        b"%d" % number for number in range(20)
    ]


def test_forwards_more_than_it_may_hold(connect: Client) -> None:
    client = connect()
    message = b"0123456789abcdef" * 1_000_000
    sender = threading.Thread(target=client.sendall, args=[message])
    sender.start()
    assert receive(client, len(message)) == message
    sender.join()


def test_forwards_the_end_of_one_side_after_what_came_before(connect: Client) -> None:
    client = connect()
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert receive(client, 1000) == b"last words"


def test_refuses_new_connections_only_and_until_resumed(proxy: TcpProxy, connect: Client) -> None:
    client = connect()
    assert echo(client, b"before") == b"before"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert echo(client, b"meanwhile") == b"meanwhile"
    proxy.resume()
    assert echo(connect(), b"after") == b"after"


def test_drops_present_connections_only(proxy: TcpProxy, connect: Client) -> None:
    client = connect()
    assert echo(client, b"before") == b"before"
    proxy.drop()
    assert client.recv(1) == b""
    assert proxy.connections == 0
    assert echo(connect(), b"after") == b"after"


def test_drops_by_reset_if_asked(proxy: TcpProxy, connect: Client) -> None:
    client = connect()
    assert echo(client, b"before") == b"before"
    proxy.drop(reset=True)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_deaf_freezes_present_and_new_connections_until_resumed(proxy: TcpProxy, connect: Client) -> None:
    present = connect()
    assert echo(present, b"before") == b"before"
    proxy.deaf()
    new = connect()
    for client in (present, new):
        client.sendall(b"anyone?")
        assert is_silent(client)
    proxy.resume()
    assert [receive(client, 7) for client in (present, new)] == [b"anyone?", b"anyone?"]


def test_delays_chunks_to_clients_until_resumed(proxy: TcpProxy, connect: Client) -> None:
    proxy.delay(0.2)
    client = connect()
    start = time.monotonic()
    assert echo(client, b"slow") == b"slow"
    assert time.monotonic() - start >= 0.2
    proxy.delay(1000)
    client.sendall(b"held")
    assert is_silent(client)
    proxy.resume()
    assert receive(client, 4) == b"held"


def test_closes_the_client_when_the_server_refuses() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as closing,
        TcpProxy(*closing.getsockname()) as proxy,
    ):
        closing.close()
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection((proxy.host, proxy.port), timeout=10) as client,
        ):
            client.recv(1)


def test_cut_ends_a_connection_in_the_middle_of_an_answer_and_new_ones_work(
    proxy: TcpProxy, connect: Client
) -> None:
    sock = connect()
    assert echo(sock, b"before") == b"before"
    proxy.cut()
    sock.sendall(b"question")
    received = bytearray()
    with suppress(ConnectionResetError):
        while chunk := sock.recv(100):
            received += chunk
    assert received in (b"", b"ques")
    assert echo(connect(), b"afterwards") == b"afterwards"
