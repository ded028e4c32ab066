"""Servers that restart, hang up, fall silent or never answer, and what requests see of that."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ldap
import pytest
from django.db import OperationalError

from django_db_pooling import pooling
from django_db_pooling.backend import base, opening
from django_db_pooling.process import deadline
from tests.concurrency import PATIENCE, eventually, in_thread, in_threads
from tests.ldap_backend.conftest import (
    Configure,
    a_request,
    ask,
    assert_whole,
    held,
    in_a_request,
    in_use,
    mail,
    new,
    remove_new,
)
from tests.proxy import TcpProxy
from tests.servers import free_port
from tests.slapd import Slapd

scopes = pytest.mark.parametrize("scope", ["request", "transaction"])
mosts = pytest.mark.parametrize("most", [1, 8])
# Tag 24, with no message but "success" to the first request: yes, begin with TLS.
YES = bytes.fromhex("300c02010178070a010004000400")


@pytest.fixture(autouse=True)
def less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Talking to the server gets a second at least otherwise, however short TIMEOUT is."""
    for module in (deadline, base, opening):
        monkeypatch.setattr(module, "MIN_SECONDS", 0.2)


@pytest.fixture
def through(configure: Configure, proxy: TcpProxy) -> Callable[..., str]:
    """An alias whose connections go through the proxy."""

    def make(most: int = 8, scope: str = "transaction", **pool: Any) -> str:
        pool = {"SIZE": most, "MAX_OUTSTANDING": most, "SCOPE": scope} | pool
        return configure(NAME=f"ldap://{proxy.host}:{proxy.port}", POOL=pool)

    return make


