"""A patched Django and one LDAP server, with an alias of its own for each test."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, NamedTuple
from uuid import uuid4

import django
import pytest

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.ldap_backend.settings"

django.setup()

import ldap  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402

from django_db_pooling import conf, pooling  # noqa: E402
from tests.concurrency import PATIENCE, eventually, in_threads  # noqa: E402
from tests.ldap_backend.models import Router, User  # noqa: E402
from tests.proxy import TcpProxy  # noqa: E402
from tests.requests import request_finished, request_started  # noqa: E402
from tests.slapd import OBSERVER_DN, OBSERVER_PASSWORD, Activity, Slapd  # noqa: E402

GEVENT = bool(os.environ.get("POOLING_GEVENT"))
USERS = 40
# There is no attribute of users in the usual schemas that is true or false.
SCHEMA = [
    "attributetype ( 1.3.6.1.4.1.32473.1.1 NAME 'exampleActive' EQUALITY booleanMatch"
    " SYNTAX 1.3.6.1.4.1.1466.115.121.1.7 SINGLE-VALUE )",
    "objectclass ( 1.3.6.1.4.1.32473.2.1 NAME 'exampleAccount' SUP top AUXILIARY MAY exampleActive )",
]

# Makes an alias, of the shared server where none is given, and has all models use it; returns its name.
Configure = Callable[..., str]

_numbers = itertools.count(1)


class Setting(NamedTuple):
    """Where a test runs that is the same everywhere."""

    alias: str
    scope: str
    most: int


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is only for gevent."""
    items[:] = [item for item in items if GEVENT or item.get_closest_marker("only_gevent") is None]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only_gevent: tests of greenlets")


@pytest.fixture(scope="session")
def server() -> Iterator[Slapd]:
    with Slapd(USERS, extra=SCHEMA, tls=True) as one:
        yield one


@pytest.fixture(scope="session")
def second_server() -> Iterator[Slapd]:
    with Slapd(USERS, extra=SCHEMA) as one:
        yield one


@pytest.fixture(scope="session", autouse=True)
def patched() -> Iterator[None]:
    call_command("migrate", verbosity=0)
    pooling.patch()
    yield
    pooling.close_all()


@pytest.fixture
def configure(server: Slapd) -> Iterator[Configure]:
    names: list[str] = []

    def make(on: Slapd = server, **changes: Any) -> str:
        name = Router.alias = f"ldap{next(_numbers)}"
        connections.settings[name] = deepcopy(connections.settings["default"]) | {
            "ENGINE": "ldapdb.backends.ldap",
            "NAME": on.uri,
            "USER": on.admin_dn,
            "PASSWORD": on.password,
            **changes,
        }
        # Nothing stays longer than a test.
        if changes.get("POOL") is not False:
            pool = {"SIZE": 8, "MAX_OUTSTANDING": 8, "TIMEOUT": 5, "CONNECT_RETRY": 0}
            connections.settings[name]["POOL"] = pool | changes.get("POOL", {})
        names.append(name)
        return name

    yield make
    request_finished()
    conf._overrides.clear()
    for name in names:
        _forget(name)
    Router.alias = "nowhere"


def _forget(name: str) -> None:
    with suppress(AttributeError):
        wrapper: Any = getattr(connections._connections, name)  # type: ignore[attr-defined]
        wrapper.in_atomic_block = False
        wrapper.close()
        del connections[name]
    if connections.settings[name]["POOL"] is not False:
        # Its pool isn't wanted any more, whatever its MIN_SIZE.
        connections.settings[name] |= {"POOL": None, "NAME": "gone"}
        eventually(lambda: (pooling.stats(name).in_use, pooling.stats(name).opening) == (0, 0))
        pooling.close_all(name)
    del connections.settings[name]


@pytest.fixture
def alias(configure: Configure) -> str:
    """Eight connections, and no request."""
    return configure()


@pytest.fixture
def stock(configure: Configure) -> str:
    """The same directory without a pool. Models use it where a test says so."""
    before = Router.alias
    name = configure(POOL=False)
    Router.alias = before
    return name


@pytest.fixture(params=[("request", 1), ("request", 8), ("transaction", 1), ("transaction", 8)], ids=str)
def everywhere(request: pytest.FixtureRequest, configure: Configure) -> Iterator[Setting]:
    """In a request, in both scopes, with one connection and with eight."""
    scope, most = request.param
    name = configure(POOL={"SIZE": most, "MAX_OUTSTANDING": most, "SCOPE": scope})
    with a_request():
        yield Setting(name, scope, most)


@contextmanager
def a_request() -> Iterator[None]:
    request_started()
    try:
        yield
    finally:
        request_finished()


def in_a_request(function: Callable[[], Any]) -> Callable[[], Any]:
    """The same, in a request of its own."""

    def run() -> Any:
        with a_request():
            return function()

    return run


@pytest.fixture
def proxy(server: Slapd) -> Iterator[TcpProxy]:
    with TcpProxy(server.host, server.port) as one:
        yield one


