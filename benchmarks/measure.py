"""One measurement: a site under gunicorn, the load generator, and what the database server counts."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, only_benchmarks
from benchmarks.variants import Variant
from tests import processes
from tests.e2e import observer as observing
from tests.e2e.observer import DATABASE, Observer
from tests.servers import HOST, DatabaseServer, free_port

START_SECONDS = 30.0
STOP_SECONDS = 5.0
QUIET_SECONDS = 20.0
POLL_SECONDS = 0.02
# Beyond warm-up and measuring: for the generator's start and end.
LOAD_SECONDS = 30.0

# The maximum of connections and the number of connects are what the server itself counts. The samples between
# would only take CPU time from it, most from those who have many connections.
observing.SAMPLE_SECONDS = 1.0


class DoesNotRun(Exception):
    """The site doesn't start; the message is the last line of its log."""


@dataclass(frozen=True)
class Case:
    """The load, the same for all variants."""

    view: str
    clients: int
    keep_alive: bool

    def __str__(self) -> str:
        return f"{self.view}, {self.clients} clients, {'' if self.keep_alive else 'no '}keep-alive"


@dataclass(frozen=True)
class Effort:
    """For how long, and with how many connections."""

    warm_up: float
    seconds: float
    pool_size: int


def measure(
    variant: Variant,
    python: Path,
    server: DatabaseServer,
    observer: Observer,
    case: Case,
    effort: Effort,
    url: str | None = None,
) -> dict[str, Any]:
    """``url``: of what stands before the server. Raises DoesNotRun."""
    wait_for_quiet(observer.connections)
    tls = {"BENCHMARK_TLS": "yes"} if server.tls else {}
    with (
        site(variant, python, url or server.url(DATABASE), effort, **tls) as (port, process),
        observer.watching() as watch,
    ):
        result = load_on(port, process, case, effort)
    result["connections"] = max(watch.most, watch.highest)
    result["connects"] = watch.connects
    result["connects_per_request"] = watch.connects / max(result["finished"], 1)
    return {"variant": variant.name, **asdict(case), **result}


def load_on(port: int, process: subprocess.Popen[bytes], case: Case, effort: Effort) -> dict[str, Any]:
    """What the load generator reports of a site and its worker."""
    workers = processes.family(process.pid)[1:]
    arguments = [f"--view={case.view}", f"--clients={case.clients}"]
    arguments += ["--keep-alive"] if case.keep_alive else []
    return generate_load(port, effort, *arguments, "--pids", *map(str, workers))


def generate_load(port: int, effort: Effort, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.load", f"--port={port}", f"--seconds={effort.seconds}"]
    command += [f"--warm-up={effort.warm_up}", *arguments]
    limit = effort.warm_up + effort.seconds + LOAD_SECONDS
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=limit).stdout
    report: dict[str, Any] = json.loads(output)
    return report


def generator_alone(case: Case, effort: Effort) -> dict[str, Any]:
    """The limit of the load generator, with the cheapest possible site."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.trivial", str(port)]
    with _running(command, port, ROOT, {}) as process:
        arguments = [f"--clients={case.clients}", *(["--keep-alive"] if case.keep_alive else [])]
        result = generate_load(port, effort, *arguments, "--pids", str(process.pid))
    return {**asdict(case), **result}


@contextmanager
def site(
    variant: Variant, python: Path, url: str, effort: Effort, **more: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The benchmark site on a port; ``more`` goes to its environment. Raises DoesNotRun."""
    environment = {
        "BENCHMARK_VARIANT": variant.name,
        "BENCHMARK_DATABASE_URL": url,
        "BENCHMARK_POOL_SIZE": str(effort.pool_size),
        **more,
    }
    port = free_port()
    command = [str(python), "-m", "gunicorn", "benchmarks.site.wsgi:application", f"--bind={HOST}:{port}"]
    command += ["--worker-class=gevent", "--workers=1", "--keep-alive=60", "--log-level=error"]
    command += ["--graceful-timeout=1"]
    with only_benchmarks() as directory, _running(command, port, directory, environment) as process:
        yield port, process


@contextmanager
def _running(
    command: list[str], port: int, directory: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A web server; the guard ends it when this process is killed."""
    unwanted = ("PYTHON", "DJANGO_", "GUNICORN_", "BENCHMARK_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    with tempfile.TemporaryDirectory(prefix="guarded-") as files:
        log = Path(files) / "log"
        guard = processes.start_guard(Path(files))
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    cwd=directory,
                    env=inherited | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            pid_file = processes.pid_file(Path(files))
            pid_file.write_text(f"{process.pid} {int(processes.signal.SIGTERM)}")
            try:
                _wait_for_answer(process, port, log)
                yield process
            finally:
                processes.stop(process, STOP_SECONDS)
                pid_file.unlink()
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait()


def _wait_for_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(HOST, port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/nothing")
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status == 200:
                return
            raise DoesNotRun(text.strip()[:200])
        except OSError:
            time.sleep(POLL_SECONDS)
        finally:
            connection.close()
    errors = [line for line in log.read_text(errors="replace").splitlines() if "Error: " in line]
    raise DoesNotRun(errors[-1].strip()[:200] if errors else f"no answer within {START_SECONDS:.0f} s")


def wait_for_quiet(connections: Callable[[], int]) -> None:
    """Wait until the server has closed the last site's connections."""
    deadline = time.monotonic() + QUIET_SECONDS
    while connections() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
