"""Storms that can be replayed: every suspension point is hit by timeouts and kills, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.fibers import Fiber, GreenFiber, ThreadFiber
from tests.unit.storm import LEAST_HITS, Storm

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(("seed", "kind"), [(1, GreenFiber), (2, GreenFiber), (3, ThreadFiber)])
def test_a_storm_hits_every_point_and_loses_nothing(seed: int, kind: type[Fiber]) -> None:
    """Each step is followed by all invariants, and at the end the whole pool can be had."""
    storm = Storm(seed, kind).run()
    assert min(storm.hits.values()) >= LEAST_HITS, storm.table()
    assert storm.hits.total() > 1000, storm.table()


def test_a_seed_decides_everything() -> None:
    """Greenlets and threads, this process and another one, whose hashes differ: all do the same."""
    storm = Storm(4, GreenFiber).run(least_hits=0)
    assert storm.digest != Storm(5, GreenFiber).run(least_hits=0).digest
    assert storm.world.journal == Storm(4, ThreadFiber).run(least_hits=0).world.journal
    command = [sys.executable, "-m", "tests.unit.storm", "4", "0"]
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=60)
    assert (done.stderr, done.stdout) == ("", storm.table() + "\n")
