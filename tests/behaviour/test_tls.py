"""TLS, which the tests' servers offer as real ones do."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from django.db import connections

from django_db_pooling import drivers, pooling
from tests.behaviour.conftest import (
    GEVENT,
    MYSQL,
    another_alias,
    held,
    in_thread,
    one,
    sql,
    token,
)
from tests.concurrency import PATIENCE

HANDSHAKE = 0x16
LONG = 30


@pytest.mark.only("pymysql", "psycopg", "psycopg2")
def test_connections_are_encrypted() -> None:
    """mysqlclient's library doesn't ask for it by itself."""
    if MYSQL:
        assert sql("SHOW STATUS LIKE 'Ssl_version'") == [("Ssl_version", "TLSv1.3")]
    else:
        assert sql("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [("TLSv1.3",)]


@pytest.mark.only("pymysql", "psycopg", "psycopg2")
def test_no_checkout_finds_something_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sends its session tickets after the handshake: an idle connection has read them."""
    asked = []
    with another_alias(POOL={"SIZE": 4, "MAX_OUTSTANDING": 4, "MIN_SIZE": 2}) as alias:
        with held(2, alias):
            pass
        driver = drivers.find(connections[alias].Database)
        usable = type(driver).usable

        def ask(*arguments: Any) -> bool:
            asked.append(arguments)
            return bool(usable(*arguments))

        monkeypatch.setattr(type(driver), "usable", ask)
        for _ in range(5):
            with held(4, alias):
                pass
            in_thread(lambda: token(alias))
        assert pooling.stats(alias).opened == 4
    assert asked == []


class Interrupt(BaseException):
    """What no ``except Exception`` sees."""


@pytest.fixture
def silent_server() -> Iterator[tuple[socket.socket, threading.Event, list[socket.socket]]]:
    """Greets as the tests' server does, and is silent from the first byte of a TLS handshake on."""
    settings = connections.settings["default"]
    with socket.create_connection((settings["HOST"], int(settings["PORT"])), PATIENCE) as real:
        greeting = real.recv(4096)
    begun = threading.Event()
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            client.settimeout(PATIENCE)
            clients.append(client)
            client.sendall(greeting)
            received = b""
            # A packet that asks for TLS comes first.
            while HANDSHAKE not in received[36:37]:
                received += client.recv(4096)
            begun.set()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener, begun, clients
        thread.join(PATIENCE)
    for client in clients:
        client.close()


@pytest.mark.only("pymysql")
def test_an_interrupted_handshake_leaves_no_socket(
    silent_server: tuple[socket.socket, threading.Event, list[socket.socket]],
) -> None:
    """Also as long as somebody keeps the exception, and with it all that was on the stack."""
    listener, begun, clients = silent_server
    port = str(listener.getsockname()[1])
    with another_alias(HOST="127.0.0.1", PORT=port, POOL={"TIMEOUT": LONG}) as alias:
        kept = interrupted(lambda: one(alias), begun)
        assert kept.__traceback__ is not None
        assert (pooling.stats(alias).in_use, pooling.stats(alias).opening) == (0, 0)
        with closing(clients[0]) as client:
            while client.recv(4096):
                pass


def interrupted(function: Any, begun: threading.Event) -> Interrupt:
    """Call it in this thread, or in a greenlet, until that has begun; the exception that ended it."""
    if GEVENT:
        import gevent

        victim = gevent.spawn(caught, function)
        assert begun.wait(PATIENCE)
        victim.kill(Interrupt, block=False)
        return victim.get(timeout=PATIENCE)

    def strike() -> None:
        begun.wait(PATIENCE)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    def interrupt(*_: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    striker = threading.Thread(target=strike)
    striker.start()
    try:
        return caught(function)
    finally:
        striker.join()
        signal.signal(signal.SIGUSR1, before)


def caught(function: Any) -> Interrupt:
    try:
        function()
    except Interrupt as error:
        return error
    raise AssertionError("nothing has interrupted it")
