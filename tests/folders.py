"""Runs a folder of tests in a process of its own: a process has one driver, and gevent or not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS = 600


def run_folder(
    folder: str, concurrency: str, settings: Mapping[str, str], python: str | Path = sys.executable
) -> None:
    """Run ``python -m tests.<folder>``, whose output becomes ours, and fail where one of its tests fails.

    ``concurrency``: "gevent" or "threads". ``settings``: what the environment says besides.
    """
    environment = os.environ | settings | {"POOLING_GEVENT": "1" if concurrency == "gevent" else ""}
    command = [str(python), "-m", f"tests.{folder}", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, timeout=SECONDS, text=True, capture_output=True, check=False
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0
