"""``--pause --wait``: who counts as at work."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.management.base import CommandError

from django_db_pooling import status_dir
from django_db_pooling.management import orders
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.status_dir import Kind
from django_db_pooling.workers.publish import Publisher
from django_db_pooling.workers.reports import MAX_SILENCE, Report

WAIT = 1.0
BUSY = PoolStats("default", 5, 10, in_use=1, paused=60.0)
DONE = PoolStats("default", 5, 10, paused=60.0)


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = SimpleNamespace(DB_POOL_STATUS_DIR=tmp_path, SECRET_KEY="only for tests")
    monkeypatch.setattr(status_dir, "settings", settings)
    monkeypatch.setattr(orders, "aliases", lambda alias: ["default"])
    monkeypatch.setattr(orders, "SETTLED_SECONDS", WAIT / 2)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def report(pid: int, stats: PoolStats, ago: float = 0.0) -> Report:
    now = time.time()
    return replace(Publisher().report({"default": stats}, {}, []), pid=pid, at=now - ago, started_at=now - 99)


def write(report: Report) -> None:
    with status_dir.opened(make=True) as directory:
        directory.write(Kind.REPORT, report.id, json.dumps(asdict(report)).encode())


def remove(report: Report) -> None:
    with status_dir.opened() as directory:
        directory.remove(Kind.REPORT, report.id)


def falls_silent(pid: int, stats: PoolStats) -> Report:
    """In the middle of the wait."""
    last = report(pid, stats, MAX_SILENCE - WAIT / 4)
    write(last)
    return last


def test_a_process_that_falls_silent_is_still_at_work(process: subprocess.Popen[str]) -> None:
    falls_silent(process.pid, BUSY)
    told = rf"default: 1 in use, 0 opening, process {process.pid} silent for 1\d s\.$"
    with pytest.raises(CommandError, match=told):
        orders.wait_until_unused(None, WAIT)


def test_until_it_says_otherwise(process: subprocess.Popen[str]) -> None:
    last = falls_silent(process.pid, BUSY)
    before = orders._still_there({})
    time.sleep(WAIT / 2)
    assert orders._still_there(before) == before == {last.id: last}
    later = replace(report(process.pid, DONE), id=last.id)
    write(later)
    assert orders._still_there(before) == {last.id: later}
    orders.wait_until_unused(None, WAIT)


def test_or_is_gone(process: subprocess.Popen[str]) -> None:
    falls_silent(process.pid, BUSY)
    before = orders._still_there({})
    process.kill()
    process.wait()
    assert orders._still_there(before) == {}
    orders.wait_until_unused(None, WAIT)


def test_nobody_waits_for_one_that_had_nothing(process: subprocess.Popen[str]) -> None:
    falls_silent(process.pid, DONE)
    orders.wait_until_unused(None, WAIT)


def test_in_another_container_only_who_took_its_report_away_has_ended() -> None:
    ended, silent = (replace(report(1, BUSY, ago), pid_space="another one") for ago in (1, MAX_SILENCE - 0.2))
    write(ended)
    write(silent)
    before = orders._still_there({})
    assert before.keys() == {ended.id, silent.id}
    time.sleep(0.3)
    remove(ended)
    assert orders._still_there(before) == {silent.id: silent}
