from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from tests.conftest import require
from tests.processes import has_ended, poll
from tests.servers import (
    DatabaseServer,
    HAProxy,
    MariaDB,
    MySQL,
    MySQLFamily,
    PgBouncer,
    PostgreSQL,
    Server,
    ServerError,
    free_port,
)
from tests.slapd import Slapd

REPOSITORY = Path(__file__).resolve().parent.parent
POSTGRESQL_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


@pytest.fixture(scope="module", params=[MariaDB, MySQL, PostgreSQL], ids=lambda server: server.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    require(request.param)
    with request.param() as server:
        server.create("bank")
        yield server


def connect(server: DatabaseServer) -> socket.socket:
    """A connection that is owed an answer: MySQL and MariaDB speak first, PostgreSQL when asked about TLS."""
    sock = socket.create_connection((server.host, server.port), timeout=10)
    if isinstance(server, PostgreSQL):
        sock.sendall(POSTGRESQL_SSL_REQUEST)
    return sock


def test_creating_a_database_twice_keeps_its_tables(server: DatabaseServer) -> None:
    server.execute("CREATE TABLE kept (id int)", "bank")
    server.create("bank")
    assert server.execute("SELECT count(*) FROM kept", "bank") == [("0",)]


def test_rows_come_back_with_special_characters(server: DatabaseServer) -> None:
    sql = "CREATE TABLE texts (a int, b varchar(20)); INSERT INTO texts VALUES (1, 'ü\tß'), (2, 'a\nb');"
    assert server.execute(sql + "SELECT * FROM texts ORDER BY a", "bank") == [("1", "ü\tß"), ("2", "a\nb")]


def test_a_statement_that_fails_raises_what_the_server_said(server: DatabaseServer) -> None:
    with pytest.raises(ServerError, match="nowhere"):
        server.execute("SELECT * FROM nowhere", "bank")


def test_a_restart_keeps_port_and_data(server: DatabaseServer) -> None:
    server.execute("CREATE TABLE survivors (id int)", "bank")
    pid, url = server.pid, server.url("bank")
    server.restart()
    assert (server.pid != pid, server.url("bank")) == (True, url)
    assert server.execute("SELECT count(*) FROM survivors", "bank") == [("0",)]


def test_a_killed_server_refuses_connections_and_can_be_started_again(server: DatabaseServer) -> None:
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        connect(server)
    server.start()
    assert server.execute("SELECT 1") == [("1",)]


def test_a_server_that_somebody_else_has_killed_can_be_started_again(server: DatabaseServer) -> None:
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    assert poll(lambda: has_ended(pid), 30)
    server.start()
    assert server.execute("SELECT 1") == [("1",)]


def test_a_suspended_server_accepts_but_answers_only_when_resumed(server: DatabaseServer) -> None:
    server.suspend()
    with connect(server) as sock:
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        server.resume()
        sock.settimeout(10)
        assert len(sock.recv(1)) == 1


def test_a_suspended_server_can_be_stopped(server: DatabaseServer) -> None:
    server.suspend()
    server.stop()
    server.start()


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_pgbouncer_hands_on_what_it_is_asked(mode: str) -> None:
    require(PgBouncer)
    with PostgreSQL() as server:
        server.create("bank")
        with PgBouncer(server.port, "bank", default_pool_size=1) as proxy:
            url = f"postgres://{proxy.user}:{proxy.password}@{proxy.host}:{proxy.port}/{mode}"
            for _ in range(2):
                with (
                    psycopg.connect(url, autocommit=True) as one,
                    psycopg.connect(url, autocommit=True) as other,
                ):
                    assert one.execute("SELECT current_database()").fetchone() == ("bank",)
                    assert proxy.execute("SHOW DATABASES")
                    if mode == "transaction":
                        query = "SELECT pg_backend_pid()"
                        assert one.execute(query).fetchone() == other.execute(query).fetchone()
                proxy.restart()
            pid = proxy.pid
        assert has_ended(pid)


def test_haproxy_leads_clients_to_the_server_that_it_is_told() -> None:
    require(PostgreSQL)
    require(HAProxy)
    with PostgreSQL() as first, PostgreSQL() as second, HAProxy([first, second]) as proxy:
        url = f"postgres://{first.user}:{first.password}@{proxy.host}:{proxy.port}/postgres"

        def led_to(connection: psycopg.Connection[Any]) -> int:
            return int(connection.execute("SELECT inet_server_port()").fetchone()[0])

        def newcomer_is_led_to() -> int:
            with psycopg.connect(url, autocommit=True) as connection:
                return led_to(connection)

        with psycopg.connect(url, autocommit=True) as early:
            assert led_to(early) == first.port
            proxy.set_state(first, "drain")
            assert (newcomer_is_led_to(), led_to(early)) == (second.port, first.port)
            proxy.set_state(first, "maint")
            with pytest.raises(psycopg.OperationalError):
                led_to(early)
        assert newcomer_is_led_to() == second.port
        proxy.set_state(first, "ready")
        assert newcomer_is_led_to() == first.port
        first.kill()
        assert poll(lambda: "DOWN" in proxy.execute("show stat"), 30)
        assert newcomer_is_led_to() == second.port
        with pytest.raises(ServerError, match="expects"):
            proxy.set_state(first, "asleep")
        proxy.restart()
        assert proxy.execute("show info")
        pid = proxy.pid
    assert has_ended(pid)


@pytest.mark.parametrize(
    ("server_class", "option"),
    [
        (MariaDB, ["--no-such-option"]),
        (MySQL, ["--no-such-option"]),
        (PostgreSQL, ["-c", "no_such_option=1"]),
        (Slapd, ["no_such_option 1"]),
    ],
    ids=["MariaDB", "MySQL", "PostgreSQL", "Slapd"],
)
def test_a_failed_start_raises_the_end_of_the_log(server_class: type[Server], option: list[str]) -> None:
    require(server_class)
    server = server_class(extra=option)
    with pytest.raises(ServerError, match=r"no.such.option"), server:
        pass


@pytest.mark.parametrize(
    "server_class", [MariaDB, MySQL, PostgreSQL, Slapd], ids=lambda server: server.__name__
)
def test_nothing_is_left_when_the_process_that_started_a_server_is_killed(
    server_class: type[Server],
) -> None:
    require(server_class)
    script = (
        f"from {server_class.__module__} import {server_class.__name__}\n"
        f"with {server_class.__name__}() as server:\n"
        "    print(server.pid, server.directory, flush=True)\n"
        "    input()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        owner.kill()
    assert poll(lambda: not Path(directory).exists(), 30)
    assert has_ended(int(pid))


@pytest.mark.parametrize("server_class", [MariaDB, MySQL], ids=lambda server: server.__name__)
def test_these_execute_even_when_all_connections_are_taken(server_class: type[MySQLFamily]) -> None:
    require(server_class)
    with server_class(max_connections=10) as server, ExitStack() as stack:
        arguments = {
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "password": server.password,
        }
        for _ in range(server.max_connections + 1):
            stack.enter_context(pymysql.connect(**arguments))
        with pytest.raises(pymysql.OperationalError, match="Too many connections"):
            pymysql.connect(**arguments)
        assert server.execute("SELECT 1") == [("1",)]


def encryption(server: DatabaseServer, **options: str) -> str | None:
    """The protocol that a client which is told ``options`` of its driver speaks, None where that is plain."""
    account = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    if isinstance(server, MySQLFamily):
        with closing(pymysql.connect(**account, **options)) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Ssl_version'")
            return cursor.fetchone()[1] or None
    with closing(psycopg.connect(**account, dbname="postgres", **options)) as connection:
        [version] = connection.execute(
            "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()
        return version


def test_a_client_that_is_told_nothing_speaks_tls(server: DatabaseServer) -> None:
    assert encryption(server) == "TLSv1.3"


def test_the_certificate_can_be_verified(server: DatabaseServer) -> None:
    certificate = str(server.certificate)
    if isinstance(server, MySQLFamily):
        verifying = {"ssl_ca": certificate, "ssl_verify_cert": True, "ssl_verify_identity": True}
    else:
        verifying = {"sslmode": "verify-full", "sslrootcert": certificate}
    assert encryption(server, **verifying) == "TLSv1.3"


@pytest.mark.parametrize("server_class", [MariaDB, PostgreSQL], ids=lambda server: server.__name__)
def test_without_tls_all_is_plain(server_class: type[DatabaseServer]) -> None:
    require(server_class)
    with server_class(tls=False) as server:
        assert encryption(server) is None


def test_a_free_port_can_be_bound() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as sock:
        assert sock.getsockname()[1] > 1024
