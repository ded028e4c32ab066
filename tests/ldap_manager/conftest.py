"""A directory server, and managers of connections to it: the same in native threads and in greenlets."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.concurrency import PATIENCE, eventually, in_threads
from tests.conftest import require, require_module
from tests.proxy import TcpProxy
from tests.slapd import Slapd

USERS = 30
ROOT = Path(__file__).parent.parent.parent
GEVENT = "gevent" in sys.modules and sys.modules["gevent.monkey"].is_module_patched("socket")

Make = Callable[..., Any]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gevent: only there")
    config.addinivalue_line("markers", "threads: only there")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what means nothing here."""
    elsewhere = "threads" if GEVENT else "gevent"
    here = Path(__file__).parent
    items[:] = [
        item for item in items if here not in item.path.parents or not item.get_closest_marker(elsewhere)
    ]


@pytest.fixture(scope="session")
def server() -> Iterator[Slapd]:
    require(Slapd)
    require_module("ldap")
    with Slapd(users=USERS, tls=True) as server:
        yield server


@pytest.fixture
def proxy(server: Slapd) -> Iterator[TcpProxy]:
    with TcpProxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def manager(server: Slapd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes managers, of the first user's connections and of 2 where nothing else is said.

    Afterwards nothing may be in use.
    """
    from django_db_pooling.ldap import ConnectionManager, servers
    from django_db_pooling.process import housekeeper

    monkeypatch.setattr(housekeeper, "TICK", 0.05)
    servers.servers.cache_clear()
    made = []

    def make(uri: str | None = None, **arguments: Any) -> ConnectionManager:
        usual = {"bind": server.user_dn(0), "passwd": server.user_password(0), "size": 2, "wait_timeout": 5.0}
        one = ConnectionManager(uri or server.uri, **usual | arguments)
        made.append(one)
        return one

    yield make
    for one in made:
        eventually(lambda one=one: one.stats().in_use == one.stats().opening == one.stats().waiting == 0)
        one._pool.limits = type(one._pool.limits)()
        one.close()
        assert len(one) == 0
    made.clear()
    gc.collect()
    eventually(lambda: server.monitor().connections == 0)


def uri_of(proxy: TcpProxy) -> str:
    return f"ldap://{proxy.host}:{proxy.port}"


def together(*functions: Callable[[], Any]) -> list[Any]:
    """Run all at the same time; their results, or the first one's exception."""
    return in_threads(list(functions))


@contextmanager
def held(manager: Any, count: int = 1, *whose: str) -> Iterator[list[Any]]:
    """So many of its connections in use."""
    with ExitStack() as stack:
        yield [stack.enter_context(manager.connection(*whose)) for _ in range(count)]


@contextmanager
def repeatedly(function: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run it again and again beside the block; what it returned each time."""
    outcomes: list[Any] = []
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            outcomes.append(function())
            time.sleep(0.001)

    with beside(run) as outcome:
        try:
            yield outcomes
        finally:
            over.set()
    assert outcome == [None], outcome


@contextmanager
def beside(function: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run it beside the block; what it returned, or its exception, is in the list after the block."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield outcome
    thread.join(2 * PATIENCE)
    assert not thread.is_alive(), "a thread hangs"


def whoami(connection: Any) -> str:
    """As whom the server knows it: whoami_s, which would block all greenlets."""
    from ldap.extop import ExtendedRequest

    return str(connection.extop_s(ExtendedRequest("1.3.6.1.4.1.4203.1.11.3", None))[1].decode())


def find(connection: Any, server: Slapd, text: str = "(uid=user007)") -> list[str]:
    """The names of what is found."""
    import ldap

    return [dn for dn, _ in connection.search_s(server.people_dn, ldap.SCOPE_SUBTREE, text, ["uid"])]


def assert_whole(manager: Any, server: Slapd) -> None:
    """No slot is lost: as many as allowed can be in use at once, and each answers what it is asked."""
    eventually(lambda: manager.stats().in_use == manager.stats().opening == manager.stats().waiting == 0)
    with held(manager, manager.size) as connections:
        for number, connection in enumerate(connections):
            assert find(connection, server, f"(uid=user{number:03})") == [server.user_dn(number)]
    assert len(manager) <= manager.size


PRELUDE = """
import json, os, sys
if {gevent}:
    from gevent import monkey
    monkey.patch_all()
import gc, logging, signal, socket, threading, time
import ldap
# What it logs is none of the trouble that a process may have with its end.
logging.getLogger("django_db_pooling").addHandler(logging.NullHandler())
from django_db_pooling.ldap import ConnectionManager, MaxConnectionReachedError
from tests.concurrency import silent_fork
URI, BIND, PASSWORD, BASE = {arguments!r}

def find(connection, uid="user007"):
    return [dn for dn, _ in connection.search_s(BASE, ldap.SCOPE_SUBTREE, f"(uid={{uid}})", ["uid"])]

def report(what):
    print(json.dumps(what), flush=True)

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def eventually(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)

manager = ConnectionManager(URI, BIND, PASSWORD, size=2, wait_timeout=5)
"""


@pytest.fixture
def in_process(server: Slapd) -> Callable[..., Any]:
    """Runs code in a fresh Python; what it prints, line by line read as JSON."""

    def run(code: str, uri: str | None = None, gevent: bool = GEVENT) -> list[Any]:
        arguments = (uri or server.uri, server.user_dn(0), server.user_password(0), server.people_dn)
        prelude = PRELUDE.format(arguments=arguments, gevent=gevent)
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                "-W",
                "ignore:This process:DeprecationWarning",
                "-c",
                prelude + code,
            ],
            cwd=ROOT,
            env=os.environ,
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run
