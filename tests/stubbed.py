"""What the benchmarks on stub drivers tell, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def figures(module: str, variant: str, *arguments: str, seconds: float = 60.0) -> Any:
    """The JSON that ``benchmarks.MODULE`` prints for a variant."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "BENCHMARK_VARIANT": variant, "BENCHMARK_POOL_SIZE": "20"},
        text=True,
        capture_output=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
