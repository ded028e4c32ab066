"""Starts the process of one run, on a database of its own, and brings back its report."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.environments import Environments
from tests.neighbours.neighbours import MARIADB, POSTGRESQL, SQLITE, Neighbour
from tests.neighbours.spec import Report, Spec
from tests.servers import DatabaseServer, MariaDB, PostgreSQL

ROOT = Path(__file__).parents[2]
SECONDS = 300.0
SAMPLE_SECONDS = 0.01
LOG_END = 3000
ESTABLISHED = "01"

ENGINES = {
    SQLITE: "django.db.backends.sqlite3",
    POSTGRESQL: "django.db.backends.postgresql",
    MARIADB: "django.db.backends.mysql",
}
SERVERS: dict[str, type[MariaDB] | type[PostgreSQL]] = {POSTGRESQL: PostgreSQL, MARIADB: MariaDB}


class RunFailed(Exception):
    """A run came to no end; the message has the end of its output."""


class Runner:
    """Runs neighbours, with a server of each kind for all of them. Use it as a context manager.

    One run at a time: it counts all connections to a server.
    """

    def __init__(self, servers: dict[str, DatabaseServer] | None = None) -> None:
        self._servers = servers or {}
        self._environments = Environments()
        self._ours = ExitStack()
        self._numbers = count(1)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ours.close()

    def run(self, neighbour: Neighbour, kind: str, scope: str | None) -> Report:
        """Raises RunFailed, CannotInstall, ServerError."""
        python = self._python(neighbour)
        with tempfile.TemporaryDirectory(prefix="neighbour-") as directory:
            database, server = self._database(neighbour, kind, directory)
            output = Path(directory, "report.json")
            spec = Spec(neighbour.name, database, scope, str(output))
            with _watching(server.port if server else None) as seen:
                log = _call(python, neighbour, spec, directory)
            if not output.exists():
                title = f"{neighbour.name} on {kind}, {scope or 'plain'}"
                raise RunFailed(f"{title}: no report. The end of its output:\n{log[-LOG_END:]}")
            return replace(Report(**json.loads(output.read_text())), most=max(seen, default=0))

    def _python(self, neighbour: Neighbour) -> Path:
        return self._environments.python_with(*neighbour.requires)

    def _database(
        self, neighbour: Neighbour, kind: str, directory: str
    ) -> tuple[dict[str, Any], DatabaseServer | None]:
        database: dict[str, Any] = {"ENGINE": ENGINES[kind]}
        if kind == SQLITE:
            return database | {"NAME": f"{directory}/db.sqlite3", "OPTIONS": {"timeout": 20}}, None
        server = self._servers.get(kind)
        if server is None:
            server = self._servers[kind] = self._ours.enter_context(SERVERS[kind]())
        name = f"neighbours_{next(self._numbers)}"
        server.create(name)
        if neighbour.prepare:
            server.execute(neighbour.prepare.format(database=name), name)
        account = {"HOST": server.host, "PORT": server.port, "USER": server.user, "PASSWORD": server.password}
        return database | account | {"NAME": name}, server


def _call(python: Path, neighbour: Neighbour, spec: Spec, directory: str) -> str:
    """Its output."""
    environment = os.environ | spec.environment() | {"PYTHONPATH": str(ROOT)}
    environment |= {"POOLING_GEVENT": "1" if neighbour.gevent else ""}
    command = [str(python), "-m", "tests.neighbours.child"]
    with Path(directory, "log").open("w+") as log:
        try:
            subprocess.run(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            log.write(f"\nended after {SECONDS:.0f} s")
        log.seek(0)
        return log.read()


@contextmanager
def _watching(port: int | None) -> Iterator[list[int]]:
    """The numbers of sockets that are connected to the port, as long as the block takes."""
    seen: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            seen.append(_connected(port))

    thread = threading.Thread(target=sample)
    if port is not None:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        if port is not None:
            thread.join()


def _connected(port: int | None) -> int:
    """The clients' sides of them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    states = [(fields[2].partition(":")[2], fields[3]) for fields in map(str.split, lines)]
    return states.count((f"{port:04X}", ESTABLISHED))


def can_run(kind: str) -> bool:
    return kind == SQLITE or SERVERS[kind].find() is not None
