"""HOST_LIMIT under gunicorn: all workers together never have more, and each gets its share."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.e2e.conftest import PATIENCE
from tests.e2e.observer import Observer
from tests.e2e.sites import Site, eventually, gunicorn
from tests.servers import DatabaseServer
from tests.unit.host_worker import Seen

LIMIT = 20
WORKERS = 8
POOL = {"HOST_LIMIT": LIMIT, "TIMEOUT": 60}
# Seconds, of which a machine at rest needs two.
SOON = 20.0


def held(site: Site) -> int:
    stats = site.stats()
    return int(stats["in_use"] + stats["idle"] + stats["opening"])


def seen_in(directory: Path) -> Seen:
    [path] = directory.glob("**/django_db_pooling-limit-*.lock")
    return Seen(path)


def assert_served(report: dict[str, Any], failed: frozenset[str] = frozenset()) -> None:
    """All that had an answer was; and nothing failed but so."""
    assert set(report["answered"]) == {"200"}, report
    assert failed.issuperset(report["failed"]), report


@pytest.mark.slow
def test_who_is_busy_gets_nearly_all_and_then_each_its_share(
    server: DatabaseServer, observer: Observer, tmp_path: Path
) -> None:
    with ExitStack() as started, observer.watching() as watch:
        settings = {"pooling": None, "apps": "django_db_pooling", "pool": POOL, "status_dir": str(tmp_path)}
        sites = [started.enter_context(gunicorn(server, **settings)) for _ in range(WORKERS)]
        for site in sites:
            assert site.get("/one").status == 200
        seen = seen_in(tmp_path)
        assert seen.processes == seen.open == WORKERS
        loads = [sites[0].load("/hold?s=0.05&pin", clients=40, seconds=120)]
        began = time.monotonic()
        eventually(lambda: held(sites[0]) >= LIMIT - 3, SOON)
        print(f"the busy one had its {held(sites[0])} after {time.monotonic() - began:.1f} s")
        eventually(lambda: seen.open == LIMIT == sites[0].stats()["host_open"], SOON)

        loads += [site.load("/hold?s=0.05&pin", clients=10, seconds=120) for site in sites[1:]]
        began = time.monotonic()
        eventually(lambda: all(held(site) >= LIMIT // WORKERS for site in sites), SOON)
        print(f"each had its share after {time.monotonic() - began:.1f} s: {[held(site) for site in sites]}")
        for _ in range(10):
            time.sleep(0.3)
            assert sum(held(site) >= LIMIT // WORKERS for site in sites) >= WORKERS - 1
            assert seen.open <= LIMIT
        for load in loads:
            assert_served(load.end())
        eventually(lambda: observer.connections() == seen.open, PATIENCE)
        assert all(site.stats()["timeouts"] == 0 for site in sites)
    assert watch.most <= LIMIT
    assert watch.connects < 1000, "they take connections from each other all the time"
    assert (seen.open, seen.processes, seen.needs) == (0, 0, 0)


# -- workers that come and go ------------------------------------------------------------------------


class Service:
    """A site of which the master may be another one by now."""

    def __init__(self, site: Site, pid_file: Path) -> None:
        self.site, self._pid_file = site, pid_file
        self.killed = 0

    @property
    def master(self) -> int:
        return int(self._pid_file.read_text())

    @property
    def workers(self) -> list[int]:
        return processes.family(self.master)[1:]

    def reloads(self) -> None:
        """Two generations side by side, three times."""
        for _ in range(3):
            before = set(self.workers)
            os.kill(self.master, signal.SIGHUP)
            eventually(lambda before=before: before.isdisjoint(self.workers), PATIENCE)
            time.sleep(1)

    def is_replaced(self) -> None:
        """As a deployment does: another master, and workers of its own, and then an end for the old one."""
        old = self.master
        os.kill(old, signal.SIGUSR2)
        second = self._pid_file.with_name(self._pid_file.name + ".2")
        eventually(lambda: second.exists() and len(processes.family(int(second.read_text()))) == 5, PATIENCE)
        new = int(second.read_text())
        time.sleep(3)
        os.kill(old, signal.SIGTERM)
        eventually(lambda: self._pid_file.exists() and self.master == new, PATIENCE)
        eventually(lambda: processes.has_ended(old), PATIENCE)
        time.sleep(2)

    def is_killed(self) -> None:
        """One worker after the other."""
        chance = random.Random(1)
        for _ in range(8):
            workers = self.workers
            if workers:
                os.kill(chance.choice(workers), signal.SIGKILL)
                self.killed += 1
            time.sleep(1)
        time.sleep(3)

    def is_left_alone(self) -> None:
        time.sleep(10)

    def end(self) -> None:
        master = self.master
        with suppress(ProcessLookupError):
            os.kill(master, signal.SIGTERM)
        # One that was just being started when it was told to end is waited for.
        eventually(lambda: processes.has_ended(master), 2 * PATIENCE)


@contextmanager
def running(server: DatabaseServer, directory: Path, *arguments: str) -> Iterator[Service]:
    pid_file = directory / "gunicorn.pid"
    arguments = ("--workers=4", f"--pid={pid_file}", *arguments)
    settings = {"pooling": None, "apps": "django_db_pooling", "pool": POOL, "status_dir": str(directory)}
    with gunicorn(server, arguments=arguments, **settings) as site:
        service = Service(site, pid_file)
        try:
            yield service
        finally:
            if pid_file.exists():
                service.end()


@contextmanager
def watched(seen: Callable[[], int]) -> Iterator[list[int]]:
    """What others have locked, again and again."""
    found: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            found.append(seen())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


WAYS = {
    "HUP": (Service.reloads, []),
    "USR2": (Service.is_replaced, []),
    "kill -9": (Service.is_killed, []),
    "--max-requests": (Service.is_left_alone, ["--max-requests=50", "--max-requests-jitter=20"]),
}


@pytest.mark.slow
# Each takes half a minute; the servers make no difference to it.
@pytest.mark.parametrize(
    ("way", "server"),
    [("HUP", "postgresql"), ("USR2", "mariadb"), ("kill -9", "postgresql"), ("--max-requests", "mariadb")],
    indirect=["server"],
)
def test_workers_come_and_go(way: str, server: DatabaseServer, observer: Observer, tmp_path: Path) -> None:
    act, arguments = WAYS[way]
    with observer.watching() as watch, running(server, tmp_path, *arguments) as service:
        assert service.site.get("/one").status == 200
        seen = seen_in(tmp_path)
        load = service.site.load("/hold?s=0.05&pin", clients=30, seconds=120)
        with watched(lambda: seen.open) as found:
            time.sleep(2)
            act(service)
        report = load.end()
        print(report, watch.highest)
        # Clients of a worker that was killed have no answer.
        assert_served(report, frozenset({"no answer", "reset"}) if service.killed else frozenset())
        assert report["begun"] > 100
        eventually(lambda: observer.connections() == seen.open, PATIENCE)
        assert max(found) == LIMIT, "there was no need of all"
        service.end()
        eventually(lambda: (seen.open, seen.processes, seen.needs) == (0, 0, 0), PATIENCE)
    # The kernel frees the bytes of a killed process as it closes its sockets. Others may open connections
    # before the server has read the ends of these: as many as a process of five had, at most.
    assert watch.most <= LIMIT + (LIMIT // 2 if service.killed else 0)
