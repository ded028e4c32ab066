"""uWSGI forks without telling Python: its workers have nothing of the master's, and all that they need."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.conftest import require_module
from tests.e2e.checks import PATIENCE
from tests.e2e.observer import DATABASE, Observer
from tests.e2e.sites import ROOT, Site, eventually, uwsgi
from tests.servers import DatabaseServer
from tests.soak import HALF_WRITTEN

WORKERS = 2
SIZE = 2
MOST = 4
THREADS = [f"--threads={MOST + 2}"]
GEVENT = ["--gevent=50", "--gevent-early-monkey-patch"]
ROLLED_BACK = re.compile(r"^(\d+) .*transaction left open was rolled back", re.MULTILINE)
MASTER = re.compile(r"^the master's connection is (\d+)$", re.MULTILINE)
MULE = re.compile(r"^the mule's connection is (\d+)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def is_installed() -> None:
    require_module("pyuwsgi")


class Master:
    """The process that forks the workers, and its sessions."""

    def __init__(self, observer: Observer, directory: Path) -> None:
        self._observer = observer
        self._fifo = directory / "fifo"
        self._last_used: dict[int, Any] = {}
        os.mkfifo(self._fifo)

    @property
    def many(self) -> dict[str, str]:
        """Settings with which one of its connections is idle, one pinned and one in a transaction."""
        return {"query_at_start": "in two threads", "transaction_until": str(self._fifo)}

    def begin(self) -> list[int]:
        """Remember which connections it has, at a moment when nobody else has any."""
        numbers = self._observer.numbers()
        self._last_used = {number: self._observer.last_used()[number] for number in numbers}
        return numbers

    def assert_is_undisturbed(self) -> None:
        """Its sessions are there, and nobody has used one."""
        last_used = self._observer.last_used()
        assert {number: last_used.get(number) for number in self._last_used} == self._last_used

    def end(self, site: Site) -> int:
        """It ends its transaction, on the connection on which that was begun; the number of that."""
        self._fifo.write_bytes(b"end")
        eventually(lambda: MASTER.search(site.log), PATIENCE)
        [number] = MASTER.findall(site.log)
        return int(number)


@pytest.fixture
def master(observer: Observer, tmp_path: Path) -> Master:
    return Master(observer, tmp_path)


@pytest.fixture(autouse=True)
def nothing_half_written(server: DatabaseServer) -> None:
    server.execute("DELETE FROM site_mark", DATABASE)


def site_of(
    server: DatabaseServer, arguments: list[str], directory: Path, **settings: Any
) -> AbstractContextManager[Site]:
    settings |= {"apps": "django_db_pooling", "status_dir": str(directory / "status")}
    (directory / "status").mkdir(mode=0o700)
    return uwsgi(server, pooling=(SIZE, MOST), arguments=[f"--processes={WORKERS}", *arguments], **settings)


def workers(site: Site) -> set[int]:
    return set(processes.family(site.pid)) - {site.pid}


def assert_each_worker(site: Site, found: Callable[[], set[int]]) -> None:
    """Each is found at last: who answers a request is the system's choice."""
    eventually(lambda: len(workers(site)) == WORKERS and found() >= workers(site), PATIENCE)


def who_rolls_back(site: Site) -> set[int]:
    """In whose log it stands that a request has left a transaction open."""
    site.get_all(["/left_open?t=token"] * 4)
    return {int(pid) for pid in ROLLED_BACK.findall(site.log)}


def who_is_heard(site: Site) -> set[int]:
    done = site.manage("db_pools", "--json")
    return {worker["pid"] for worker in json.loads(done.stdout)["workers"]}


def assert_all_is_well(site: Site, server: DatabaseServer) -> None:
    """Right answers, whole transactions, and of each worker a log and a place in the overview."""
    paths = [f"{path}?t=TOKEN" for path in ("/token", "/transaction", "/mixed")]
    report = site.load(*paths, clients=12, seconds=1).report()
    print(report)
    assert report["wrong"] == []
    assert (report["failed"], report["errors"]) == ({}, {})
    assert report["answered"] == {"200": report["begun"]}
    assert server.execute(HALF_WRITTEN, DATABASE) == []
    assert_each_worker(site, lambda: who_rolls_back(site))
    assert_each_worker(site, lambda: who_is_heard(site))


