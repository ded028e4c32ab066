"""Starts the process of one run, on a database of its own, and brings back its report."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.environments import Environments
from tests.neighbours.neighbours import MARIADB, POSTGRESQL, SQLITE, Neighbour
from tests.neighbours.spec import Report, Spec
from tests.servers import DatabaseServer, MariaDB, PostgreSQL

ROOT = Path(__file__).parents[2]
SECONDS = 900.0
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
    """Runs neighbours, with a server of each kind for all of them. Use it as a context manager."""

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
            log, most = _call(python, neighbour, spec, server.port if server else None, directory)
            if not output.exists():
                title = f"{neighbour.name} on {kind}, {scope or 'plain'}"
                raise RunFailed(f"{title}: no report. The end of its output:\n{log[-LOG_END:]}")
            return replace(Report(**json.loads(output.read_text())), most=most)

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


def _call(
    python: Path, neighbour: Neighbour, spec: Spec, port: int | None, directory: str
) -> tuple[str, int]:
    """Its output, and the most sockets that it had connected to the port."""
    environment = os.environ | spec.environment() | {"PYTHONPATH": str(ROOT)}
    environment |= {"POOLING_GEVENT": "1" if neighbour.gevent else ""}
    command = [str(python), "-m", "tests.neighbours.child"]
    most, deadline = 0, time.monotonic() + SECONDS
    with Path(directory, "log").open("w+") as log:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            while process.poll() is None:
                most = max(most, _connected(process.pid, port) if port else 0)
                if time.monotonic() > deadline:
                    log.write(f"\nended after {SECONDS:.0f} s")
                    break
                time.sleep(SAMPLE_SECONDS)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        return log.read(), most


def _connected(pid: int, port: int) -> int:
    """How many sockets of the process are connected to the port of this machine."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2].endswith(f":{port:04X}") and fields[3] == ESTABLISHED:
            inodes.add(f"socket:[{fields[9]}]")
    # A descriptor may be there twice.
    mine = set()
    with contextlib.suppress(FileNotFoundError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                mine.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return len(inodes & mine)
