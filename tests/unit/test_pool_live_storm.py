"""Storms that the system drives, with pre-emption and real wakeups: nothing is lost in them either."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from django_db_pooling import log
from django_db_pooling.pool import slots
from django_db_pooling.process import wakeup
from tests.unit.live_storm import Storm

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("seed", range(1, 3))
def test_a_storm_of_threads_loses_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connects, looks and closes fail, slots are dropped, deadlines pass; threads switch often."""
    monkeypatch.setattr(slots, "CLOSE_WAIT", 0.0)
    monkeypatch.setattr(wakeup, "RECHECK_INTERVAL", 3600.0)
    monkeypatch.setattr(log.logger, "disabled", True)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        Storm(seed, 1.5).run()
    finally:
        sys.setswitchinterval(before)


def blow(storm: str, seed: int) -> None:
    """In a process that gevent has patched. It fails also when some point was never hit."""
    command = [sys.executable, "-m", f"tests.unit.{storm}", str(seed), "1.5"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("seed", range(1, 3))
def test_a_storm_of_greenlets_loses_nothing(seed: int) -> None:
    """As above, and greenlets are killed and timed out at every point where they switch."""
    blow("green_storm", seed)


@pytest.mark.parametrize("seed", range(1, 3))
def test_a_storm_of_threads_and_greenlets_loses_nothing(seed: int) -> None:
    """As above, in five native threads: connections are used in their own hub, all else is shared."""
    blow("hubs_storm", seed)
