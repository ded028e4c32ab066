from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.conftest import require, require_module
from tests.processes import has_ended, poll
from tests.servers import ServerError
from tests.slapd import TEAMS, Slapd

USERS = 30
SECONDS = 10
ANONYMOUS_BIND = bytes.fromhex("300c020101 6007020103 0400 8000")
EVERYBODY = "(objectClass=inetOrgPerson)"


@pytest.fixture(scope="module")
def server() -> Iterator[Slapd]:
    require(Slapd)
    require_module("ldap")
    with Slapd(users=USERS, tls=True) as server:
        yield server


@contextmanager
def connection(uri: str, certificate: str = "", start_tls: bool = False) -> Iterator[Any]:
    """A client that verifies the server by the certificate if it speaks TLS."""
    import ldap

    client = ldap.initialize(uri)
    client.set_option(ldap.OPT_NETWORK_TIMEOUT, SECONDS)
    client.set_option(ldap.OPT_TIMEOUT, SECONDS)
    if certificate:
        client.set_option(ldap.OPT_X_TLS_CACERTFILE, certificate)
        client.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
        client.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
    try:
        if start_tls:
            client.start_tls_s()
        yield client
    finally:
        client.unbind_s()


def search(client: Any, base: str, text: str) -> list[tuple[str, dict[str, list[bytes]]]]:
    import ldap

    return list(client.search_s(base, ldap.SCOPE_SUBTREE, text))


def add_unit(server: Slapd, name: str) -> str:
    dn = f"ou={name},{server.base_dn}"
    with connection(server.uri) as client:
        client.simple_bind_s(server.admin_dn, server.password)
        client.add_s(dn, [("objectClass", b"organizationalUnit")])
    return dn


def has(server: Slapd, dn: str) -> bool:
    with connection(server.uri) as client:
        client.simple_bind_s(server.user_dn(0), server.user_password(0))
        return bool(search(client, server.base_dn, f"({dn.partition(',')[0]})"))


def test_it_has_users_and_groups(server: Slapd) -> None:
    with connection(server.uri) as client:
        client.simple_bind_s(server.user_dn(7), server.user_password(7))
        assert client.whoami_s() == f"dn:{server.user_dn(7)}"
        assert len(search(client, server.people_dn, EVERYBODY)) == USERS
        [(_, user)] = search(client, server.people_dn, "(uid=user007)")
        [(_, team)] = search(client, server.groups_dn, f"(gidNumber={user['gidNumber'][0].decode()})")
        [(_, leaders)] = search(client, server.groups_dn, "(cn=leaders)")
    assert user["cn"] == [b"User 007"]
    assert team["memberUid"] == [b"user007", b"user017", b"user027"]
    assert len(leaders["member"]) == TEAMS


def test_who_has_not_bound_or_is_not_the_admin_can_do_less(server: Slapd) -> None:
    import ldap

    with connection(server.uri) as client:
        with pytest.raises(ldap.NO_SUCH_OBJECT):
            search(client, server.base_dn, EVERYBODY)
        with pytest.raises(ldap.INVALID_CREDENTIALS):
            client.simple_bind_s(server.user_dn(0), server.user_password(1))
        client.simple_bind_s(server.user_dn(0), server.user_password(0))
        client.simple_bind_s(server.user_dn(1), server.user_password(1))
        with pytest.raises(ldap.INSUFFICIENT_ACCESS):
            client.delete_s(server.user_dn(2))


def test_a_restart_keeps_port_and_data_and_counts_from_nothing(server: Slapd) -> None:
    dn, pid, uri = add_unit(server, "survivors"), server.pid, server.uri
    server.restart()
    activity = server.monitor()
    assert (server.pid != pid, server.uri) == (True, uri)
    assert (activity.binds, activity.total_connections) == (0, 0)
    assert has(server, dn)


def test_a_killed_server_refuses_connections_and_can_be_started_again(server: Slapd) -> None:
    dn = add_unit(server, "crash")
    server.kill()
    for port in (server.port, server.tls_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, port), timeout=SECONDS)
    server.start()
    assert has(server, dn)


