"""How many functions the hot path calls: a budget, so that nothing creeps in. Time is for the benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.calls import counting
from benchmarks.checkout import django_db_pooling
from benchmarks.variants import CEILING

ROOT = Path(__file__).parent.parent.parent
CHECKOUT_AND_CHECKIN = 9
# In Python, with what Django calls to make a wrapper, over what the same request costs on a wrapper that
# is always connected.
REQUEST = {"mysql": 85, "postgresql": 88}


def test_checkout_and_checkin() -> None:
    cycle = django_db_pooling()
    for _ in range(3):
        cycle()
    with counting() as count:
        cycle()
    # Without the call of cycle() itself.
    assert count.python - 1 <= CHECKOUT_AND_CHECKIN


@pytest.mark.parametrize("database", REQUEST)
def test_a_request_in_a_greenlet_of_its_own(database: str) -> None:
    ours, ceiling = (cycle(variant, database) for variant in ("django_db_pooling", CEILING))
    assert ours["round_trips"] == ceiling["round_trips"] == 1
    assert ours["connects"] == ceiling["connects"] == 0
    assert ours["calls"] - ceiling["calls"] <= REQUEST[database], (ours, ceiling)


def cycle(variant: str, database: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cycle", database]
    environment = {**os.environ, "BENCHMARK_VARIANT": variant, "BENCHMARK_POOL_SIZE": "20"}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures
