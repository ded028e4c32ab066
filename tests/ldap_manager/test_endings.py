"""Attempts to connect that hang in libldap, and what is left of them: nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ldap_manager.conftest import (
    Make,
    beside,
    eventually,
    find,
    held,
    together,
)
from tests.ldap_manager.test_faults import open_files
from tests.slapd import Slapd

Run = Callable[..., list[Any]]
# Tag 24, with no message but "success" to the first request: yes, begin with TLS.
YES = bytes.fromhex("300c02010178070a010004000400")
# The first request: StartTLS.
ASK = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"


class Gateway:
    """Accepts connections and hands them on; those that come while it is ``silent`` it keeps, and says no
    more to them than ``word``.
    """

    def __init__(self, port: int, word: bytes = b"") -> None:
        self.silent = True
        self.kept: list[socket.socket] = []
        self._told: list[socket.socket] = []
        self._passed_on: list[socket.socket] = []
        self._word = word
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                mine, _ = self._listener.accept()
            except OSError:
                return
            if self.silent:
                self.kept.append(mine)
                if self._word:
                    mine.recv(1000)
                    mine.sendall(self._word)
                    self._told.append(mine)
                continue
            self._hand_on(mine)

    def go_on(self) -> None:
        """No longer be silent, to those that it has kept either."""
        self.silent = False
        while self.kept:
            self._hand_on(self.kept.pop())

    def _hand_on(self, mine: socket.socket) -> None:
        other = socket.create_connection(self._target)
        self._passed_on += [mine, other]
        if mine in self._told:
            # The server hasn't been asked yet, and its answer was given already.
            other.sendall(ASK)
            other.recv(1000)
        for pair in ((mine, other), (other, mine)):
            threading.Thread(target=_pump, args=pair, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self.kept, *self._passed_on):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture(params=["ldaps", "StartTLS"])
def swallowed(request: pytest.FixtureRequest, server: Slapd) -> Iterator[tuple[str, Gateway, dict[str, Any]]]:
    """Where a silent server is, and how to connect to it."""
    import ldap

    is_start = request.param == "StartTLS"
    gateway = Gateway(server.port if is_start else server.tls_port, YES if is_start else b"")
    scheme = "ldap" if is_start else "ldaps"
    options = {ldap.OPT_X_TLS_CACERTFILE: str(server.certificate)}
    yield f"{scheme}://127.0.0.1:{gateway.port}", gateway, {"use_tls": is_start, "options": options}
    gateway.close()


def test_those_that_were_swallowed_cost_no_place(
    swallowed: tuple[str, Gateway, dict[str, Any]], manager: Make, server: Slapd
) -> None:
    uri, gateway, how = swallowed
    four = manager(uri, size=4, wait_timeout=2.0, **how)

    def use() -> str:
        try:
            with four.connection() as connection:
                return find(connection, server)[0]
        except Exception as error:
            return type(error).__name__

    before = open_files()
    assert set(Counter(together(*[use] * 8))) == {"TIMEOUT", "MaxConnectionReachedError"}
    assert len(gateway.kept) >= 4
    gateway.silent = False
    assert Counter(together(*[use] * 8)) == {server.user_dn(7): 8}
    assert four.stats().opening == 0
    four.close()
    gateway.close()
    eventually(lambda: open_files() <= before)


def test_only_the_one_whose_time_is_over_is_ended(
    swallowed: tuple[str, Gateway, dict[str, Any]], manager: Make, server: Slapd
) -> None:
    uri, gateway, how = swallowed
    gateway.silent = False
    good, short, long = (manager(uri, wait_timeout=seconds, **how) for seconds in (5.0, 0.3, 4.5))
    with held(good, 2) as connections:
        gateway.silent = True
        with beside(lambda: hangs(long)) as outcome:
            eventually(lambda: len(gateway.kept) == 1)
            for _ in range(3):
                assert hangs(short) < 1.3
                eventually(lambda: len(short) == 0)
                assert (outcome, len(long)) == ([], 1)
            for connection in connections:
                assert find(connection, server) == [server.user_dn(7)]
        eventually(lambda: len(long) == 0)
        assert 4.3 < outcome[0] < 6
        for connection in connections:
            assert find(connection, server) == [server.user_dn(7)]
        # It is as if it never had a mark.
        assert keepalive(connections[0]) == (60, 10)
    assert good.stats().opened == 2


def keepalive(connection: Any) -> tuple[int, int]:
    with socket.socket(fileno=os.dup(connection.fileno())) as one:
        return (
            one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        )


def hangs(manager: Any) -> float:
    """For how long: a second at least is granted."""
    import ldap

    began = time.monotonic()
    with pytest.raises(ldap.TIMEOUT), manager.connection():
        pass
    return time.monotonic() - began


@pytest.mark.gevent
def test_one_that_nobody_waits_for_any_more_is_ended(
    swallowed: tuple[str, Gateway, dict[str, Any]], manager: Make
) -> None:
    import gevent

    uri, gateway, how = swallowed
    two = manager(uri, wait_timeout=60.0, **how)
    greenlets = [gevent.spawn(hangs, two) for _ in range(2)]
    eventually(lambda: len(gateway.kept) == 2)
    gevent.killall(greenlets)
    eventually(lambda: len(two) == 0)


def test_where_none_can_be_ended_a_few_are_freed(
    swallowed: tuple[str, Gateway, dict[str, Any]],
    manager: Make,
    server: Slapd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They go on uncounted, and what they make after all is closed."""
    from django_db_pooling.ldap import endings

    monkeypatch.setattr(endings, "DESCRIPTORS", "/nowhere")
    monkeypatch.setattr(endings, "FREE_AFTER", 0.3)
    monkeypatch.setattr(endings, "MAX_FREED", 2)
    uri, gateway, how = swallowed
    one = manager(uri, size=1, wait_timeout=0.3, **how)
    for count in range(1, 4):
        hangs(one)
        assert len(gateway.kept) == count
        if count < 3:
            eventually(lambda: len(one) == 0)
    time.sleep(0.7)
    assert (len(one), one.stats().opening) == (1, 1)
    gateway.go_on()
    eventually(lambda: len(one) == 0 and not endings._threads.attempts)
    eventually(lambda: server.monitor().connections == 0)
    assert not endings._threads.freed
    eventually(lambda: not endings._threads.is_watched)
    with one.connection() as connection:
        assert find(connection, server) == [server.user_dn(7)]


