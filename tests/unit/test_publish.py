"""What a process reports of its pools."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.workers.publish import RECENT_SAMPLES, Publisher
from django_db_pooling.workers.reports import SAMPLE_SECONDS, SAMPLES
from tests.unit.test_overview import durations

NOW = 10_000.0


def stats(checkouts: int) -> PoolStats:
    return PoolStats("default", 5, 10, checkouts=checkouts, waits=durations(b0=checkouts))


def test_samples_are_taken_at_the_same_moments_by_all() -> None:
    publisher = Publisher()
    for second in range(12):
        publisher._sample({"default": stats(second)}, NOW + 3.3 + second)
    history = publisher.report({"default": stats(12)}, {}, []).pools["default"].history
    assert [(sample.at, sample.checkouts) for sample in history] == [
        (NOW, 0),
        (NOW + 5, 2),
        (NOW + 10, 7),
    ]


def test_what_is_recent_is_about_a_minute() -> None:
    publisher = Publisher()
    for number in range(SAMPLES * 2):
        publisher._sample({"default": stats(number)}, NOW + number * SAMPLE_SECONDS)
        told = publisher.report({"default": stats(number)}, {}, []).pools["default"]
        # All of them while the process is younger than that.
        assert told.waits.count == (number if number < RECENT_SAMPLES else RECENT_SAMPLES)
    assert len(told.history) == SAMPLES


def test_nothing_is_kept_of_an_alias_that_is_gone() -> None:
    publisher = Publisher()
    for tenant in range(3):
        publisher._sample({"default": stats(1), f"tenant {tenant}": stats(1)}, NOW + tenant * SAMPLE_SECONDS)
    assert [*publisher._history] == [*publisher._durations] == ["default", "tenant 2"]
    assert len(publisher._history["default"]) == 3


def test_a_report_on_demand_takes_no_sample() -> None:
    report = Publisher().report({"default": stats(3)}, {}, ["1", "2"])
    assert report.pools["default"].history == []
    assert (report.pid, report.carried_out) == (os.getpid(), ["1", "2"])


def test_the_age_of_a_process_stays_right_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    report = publisher.report({}, {}, [])
    assert 0 <= report.at - report.started_at < 60


def test_a_program_whose_name_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [os.fsdecode(b"/srv/caf\xe9")])
    Publisher().report({}, {}, []).program.encode()


def test_a_process_without_pools_or_settings_has_nothing_to_do_for_others() -> None:
    """As one with LDAP's connection managers only."""
    script = """
from django_db_pooling import pooling
from django_db_pooling.workers.agent import agent
pooling.patch()
print(agent.every_second())
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
