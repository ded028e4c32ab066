"""The handler of a real signal raises anywhere in the pool: in this Python, and in 3.13.

There it may do so at the jump back of a loop, where neither ``except`` nor ``finally`` around the loop runs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require_python

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(params=["this", "3.13"])
def python(request: pytest.FixtureRequest) -> Path:
    return Path(sys.executable) if request.param == "this" else require_python(request.param)


def run(python: Path, module: str, *arguments: str) -> None:
    """In a process of its own: the pool needs nothing but Python, and pytest has alarms, too."""
    command = [str(python), "-m", f"tests.unit.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_storm_of_signals_loses_nothing(python: Path, seed: str) -> None:
    """Callers in other threads go on; who has to wait is served, or refused in time."""
    run(python, "signal_storm", seed, "1.5")


def test_who_is_struck_while_matching_leaves_no_claim(python: Path) -> None:
    """While it is there nobody is matched: whoever has to wait would wait for ever, with a timeout or not."""
    run(python, "signal_rounds", "match", "1")


def test_who_is_struck_while_waiting_leaves_the_queue(python: Path) -> None:
    run(python, "signal_rounds", "queue", "1")