def test_a_name_server_that_is_silent_costs_no_place(
    manager: Make, server: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no socket yet."""
    import ldap

    from django_db_pooling.ldap import connecting, endings

    monkeypatch.setattr(endings, "FREE_AFTER", 0.3)
    go_on = green_event()
    open_ = connecting.Connector.open

    def open_late(self: Any, *arguments: Any, **more: Any) -> None:
        go_on.acquire()
        go_on.release()
        open_(self, *arguments, **more)

    monkeypatch.setattr(connecting.Connector, "open", open_late)
    one = manager(size=1, wait_timeout=0.3)
    hangs(one)
    eventually(lambda: len(one) == 0)
    before = server.monitor().total_connections
    go_on.release()
    # It connects, is found then, or closes what it has made.
    eventually(lambda: not endings._threads.attempts)
    assert server.monitor().total_connections - before <= 1
    eventually(lambda: server.monitor().connections == 0)
    with one.connection() as connection:
        assert connection.search_s("", ldap.SCOPE_BASE)


def green_event() -> Any:
    """A native lock, which is held."""
    from django_db_pooling.process import green

    lock = green.original("_thread", "allocate_lock")()
    lock.acquire()
    return lock


@pytest.mark.parametrize("fork", ["os.fork", "silent_fork"])
def test_a_child_ends_no_attempt_of_its_parents(in_process: Run, server: Slapd, fork: str) -> None:
    gateway = Gateway(server.tls_port)
    reported = in_process(f"""
fork = {fork}
from django_db_pooling.ldap import endings
def use(seconds):
    began = time.monotonic()
    one = ConnectionManager("ldaps://127.0.0.1:{gateway.port}", BIND, PASSWORD, size=1, wait_timeout=seconds)
    try:
        with one.connection():
            pass
    except ldap.TIMEOUT:
        pass
    eventually(lambda: len(one) == 0)
    return time.monotonic() - began
took = []
thread = threading.Thread(target=lambda: took.append(use(2.5)))
thread.start()
eventually(lambda: any(attempt.step for attempt in list(endings._threads.attempts)))
time.sleep(0.3)
pid = fork()
if not pid:
    report(use(0.3) < 1.5)
    report(len(endings._threads.attempts))
    os._exit(0)
assert wait(pid) == 0
report(took)
thread.join()
report(2.3 < took[0] < 4)
""")
    assert reported == [True, 0, [], True]
    gateway.close()