def test_a_server_that_somebody_else_has_killed_can_be_started_again(server: Slapd) -> None:
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    assert poll(lambda: has_ended(pid), SECONDS)
    server.start()
    assert server.monitor().connections == 0


def test_a_suspended_server_accepts_but_answers_only_when_resumed(server: Slapd) -> None:
    server.suspend()
    with socket.create_connection((server.host, server.port), timeout=SECONDS) as sock:
        sock.sendall(ANONYMOUS_BIND)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        server.resume()
        sock.settimeout(SECONDS)
        assert len(sock.recv(1)) == 1


@pytest.mark.parametrize("suspended", [False, True])
def test_it_stops_without_waiting_for_clients(server: Slapd, suspended: bool) -> None:
    with socket.create_connection((server.host, server.port), timeout=SECONDS) as sock:
        sock.sendall(ANONYMOUS_BIND)
        assert sock.recv(100)
        if suspended:
            server.suspend()
        server.stop()
        assert sock.recv(100) == b""
    server.start()


@pytest.mark.parametrize("start_tls", [False, True], ids=["ldaps", "StartTLS"])
def test_with_tls_it_has_a_certificate_that_a_client_can_verify(server: Slapd, start_tls: bool) -> None:
    import ldap

    uri = server.uri if start_tls else server.tls_uri
    with connection(uri, str(server.certificate), start_tls) as client:
        client.simple_bind_s(server.user_dn(0), server.user_password(0))
        assert client.get_option(ldap.OPT_X_TLS_VERSION).startswith("TLS")
    failure = ldap.CONNECT_ERROR if start_tls else ldap.SERVER_DOWN
    with (
        Slapd(users=0, tls=True) as other,
        pytest.raises(failure),
        connection(uri, str(other.certificate), start_tls) as client,
    ):
        client.simple_bind_s()


def test_monitor_counts_what_clients_do_and_not_what_it_does_itself(server: Slapd) -> None:
    import ldap

    server.restart()
    server.monitor()
    with ExitStack() as stack:
        clients = [stack.enter_context(connection(server.uri)) for _ in range(5)]
        for number, client in enumerate(clients):
            client.simple_bind_s(server.user_dn(number), server.user_password(number))
            for _ in range(number):
                search(client, server.people_dn, f"(uid={server.uid(number)})")
            assert server.monitor().connections == number + 1
        with pytest.raises(ldap.INVALID_CREDENTIALS):
            clients[0].simple_bind_s(server.admin_dn, "wrong")
        clients[0].simple_bind_s(server.admin_dn, server.password)
        dn = f"ou=short-lived,{server.base_dn}"
        clients[0].add_s(dn, [("objectClass", b"organizationalUnit")])
        for text in (b"one", b"two"):
            clients[0].modify_s(dn, [(ldap.MOD_REPLACE, "description", text)])
        clients[0].delete_s(dn)
        activity = server.monitor()
        assert (activity.binds, activity.searches) == (7, 10)
        assert (activity.adds, activity.modifies, activity.deletes) == (1, 2, 1)
        assert (activity.connections, activity.total_connections) == (5, 5)
    assert poll(lambda: server.monitor().connections == 0, SECONDS)
    after = server.monitor()
    assert (after.binds, after.searches, after.total_connections) == (7, 10, 5)


def test_monitor_says_so_when_it_cannot_know(server: Slapd) -> None:
    server.stop()
    with pytest.raises(ServerError, match="Can't contact"):
        server.monitor()
    with pytest.raises(ServerError, match="restart"):
        server.monitor()
    server.start()
    assert server.monitor().binds == 0


def test_idle_connections_end_when_it_is_told_so() -> None:
    require(Slapd)
    with Slapd(users=0, extra=["idletimeout 1"]) as server:
        directory = server.directory
        with socket.create_connection((server.host, server.port), timeout=SECONDS) as sock:
            sock.sendall(ANONYMOUS_BIND)
            assert sock.recv(100)
            assert sock.recv(100) == b""
    assert not directory.exists()