def kill_a_worker(site: Site) -> None:
    """Return when another one has taken its place."""
    victim = min(workers(site))
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in workers(site) and len(workers(site)) == WORKERS, PATIENCE)


@pytest.mark.parametrize(
    ("arguments", "scope"),
    [
        pytest.param([], "request", id="processes-request"),
        pytest.param(THREADS, "request", id="threads-request"),
        pytest.param(THREADS, "transaction", id="threads-transaction"),
    ],
)
def test_workers_have_nothing_of_the_masters(
    arguments: list[str],
    scope: str,
    server: DatabaseServer,
    observer: Observer,
    master: Master,
    tmp_path: Path,
) -> None:
    with site_of(server, arguments, tmp_path, pool={"SCOPE": scope}, **master.many) as site:
        of_master = master.begin()
        assert len(of_master) == 3
        # Its own, and the one in the transaction. Another one could be at work when it forks a worker, whose
        # interpreter would then wait for that for ever.
        assert len(processes.thread_states(site.pid)) == 2
        assert_all_is_well(site, server)
        kill_a_worker(site)
        assert_all_is_well(site, server)
        master.assert_is_undisturbed()
        assert master.end(site) in of_master
        assert site.terminate() == 0
    eventually(lambda: observer.connections() == 0, PATIENCE)


def test_greenlets_have_nothing_of_the_masters(
    server: DatabaseServer, observer: Observer, master: Master, tmp_path: Path
) -> None:
    with site_of(server, GEVENT, tmp_path, query_at_start="yes") as site:
        assert len(master.begin()) == 1
        assert_all_is_well(site, server)
        master.assert_is_undisturbed()
        assert site.terminate() == 0
    eventually(lambda: observer.connections() == 0, PATIENCE)


def test_a_mule_has_nothing_of_the_masters(
    server: DatabaseServer, observer: Observer, master: Master, tmp_path: Path
) -> None:
    with site_of(server, [f"--mule={ROOT}/tests/site/mule.py"], tmp_path, **master.many) as site:
        eventually(lambda: len(who_is_heard(site) - {site.pid}) == 1, PATIENCE)
        [number] = MULE.findall(site.log)
        of_both = {int(number), master.end(site)}
        assert len(of_both) == 2
        assert of_both <= set(observer.numbers())


@pytest.mark.parametrize(
    ("arguments", "pool", "at_rest"),
    [
        pytest.param(THREADS, {}, WORKERS * SIZE, id="threads"),
        pytest.param([*THREADS, "--lazy-apps"], {"IDLE_TIMEOUT": 1}, 0, id="threads-lazy"),
        pytest.param([*GEVENT, "--lazy-apps"], {"IDLE_TIMEOUT": 1}, 0, id="gevent-lazy"),
    ],
)
def test_workers_of_a_master_that_has_not_queried_close_what_they_have_too_many_of(
    arguments: list[str],
    pool: dict[str, int],
    at_rest: int,
    server: DatabaseServer,
    observer: Observer,
    tmp_path: Path,
) -> None:
    with site_of(server, arguments, tmp_path, pool=pool) as site:
        assert observer.connections() == 0
        assert_all_is_well(site, server)
        eventually(lambda: hold(site) and observer.connections() > WORKERS * SIZE, PATIENCE)
        eventually(lambda: observer.connections() <= at_rest, PATIENCE)
        assert site.terminate() == 0
    eventually(lambda: observer.connections() == 0, PATIENCE)


def hold(site: Site) -> bool:
    """Hold many connections at once."""
    answers = site.get_all(["/hold?s=0.3&pin"] * 2 * WORKERS * MOST)
    assert {answer.status for answer in answers} == {200}, answers
    return True