@pytest.fixture(params=["ldap", "StartTLS", "ldaps"])
def secured(
    request: pytest.FixtureRequest, server: Slapd, configure: Configure
) -> Iterator[tuple[TcpProxy, str]]:
    """A proxy, and an alias whose connections go through it."""
    port = server.tls_port if request.param == "ldaps" else server.port
    with TcpProxy(server.host, port) as proxy:
        scheme = "ldaps" if request.param == "ldaps" else "ldap"
        changes: dict[str, Any] = {}
        if request.param != "ldap":
            changes["CONNECTION_OPTIONS"] = {
                ldap.OPT_X_TLS_CACERTFILE: str(server.certificate),
                ldap.OPT_X_TLS_REQUIRE_CERT: ldap.OPT_X_TLS_DEMAND,
            }
        name = f"{scheme}://{proxy.host}:{proxy.port}"
        yield proxy, configure(NAME=name, TLS=request.param == "StartTLS", **changes)


@pytest.fixture(autouse=True)
def nothing_is_left(server: Slapd) -> Iterator[None]:
    """After a test nobody is connected, and there are the entries that there were before."""
    yield
    with _observing(server) as others:
        if others():
            # What the test has dropped is destroyed here.
            gc.collect()
            eventually(lambda: not others())
    remove_new(server)


@contextmanager
def _observing(server: Slapd) -> Iterator[Callable[[], int]]:
    """A count of the other connections, cheaper than monitor(), whose counts of operations this changes."""
    connection = ldap.initialize(server.uri)
    try:
        connection.simple_bind_s(OBSERVER_DN, OBSERVER_PASSWORD)
        base, attribute = "cn=Connections,cn=Monitor", "monitorConnectionAuthzDN"

        def others() -> int:
            found = connection.search_s(base, ldap.SCOPE_ONELEVEL, "(cn=Connection *)", [attribute])
            return sum(OBSERVER_DN.encode() not in values.get(attribute, []) for _, values in found)

        yield others
    finally:
        connection.unbind_s()


@contextmanager
def admin(server: Slapd) -> Iterator[Any]:
    """A connection that no pool knows."""
    connection = ldap.initialize(server.uri)
    try:
        connection.simple_bind_s(server.admin_dn, server.password)
        yield connection
    finally:
        connection.unbind_s()


def remove_new(server: Slapd) -> list[str]:
    """What tests have added; the names of that."""
    with admin(server) as connection:
        found = connection.search_s(Slapd.base_dn, ldap.SCOPE_SUBTREE, "(|(uid=new*)(cn=new*))", ["1.1"])
        for dn, _ in found:
            connection.delete_s(dn)
    return sorted(dn for dn, _ in found)


def spent(server: Slapd, before: Activity) -> dict[str, int]:
    """What clients have asked for since, without what they haven't."""
    now = server.monitor()
    kinds = ("binds", "searches", "adds", "modifies", "deletes")
    return {kind: more for kind in kinds if (more := getattr(now, kind) - getattr(before, kind))}


def new(model: type[Any] = User, uid: str = "", **values: Any) -> Any:
    """Somebody who isn't in the directory yet."""
    uid = uid or f"new{uuid4().hex[:8]}"
    values = {"cn": uid, "sn": uid, "number": 9000, "team": 5000, "home": f"/home/{uid}"} | values
    return model(uid=uid, **values)


def mail(number: int = 7) -> str:
    """A query."""
    return str(User.objects.get(uid=Slapd.uid(number)).mail)


def ask(number: int = 7) -> None:
    """A query whose answer can't be another one's."""
    assert mail(number) == f"{Slapd.uid(number)}@example.org"


def in_use(alias: str) -> int:
    return pooling.stats(alias).in_use


@contextmanager
def held(count: int = 1) -> Iterator[None]:
    """So many connections in use by other threads."""
    letting_go = threading.Event()
    holding = threading.Semaphore(0)

    @pooling.scope("request")
    def hold() -> None:
        ask()
        holding.release()
        letting_go.wait(PATIENCE)

    threads = [threading.Thread(target=hold) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert holding.acquire(timeout=PATIENCE)
        yield
    finally:
        letting_go.set()
        for thread in threads:
            thread.join(PATIENCE)


def assert_whole(alias: str, server: Slapd) -> None:
    """No slot is lost: as many as allowed can be in use at once, and each answers what it is asked."""
    stats = pooling.stats
    eventually(lambda: (stats(alias).in_use, stats(alias).opening, stats(alias).waiting) == (0, 0, 0))
    most = stats(alias).max_outstanding
    assert most is not None
    together = threading.Barrier(most)

    @pooling.scope("request")
    def use(number: int) -> None:
        ask(number)
        together.wait(PATIENCE)
        ask(number + 1)

    in_threads([lambda number=number: use(number) for number in range(most)])
    eventually(lambda: in_use(alias) == 0)
    eventually(lambda: server.monitor().connections <= most)
