"""The test site under a real web server, in processes of its own: gunicorn, uvicorn, uWSGI or any other."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import processes
from tests.e2e.observer import DATABASE
from tests.proxy import TcpProxy
from tests.servers import HOST, DatabaseServer, free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 45.0
ANSWER_SECONDS = 60.0
COMMAND_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Answer:
    """``status`` 0: there was none, and ``text`` says why."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


@dataclass
class Site:
    """A running site."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    environment: dict[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def get(self, path: str) -> Answer:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            return Answer(response.status, text, dict(response.getheaders()))
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, repr(error))
        finally:
            connection.close()

    def get_all(self, paths: Sequence[str], at_once: int | None = None) -> list[Answer]:
        """All of these, up to ``at_once`` at the same time; left out: all."""
        with ThreadPoolExecutor(at_once or len(paths)) as pool:
            return list(pool.map(self.get, paths))

    def stats(self) -> dict[str, Any]:
        """The pool of the default database, in one of the workers."""
        answer = self.get("/pool.json")
        assert answer.status == 200, answer
        stats: dict[str, Any] = json.loads(answer.text)["pools"]["default"]
        return stats

    def load(
        self, *paths: str, clients: int, seconds: float, leave: float = 0.0, keep_alive: bool = False
    ) -> Load:
        """Start a load generator in another process. ``leave``: how many are not waited for, of 1."""
        command = [sys.executable, "-m", "tests.e2e.load", *(self.url + path for path in paths)]
        command += [f"--clients={clients}", f"--seconds={seconds}", f"--leave={leave}"]
        command += ["--keep-alive"] if keep_alive else []
        return Load(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE))

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the site's settings."""
        return subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def terminate(self) -> int:
        """Ask for a graceful end, as an init system does, and return the exit status."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)


@dataclass
class Load:
    """A load generator that runs; see tests/e2e/load.py for what it reports."""

    process: subprocess.Popen[bytes] = field(repr=False)

    def end(self) -> dict[str, Any]:
        """No more requests; its report when all have their answer."""
        self.process.terminate()
        return self.report()

    def report(self) -> dict[str, Any]:
        """Wait for its end."""
        output, _ = self.process.communicate()
        assert self.process.returncode == 0
        report: dict[str, Any] = json.loads(output)
        return report


def eventually(condition: Callable[[], Any], seconds: float) -> None:
    """Wait until the condition holds; fail with what it returned last."""
    deadline = time.monotonic() + seconds
    while not (last := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s, and it is {last!r}"
        time.sleep(POLL_SECONDS)


def url_through(proxy: TcpProxy, server: DatabaseServer) -> str:
    """The setting ``database_url`` of a site that reaches its server through a proxy."""
    return server.url(DATABASE).replace(f"@{server.host}:{server.port}/", f"@{proxy.host}:{proxy.port}/")


@contextmanager
def gunicorn(
    server: DatabaseServer,
    *,
    pooling: tuple[int, int] | None,
    worker: str = "gevent",
    arguments: Sequence[str] = (),
    **settings: Any,
) -> Iterator[Site]:
    """gunicorn with the test site. ``pooling``: size and max_outstanding, or None for an unpatched Django.

    ``settings``: those of tests/site, as ``pool={...}`` for SITE_POOL; ``module``: another than its own.
    """
    if pooling is not None:
        settings["pooling"] = "{}/{}".format(*pooling)
    port = free_port()
    # Its script: a master that is begun by -m can't begin another one (USR2).
    command = [sys.executable, str(Path(sys.executable).with_name("gunicorn")), "tests.site.wsgi:application"]
    command += [f"--bind={HOST}:{port}", f"--worker-class={worker}", *arguments]
    with _running(command, port, environment_of(server, settings)) as site:
        yield site


@contextmanager
def uvicorn(
    server: DatabaseServer, *, pooling: tuple[int, int] | None, arguments: Sequence[str] = (), **settings: Any
) -> Iterator[Site]:
    """uvicorn with the test site; see ``gunicorn`` for the rest."""
    if pooling is not None:
        settings["pooling"] = "{}/{}".format(*pooling)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.site.asgi:application", f"--host={HOST}"]
    command += [f"--port={port}", "--no-access-log", *arguments]
    with _running(command, port, environment_of(server, settings)) as site:
        yield site


@contextmanager
def uwsgi(
    server: DatabaseServer, *, pooling: tuple[int, int] | None, arguments: Sequence[str] = (), **settings: Any
) -> Iterator[Site]:
    """uWSGI with the test site; see ``gunicorn`` for the rest."""
    if pooling is not None:
        settings["pooling"] = "{}/{}".format(*pooling)
    port = free_port()
    command = [str(Path(sys.executable).with_name("pyuwsgi")), f"--http-socket={HOST}:{port}", "--master"]
    command += ["--module=tests.site.wsgi:application", f"--pythonpath={ROOT}", "--need-app"]
    command += ["--die-on-term", "--disable-logging", f"--socket-timeout={ANSWER_SECONDS:.0f}", *arguments]
    with _running(command, port, environment_of(server, settings)) as site:
        yield site


@contextmanager
def runserver(server: DatabaseServer, **settings: Any) -> Iterator[Site]:
    """Django's development server with the test site, pooled by INSTALLED_APPS."""
    port = free_port()
    command = [sys.executable, "-m", "django", "runserver", "--noreload", f"{HOST}:{port}"]
    with _running(command, port, environment_of(server, settings | {"apps": "django_db_pooling"})) as site:
        yield site


