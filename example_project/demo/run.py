"""Starts the example site with a database of its own and compares the two scopes, with one view under load.

Then it sends some visitors to all pages and prints what the pool does, until Ctrl-C.

DATABASE_URL says which database; without it a private MariaDB is started where one is installed, else SQLite.
LDAP_URL says which directory; without it a private slapd is started where it and django-ldapdb are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from load import Load, Rush

HERE = Path(__file__).resolve().parent
SITE = HERE.parent
ROOT = SITE.parent
HOST = "127.0.0.1"
PORT = 8000
DATABASE = "bank"
MAX_CONNECTIONS = 50
CLERKS = 100
# The settings with a directory.
PEOPLE = "people.settings"
START_SECONDS = 30
STOP_SECONDS = 15
REPORT_SECONDS = 5
ONCE_SECONDS = 3
# Few, so that it's the connections that are short, and not this machine.
POOL = {"POOL_SIZE": "5", "POOL_MAX_OUTSTANDING": "5"}
RUSH_VISITORS = 30
RUSH_SECONDS = 4.0
# Of bank/api.py: the same work, and how long each keeps its connection.
COMPARED = {
    "/mixed/{}.json": "request scope, the default",
    "/mixed-released/{}.json": "request scope, release() before the call",
    "/mixed-transaction/{}.json": "transaction scope",
}


class DemoFailed(Exception):
    """Its text says what to do, or ends with the output of the child process."""


@dataclass(frozen=True)
class Database:
    name: str
    url: str
    connections: Callable[[], int] | None = None
    """How many connections the server itself counts for this database, where that is known."""


@dataclass(frozen=True)
class Directory:
    name: str
    environment: dict[str, str] = field(default_factory=dict)
    figures: Callable[[], str] | None = None
    """What the server itself counts, where that is known."""


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            try:
                return _run(stack, arguments.port, arguments.seconds)
            finally:
                _ignore_signals()
    except KeyboardInterrupt:
        print("Stopped.")
        return 0
    except DemoFailed as failure:
        print(failure, file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--once", dest="seconds", action="store_const", const=ONCE_SECONDS, help="run for 3 s"
    )
    length.add_argument("--seconds", type=float, help="run for so long instead of until Ctrl-C")
    parser.add_argument("--port", type=int, help=f"default: {PORT}, or a free one where that is taken")
    return parser.parse_args()


def _ignore_signals() -> None:
    """Ignore Ctrl-C while everything is being stopped: it would leave something behind."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(stack: ExitStack, port: int | None, seconds: float | None) -> int:
    sys.path.insert(0, str(ROOT))
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bank-demo-")))
    database = stack.enter_context(_database(directory))
    people = stack.enter_context(_people())
    port = port or _free_port()
    password = secrets.token_urlsafe(9)
    environment = {
        # Its own, so that its pools are not those of another demo.
        "SECRET_KEY": secrets.token_urlsafe(32),
        **POOL,
        **os.environ,
        **people.environment,
        "DATABASE_URL": database.url,
        "DEMO_ADMIN_PASSWORD": password,
        "PORT": str(port),
        "HOST": HOST,
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT), str(HERE)])),
    }
    print(f"Database: {database.name}\nDirectory: {people.name}", flush=True)
    _manage(environment, "migrate", "--verbosity=0")
    _manage(environment, "seed", "--accounts=200", "--transfers=2000", "--demo-admin")

    url = f"http://{HOST}:{port}"
    stack.enter_context(_gunicorn(environment, url, directory / "gunicorn.log"))
    print(f"\n  Bank   {url}/")
    if people.environment:
        print(f"  People {url}/people/")
    print(f"  Admin  {url}/admin/  user demo, password {password}")
    pools = "no pools, since POOLING is off" if os.environ.get("POOLING") == "off" else f"{url}/pools/"
    print(f"  Pools  {pools}")
    if find_spec("prometheus_client") is not None:
        print(f"         {url}/metrics for Prometheus")
    print(flush=True)
    if os.environ.get("POOLING") != "off":
        _compare(port, url)
    load = Load(HOST, port, people=bool(people.environment))
    load.start()
    stack.callback(load.stop)
    if seconds is None:
        print("Ctrl-C ends it.", flush=True)
    _report_until_end(load, url, database, people, seconds)
    load.stop()
    print(f"{load.answered} requests answered, {load.failed} failed.")
    return 1 if load.failed else 0


@contextmanager
def _database(directory: Path) -> Iterator[Database]:
    """A given one, a private MariaDB, or SQLite; what was started here ends here."""
    given = os.environ.get("DATABASE_URL")
    if given:
        yield Database("the one in DATABASE_URL", given)
        return
    from tests.servers import MariaDB

    if MariaDB.find() is None:
        yield Database("SQLite, since no MariaDB is installed", f"sqlite:///{directory / 'bank.sqlite3'}")
        return
    with MariaDB(max_connections=MAX_CONNECTIONS) as server:
        server.create(DATABASE)

        def connections() -> int:
            count = f"SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{DATABASE}'"
            return int(server.execute(count)[0][0])

        name = f"a private MariaDB on port {server.port}, which takes {MAX_CONNECTIONS} connections"
        yield Database(name, server.url(DATABASE), connections)


