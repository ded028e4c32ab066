"""What a process tells of its pools."""

from __future__ import annotations

import os
import time
from pathlib import Path

from django_db_pooling.stats import PoolStats
from django_db_pooling.workers import RECENT_SAMPLES, SAMPLE_SECONDS, SAMPLES, Publisher, _clear_away
from tests.unit.test_overview import durations

NOW = 10_000.0


def stats(checkouts: int) -> PoolStats:
    return PoolStats("default", 5, 10, checkouts=checkouts, waits=durations(b0=checkouts))


def test_samples_are_taken_at_the_same_moments_by_all() -> None:
    publisher = Publisher()
    for second in range(12):
        publisher._sample({"default": stats(second)}, NOW + 3.3 + second)
    history = publisher.report({"default": stats(12)}, [], []).pools["default"].history
    assert [(sample.at, sample.checkouts) for sample in history] == [
        (NOW, 0),
        (NOW + 5, 2),
        (NOW + 10, 7),
    ]


def test_what_is_recent_is_about_a_minute() -> None:
    publisher = Publisher()
    for number in range(SAMPLES * 2):
        publisher._sample({"default": stats(number)}, NOW + number * SAMPLE_SECONDS)
        told = publisher.report({"default": stats(number)}, [], []).pools["default"]
        # All of them while the process is younger than that.
        assert told.waits.count == (number if number < RECENT_SAMPLES else RECENT_SAMPLES)
    assert len(told.history) == SAMPLES


def test_a_report_on_demand_takes_no_sample() -> None:
    report = Publisher().report({"default": stats(3)}, [], [1, 2])
    assert report.pools["default"].history == []
    assert (report.pid, report.obeyed) == (os.getpid(), [1, 2])


def test_what_killed_processes_have_left_is_cleared_away(tmp_path: Path) -> None:
    for name in ("1.json", "2.new", "3.new-order", "4.json"):
        (tmp_path / name).touch()
        if name != "4.json":
            os.utime(tmp_path / name, (0, time.time() - 60))
    _clear_away(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["4.json"]