class Asked:
    """A call in another thread that the server is at."""

    def __init__(self, call: Callable[[], Any], server: Slapd) -> None:
        before = server.monitor()
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()
        eventually(lambda: (now := server.monitor()).searches + now.adds > before.searches + before.adds)

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.result = call()
        except Exception as error:
            self.result = error

    def end(self) -> Any:
        """What it returned or raised."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.result


# -- servers that go ----------------------------------------------------------------------------------


@scopes
@mosts
def test_no_request_fails_after_a_restart(scope: str, most: int, configure: Configure, server: Slapd) -> None:
    alias = configure(POOL={"SIZE": most, "MAX_OUTSTANDING": most, "SCOPE": scope})
    with held(most):
        pass
    assert pooling.stats(alias).idle == most
    server.restart()
    in_threads([in_a_request(lambda number=number: ask(number)) for number in range(16)])
    assert_whole(alias, server)


@scopes
def test_a_write_is_the_first_thing_after_a_restart(scope: str, configure: Configure, server: Slapd) -> None:
    configure(POOL={"SCOPE": scope})
    ask()
    server.restart()
    with a_request():
        new(uid="new1").save(force_insert=True)
    assert len(remove_new(server)) == 1


def test_a_connection_in_use_breaks_between_two_searches(configure: Configure, server: Slapd) -> None:
    alias = configure(POOL={"SCOPE": "request"})
    with a_request():
        ask()
        server.restart()
        assert in_use(alias) == 1
        ask()
        new(uid="new1").save(force_insert=True)


def test_the_servers_idletimeout(configure: Configure) -> None:
    with Slapd(10, extra=["idletimeout 1"]) as impatient:
        alias = configure(on=impatient)
        with held(3):
            pass
        eventually(lambda: pooling.stats(alias).idle == 0 or impatient.monitor().connections == 0)
        ask()
        new(uid="new1").save(force_insert=True)
        assert pooling.close_all(alias)


def test_a_server_that_was_away_for_longer(through: Any, proxy: TcpProxy, server: Slapd) -> None:
    alias = through()
    ask()
    proxy.refuse()
    proxy.drop()
    with pytest.raises(OperationalError) as raised:
        mail()
    assert isinstance(raised.value.__cause__, ldap.SERVER_DOWN)
    proxy.resume()
    ask()
    assert_whole(alias, server)


# -- connections that die in the middle -----------------------------------------------------------------


@scopes
@mosts
def test_a_search_that_was_cut_is_repeated(
    scope: str, most: int, through: Any, proxy: TcpProxy, server: Slapd
) -> None:
    alias = through(most, scope)
    ask()
    proxy.delay(60)
    asked = Asked(in_a_request(mail), server)
    proxy.drop()
    proxy.resume()
    assert asked.end() == "user007@example.org"
    assert pooling.stats(alias).opened == 2
    assert_whole(alias, server)


def test_an_answer_that_was_cut_in_the_middle(through: Any, proxy: TcpProxy, server: Slapd) -> None:
    alias = through()
    ask()
    proxy.cut()
    ask()
    assert pooling.stats(alias).opened == 2
    assert_whole(alias, server)


def test_a_search_is_repeated_once(through: Any, proxy: TcpProxy, server: Slapd) -> None:
    alias = through()
    ask()
    proxy.delay(60)
    asked = Asked(mail, server)
    proxy.refuse()
    proxy.drop()
    error = asked.end()
    assert isinstance(error, OperationalError) and isinstance(error, ldap.SERVER_DOWN)
    assert in_use(alias) == 0
    proxy.resume()
    assert_whole(alias, server)


@scopes
@mosts
def test_a_write_is_not_repeated(scope: str, most: int, through: Any, proxy: TcpProxy, server: Slapd) -> None:
    alias = through(most, scope)
    ask()
    before = server.monitor()
    proxy.delay(60)
    asked = Asked(in_a_request(lambda: new(uid="new1").save(force_insert=True)), server)
    eventually(lambda: server.monitor().adds == before.adds + 1)
    proxy.drop()
    proxy.resume()
    error = asked.end()
    assert isinstance(error, OperationalError) and isinstance(error, ldap.SERVER_DOWN)
    assert type(error.__cause__) is ldap.SERVER_DOWN
    assert_whole(alias, server)
    assert server.monitor().adds == before.adds + 1
    assert len(remove_new(server)) == 1


# -- silence -------------------------------------------------------------------------------------------


@scopes
@mosts
@pytest.mark.parametrize("writes", [False, True])
def test_a_network_that_falls_silent(
    writes: bool, scope: str, most: int, through: Any, proxy: TcpProxy, server: Slapd
) -> None:
    alias = through(most, scope, TIMEOUT=0.2)
    ask()
    proxy.deaf()
    with a_request():
        with pytest.raises(OperationalError) as raised:
            new(uid="new1").save(force_insert=True) if writes else mail()
        assert isinstance(raised.value, ldap.TIMEOUT)
        assert (in_use(alias), pooling.stats(alias).idle) == (0, 0)
        proxy.drop()
        proxy.resume()
        ask()
    assert_whole(alias, server)


@scopes
def test_the_query_timeout_of_the_settings_applies(
    scope: str, configure: Configure, proxy: TcpProxy, server: Slapd
) -> None:
    alias = configure(
        NAME=f"ldap://{proxy.host}:{proxy.port}",
        POOL={"SCOPE": scope, "TIMEOUT": None},
        CONNECTION_OPTIONS={"QUERY_TIMEOUT": 1},
    )
    with a_request():
        ask()
        proxy.deaf()
        with pytest.raises(ldap.TIMEOUT):
            mail()
        assert in_use(alias) == 0
        proxy.resume()
        ask()
    assert_whole(alias, server)


def test_a_server_that_is_frozen(configure: Configure) -> None:
    with Slapd(10) as frozen:
        alias = configure(on=frozen, POOL={"TIMEOUT": 0.2})
        ask()
        frozen.suspend()
        try:
            # On the connection that is there, and on a new one.
            for _ in range(2):
                with pytest.raises(OperationalError) as raised:
                    mail()
                assert isinstance(raised.value, ldap.TIMEOUT)
                assert in_use(alias) == 0
        finally:
            frozen.resume()
        eventually(lambda: pooling.stats(alias).opening == 0)
        ask()
        assert pooling.close_all(alias)


@contextmanager
def silent_server(says: bytes = b"") -> Iterator[tuple[int, Callable[[], None]]]:
    """A port where whoever connects waits for ever, and a function that ends all that. ``says``: first."""
    port, ended = free_port(), threading.Event()
    listener = socket.create_server(("127.0.0.1", port))
    taken: list[socket.socket] = []

    def run() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            taken.append(connection)
            if says:
                connection.recv(1000)
                connection.sendall(says)

    def end() -> None:
        ended.set()
        # accept() doesn't notice that its socket is closed.
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join(PATIENCE)
        for connection in taken:
            connection.close()
        taken.clear()
        listener.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield port, end
    finally:
        if not ended.is_set():
            end()


@scopes
@pytest.mark.parametrize("how", ["ldaps", "StartTLS"])
def test_a_handshake_that_hangs_is_ended_in_time(
    how: str, scope: str, configure: Configure, server: Slapd
) -> None:
    with silent_server(b"" if how == "ldaps" else YES) as (port, end):
        name = f"ldaps://127.0.0.1:{port}" if how == "ldaps" else f"ldap://127.0.0.1:{port}"
        pool = {"SIZE": 1, "MAX_OUTSTANDING": 1, "TIMEOUT": 0.5, "SCOPE": scope}
        alias = configure(NAME=name, TLS=how == "StartTLS", POOL=pool)
        with a_request():
            for _ in range(3):
                with pytest.raises(OperationalError) as raised:
                    mail()
                assert isinstance(raised.value, ldap.TIMEOUT)
                assert in_use(alias) == 0
        eventually(lambda: pooling.stats(alias).opening == 0)
        end()
        with pytest.raises(OperationalError) as raised:
            mail()
        assert isinstance(raised.value, ldap.SERVER_DOWN)


def test_a_bind_that_hangs_is_given_up(through: Any, proxy: TcpProxy, server: Slapd) -> None:
    alias = through(1, TIMEOUT=0.2)
    proxy.deaf()
    with pytest.raises(OperationalError) as raised:
        mail()
    assert isinstance(raised.value, ldap.TIMEOUT)
    eventually(lambda: pooling.stats(alias).opening == 0)
    proxy.drop()
    proxy.resume()
    assert_whole(alias, server)


# -- several servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", ","])
def test_one_of_two_servers_is_down(separator: str, configure: Configure, server: Slapd) -> None:
    down = f"ldap://127.0.0.1:{free_port()}"
    for uris in ((down, server.uri), (server.uri, down)):
        alias = configure(NAME=separator.join(uris))
        with held(4):
            pass
        assert pooling.stats(alias).opened == 4
        assert_whole(alias, server)
        assert pooling.close_all(alias)


def test_one_of_two_servers_goes_down(configure: Configure, server: Slapd, second_server: Slapd) -> None:
    alias = configure(NAME=f"{server.uri} {second_server.uri}")
    with held(4):
        pass
    second_server.stop()
    try:
        in_threads([in_a_request(lambda number=number: ask(number)) for number in range(16)])
        with held(8):
            assert server.monitor().connections == 8
    finally:
        second_server.start()
    assert pooling.stats(alias).in_use == 0


def test_one_of_two_servers_never_answers(configure: Configure, server: Slapd) -> None:
    """It costs its share of the time, and nobody an error."""
    with silent_server() as (port, _):
        alias = configure(
            NAME=f"ldaps://127.0.0.1:{port} {server.tls_uri}",
            POOL={"TIMEOUT": 1.0},
            CONNECTION_OPTIONS={ldap.OPT_X_TLS_CACERTFILE: str(server.certificate)},
        )
        for _ in range(6):
            ask()
            assert pooling.close_all(alias)
        assert pooling.stats(alias).opening == 0
    assert_whole(alias, server)


def test_two_servers_share_the_connections(configure: Configure, server: Slapd, second_server: Slapd) -> None:
    # Another list than elsewhere: for a while it is remembered which of its servers were away.
    alias = configure(NAME=f"{second_server.uri} {server.uri}")
    with held(8):
        assert (server.monitor().connections, second_server.monitor().connections) == (4, 4)
    assert pooling.close_all(alias)
    eventually(lambda: second_server.monitor().connections == 0)
    in_thread(ask)


# -- signals ---------------------------------------------------------------------------------------------


@scopes
def test_signals_do_not_end_connections(scope: str, configure: Configure) -> None:
    """Such as those of children that end. To libldap a call that was interrupted is the end of the server."""
    alias = configure(POOL={"SCOPE": scope})
    ask()
    before = signal.signal(signal.SIGALRM, lambda *arguments: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        with a_request():
            for number in range(100):
                ask(number % 40)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (pooling.stats(alias).opened, pooling.stats(alias).broken) == (1, 0)
