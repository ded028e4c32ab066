"""What docs/servers.rst has for servers that end without atexit: with it MariaDB counts no aborted client."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.conftest import require_module
from tests.scripts import ROOT
from tests.servers import MariaDB, free_port

SECONDS = 30.0
SETTINGS = """
import pymysql
pymysql.install_as_MySQLdb()
SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "site_settings"
INSTALLED_APPS = ["django_db_pooling"]
DATABASES = {{"default": {database!r}}}

def view(request):
    from django.db import connection
    from django.http import HttpResponse
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(0.05)")
    return HttpResponse("served")

from django.urls import path
urlpatterns = [path("", view)]
"""
ASGI = "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n"
WSGI = "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
# Leaves SIGTERM alone, as waitress does.
THREADS = """
import socketserver, sys
from wsgiref import simple_server
from served import application
class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True
simple_server.make_server("127.0.0.1", int(sys.argv[1]), application, Server).serve_forever()
"""


def block(name: str) -> str:
    """The lines for this file that the page has."""
    page = (ROOT / "docs" / "servers.rst").read_text(encoding="utf-8")
    [found] = re.findall(
        rf"^\.\. code-block:: python\n\n(    # {name}\n(?:    .*\n|\n)*)", page, re.MULTILINE
    )
    return textwrap.dedent(found)


def uvicorn(port: int) -> list[str]:
    require_module("uvicorn")
    return ["-m", "uvicorn", "--port", str(port), "served:application"]


def uvicorn_of_two(port: int) -> list[str]:
    return [*uvicorn(port), "--workers", "2"]


def threads(port: int) -> list[str]:
    return ["-c", THREADS, str(port)]


def asked(server: MariaDB, statement: str) -> int:
    account: dict[str, Any] = {"user": server.user, "password": server.password}
    with (
        pymysql.connect(host=server.host, port=int(server.port), **account) as client,
        client.cursor() as cursor,
    ):
        cursor.execute(statement)
        return int(cursor.fetchall()[0][-1])


def got(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=SECONDS) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("served", "command", "goodbye"),
    [
        (block("asgi.py"), uvicorn, True),
        (block("asgi.py"), uvicorn_of_two, True),
        # That the test can fail: what changes with the lines.
        (ASGI, uvicorn, False),
        (WSGI + block("wsgi.py"), threads, True),
        (WSGI, threads, False),
    ],
    ids=["lifespan", "lifespan of two processes", "no lifespan", "SIGTERM", "no SIGTERM"],
)
def test_at_its_end_a_server_says_goodbye(
    mariadb: MariaDB, tmp_path: Path, served: str, command: Callable[[int], list[str]], goodbye: bool
) -> None:
    mariadb.create("goodbyes")
    database = {
        "ENGINE": "django.db.backends.mysql",
        **{"NAME": "goodbyes", "HOST": mariadb.host, "PORT": str(mariadb.port)},
        **{"USER": mariadb.user, "PASSWORD": mariadb.password},
    }
    (tmp_path / "site_settings.py").write_text(SETTINGS.format(database=database))
    (tmp_path / "served.py").write_text(served)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "site_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
    }
    there = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = 'goodbyes'"
    aborted = "SHOW GLOBAL STATUS LIKE 'Aborted_clients'"
    before, port = asked(mariadb, aborted), free_port()
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, *command(port)], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
        try:
            until(lambda: got(port) == "served", tmp_path / "log")
            with ThreadPoolExecutor(8) as clients:
                assert list(clients.map(got, [port] * 40)) == ["served"] * 40
            assert asked(mariadb, there) > 1
            server.send_signal(signal.SIGTERM)
            server.wait(SECONDS)
        finally:
            server.kill()
            server.wait(SECONDS)
    until(lambda: asked(mariadb, there) == 0, tmp_path / "log")
    if goodbye:
        # It counts when it notices.
        time.sleep(0.5)
        assert asked(mariadb, aborted) == before, (tmp_path / "log").read_text()
    else:
        until(lambda: asked(mariadb, aborted) > before, tmp_path / "log")


def until(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