def environment_of(server: DatabaseServer, settings: dict[str, Any]) -> dict[str, str]:
    ours = ("SITE_", "GUNICORN_", "DJANGO_", "XDG_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    module = settings.pop("module", "tests.site.settings")
    environment |= {"DJANGO_SETTINGS_MODULE": module, "PYTHONUNBUFFERED": "1"}
    environment["SITE_DATABASE_URL"] = server.url(DATABASE)
    for name, value in settings.items():
        environment[f"SITE_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    return environment


@contextmanager
def served(
    server: DatabaseServer, command: Sequence[str], *, python: Path | None = None, **settings: Any
) -> Iterator[Site]:
    """Any web server, pooled by INSTALLED_APPS. ``{host}`` and ``{port}`` in its command are filled in.

    ``python``: that of an environment in which there is more than in ours.
    """
    port = free_port()
    settings.setdefault("apps", "django_db_pooling")
    command = [word.format(host=HOST, port=port) for word in command]
    with _running(in_environment(command, python), port, environment_of(server, settings)) as site:
        yield site


def in_environment(command: Sequence[str], python: Path | None = None) -> list[str]:
    """The command with the path of its program, which is installed beside ``python``, or is that."""
    python = python or Path(sys.executable)
    program = python if command[0] == "python" else python.with_name(command[0])
    return [str(program), *command[1:]]


@contextmanager
def _running(command: Sequence[str], port: int, environment: dict[str, str]) -> Iterator[Site]:
    with running(command, environment, port) as site:
        _wait_for_answer(site)
        yield site


@contextmanager
def running(command: Sequence[str], environment: dict[str, str], port: int = 0) -> Iterator[Site]:
    """The guard ends the program and removes its files, also when this process is killed."""
    directory = Path(tempfile.mkdtemp(prefix="site-"))
    guard = processes.start_guard(directory)
    try:
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment | {"HOME": str(directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.pid_file(directory).write_text(f"{process.pid} {int(processes.signal.SIGTERM)}")
        site = Site(port, directory, process, environment)
        try:
            yield site
        finally:
            processes.stop(process, STOP_SECONDS)
            # Where all is well there is nobody left.
            for member in processes.session(process.pid):
                processes.send(member, processes.signal.SIGKILL)
            # Shown by pytest where the test fails.
            print(site.log[-10_000:])
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _wait_for_answer(site: Site) -> None:
    deadline = time.monotonic() + START_SECONDS
    while site.process.poll() is None and time.monotonic() < deadline:
        if site.get("/nothing").status == 200:
            return
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"the site does not answer; its log:\n{site.log}")
