"""Starts the process of one run and brings back its report."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import django

from tests.caches import cache_directory
from tests.conformance.databases import DATABASES
from tests.conformance.source import django_tests
from tests.conformance.spec import Report, Spec

ROOT = Path(__file__).parent.parent.parent
LOG_END = 3000

# Process ids, each one's group being its own.
_under_way: set[int] = set()


class RunFailed(Exception):
    """A run came to no end; the message has the end of its output."""


@dataclass(frozen=True)
class Run:
    """One group of tests, or a part of it, on one database, with or without the patch."""

    database: str
    group: str
    labels: tuple[str, ...]
    transactions: bool
    parallel: int
    # None: without the patch.
    scope: str | None = None

    def __str__(self) -> str:
        return f"{self.database} {self.group} {f'in {self.scope} scope' if self.scope else 'unpatched'}"


def report_of(run: Run, seconds: float, fresh: bool) -> Report:
    """Run it. What Django does without the patch is kept from an earlier time, unless ``fresh``."""
    if run.scope is not None:
        return _run(run, seconds)
    kept = _place(run)
    if fresh or not kept.exists():
        report = _run(run, seconds)
        kept.parent.mkdir(parents=True, exist_ok=True)
        report.write(kept)
    return Report.read(kept)


def _place(run: Run) -> Path:
    """Where the report is kept: named after all that it depends on."""
    server = DATABASES[run.database].server
    driver: Any = importlib.import_module(DATABASES[run.database].driver)
    binary = server.find() if server else None
    depends_on = {
        **asdict(run),
        "Django": django.get_version(),
        "Python": platform.python_version(),
        "driver": getattr(driver, "__version__", driver.__name__),
        "server": [binary, os.stat(binary).st_mtime] if binary else None,
        "program": [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))],
    }
    digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]
    return cache_directory() / "unpatched" / f"{run.database}-{run.group}-{digest}.json"


def _run(run: Run, seconds: float) -> Report:
    tests = django_tests()
    with tempfile.TemporaryDirectory(prefix="conformance-") as output:
        database = DATABASES[run.database]
        with database.settings(Path(output)) as databases:
            spec = Spec(databases, database.driver, run.scope, run.transactions, output)
            log = Path(output, "log")
            environment = os.environ | spec.environment() | {"TMPDIR": output, "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-m", "tests.conformance.child", "--noinput"]
            command += [f"--parallel={run.parallel}", *run.labels]
            status = _call(command, tests, environment, log, seconds)
        path = Report.path(output)
        if status not in (0, 1) or not path.exists():
            end = log.read_text(errors="replace")[-LOG_END:]
            raise RunFailed(f"{run}: {_ending(status, seconds)} and no report. The end of its output:\n{end}")
        return Report.read(path)


def _ending(status: int | None, seconds: float) -> str:
    return f"not done after {seconds:.0f} s" if status is None else f"ended with status {status}"


def _call(
    command: list[str], directory: Path, environment: dict[str, str], log: Path, seconds: float
) -> int | None:
    """The exit status, None if that took too long. Whatever happens, no process of it is left."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _under_way.add(process.pid)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill(process.pid)
            process.wait()
            _under_way.discard(process.pid)


def stop() -> None:
    """End all runs that are under way."""
    for pid in list(_under_way):
        _kill(pid)


def _kill(pid: int) -> None:
    # With its children, which Django's tests may have left.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
