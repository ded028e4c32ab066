"""A short soak on each server, in one scope each; ``make soak`` takes longer and does all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import require
from tests.e2e.sites import ROOT
from tests.soak import SERVERS

MINUTES = 0.5


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "scope"), [("mariadb", "request"), ("postgresql", "transaction")])
def test_whatever_breaks_no_result_is_wrong_and_nothing_is_lost(kind: str, scope: str) -> None:
    require(SERVERS[kind])
    command = [sys.executable, "-m", "tests.soak", f"--minutes={MINUTES}", f"--server={kind}"]
    assert subprocess.run([*command, f"--scope={scope}"], cwd=ROOT).returncode == 0