@contextmanager
def _people() -> Iterator[Directory]:
    """A given directory, a private slapd, or none."""
    given = os.environ.get("LDAP_URL")
    if given:
        yield Directory("the one in LDAP_URL", {"LDAP_URL": given, "DJANGO_SETTINGS_MODULE": PEOPLE})
        return
    from tests.slapd import Slapd

    if Slapd.find() is None or not (find_spec("ldap") and find_spec("ldapdb")):
        yield Directory("none, since slapd or django-ldapdb is not installed")
        return
    with Slapd(users=CLERKS) as server:

        def figures() -> str:
            now = server.monitor()
            return f"{now.connections}, after {now.binds} binds and {now.searches} searches"

        environment = {
            "DJANGO_SETTINGS_MODULE": PEOPLE,
            "LDAP_URL": f"{server.uri}/{server.base_dn}",
            "LDAP_BIND_DN": server.user_dn(0),
            "LDAP_PASSWORD": server.user_password(0),
        }
        yield Directory(f"a private slapd on port {server.port}", environment, figures)


def _free_port() -> int:
    for port in (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise DemoFailed(f"There is no free port on {HOST}.")


def _manage(environment: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, str(SITE / "manage.py"), *arguments]
    if subprocess.run(command, env=environment, start_new_session=True).returncode:
        raise DemoFailed(f"manage.py {arguments[0]} failed.")


@contextmanager
def _gunicorn(environment: dict[str, str], url: str, log_path: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "gunicorn", "-c", str(SITE / "gunicorn.conf.py")]
    with log_path.open("wb") as log:
        # In a session of its own, so that Ctrl-C reaches only this process, which stops the rest in order.
        child = subprocess.Popen(
            command, cwd=SITE, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for_answer(child, url, log_path)
        yield
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for_answer(child: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        try:
            # Of the child's session: it may be another demo that was a moment faster with this port.
            is_ours = os.getsid(json.loads(_get(f"{url}/pool.json"))["pid"]) == child.pid
        except (OSError, ValueError):
            is_ours = False
        if is_ours and child.poll() is None:
            return
        time.sleep(0.1)
    raise DemoFailed(f"gunicorn did not start. The end of its log:\n{log_path.read_text()[-3000:]}")


def _compare(port: int, url: str) -> None:
    """The same view with the connection held for longer and shorter."""
    print(f"{RUSH_VISITORS} visitors at once, one view: a query, 100 ms in another service, a query.")
    for path, name in COMPARED.items():
        rush = Rush(HOST, port, path.format(1), RUSH_VISITORS)
        rush.start()
        time.sleep(RUSH_SECONDS / 2)
        pool = json.loads(_get(f"{url}/pool.json"))["pools"]["default"]
        time.sleep(RUSH_SECONDS / 2)
        rate = rush.stop()
        failures = f", {rush.failed} failed" if rush.failed else ""
        print(
            f"  {name:41} {rate:5.0f} requests/s{failures} | {pool['in_use']} of {pool['max_outstanding']} "
            f"connections in use, {pool['waiting']} waiting",
            flush=True,
        )
    print(flush=True)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=START_SECONDS) as response:
        return response.read()


def _report_until_end(
    load: Load, url: str, database: Database, people: Directory, seconds: float | None
) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        answered, began = load.answered, time.monotonic()
        time.sleep(REPORT_SECONDS if end is None else max(0, min(REPORT_SECONDS, end - began)))
        rate = (load.answered - answered) / (time.monotonic() - began)
        failures = f", {load.failed} failed ({load.last_failure})" if load.failed else ""
        begin = f"{rate:5.1f} requests/s{failures}"
        for figures in _pool_figures(url, database, people):
            print(f"{begin} | {figures}", flush=True)
            begin = " " * len(begin)


def _pool_figures(url: str, database: Database, people: Directory) -> list[str]:
    """A line for each pool."""
    try:
        pools = json.loads(_get(f"{url}/pool.json"))["pools"]
    except OSError as failure:
        return [f"no figures: {failure}"]
    lines = {
        alias: "{alias}: {in_use} in use, {idle} idle, {opening} opening, {waiting} waiting, "
        "{checkouts} checkouts on {opened} connections".format_map(pool)
        for alias, pool in pools.items()
    } or {"default": "no pool"}
    for alias, count in {"default": database.connections, "directory": people.figures}.items():
        if count:
            lines[alias] = f"{lines.get(alias, f'{alias}: no pool')} | the server counts {count()}"
    return list(lines.values())


if __name__ == "__main__":
    sys.exit(main())
