"""Runs tests/ldap_manager once more, in greenlets, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require, require_module
from tests.slapd import Slapd

ROOT = Path(__file__).parent.parent
SECONDS = 300


# In gevent a signal's handler runs in whatever greenlet is at it, the hub too.
ONLY_IN_THREADS = {"test_signals.py"}
PARTS = {path.name for path in (ROOT / "tests/ldap_manager").glob("test_*.py")} - ONLY_IN_THREADS


@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("part", sorted(PARTS))
def test_the_connection_manager_under_gevent(part: str) -> None:
    require(Slapd)
    require_module("ldap")
    command = [sys.executable, "-m", "tests.ldap_manager", part, "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTEST_ADDOPTS": ""}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, timeout=SECONDS, text=True, capture_output=True, check=False
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0
