"""That the LDAP benchmark still runs, for a second: what it finds is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.variants import BY_NAME
from tests.conftest import require, require_module
from tests.slapd import Slapd

ROOT = Path(__file__).parent.parent
VARIANT = BY_NAME["django_db_pooling, per operation"]


def test_a_second_of_it(tmp_path: Path) -> None:
    require(Slapd)
    require_module("ldapdb")
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.ldap", "--here", "--rst", "--variants", VARIANT.name]
    command += ["--rounds", "1", "--seconds", "1", "--warm-up", "0.5", "--clients", "2", "--tls-clients", "2"]
    command += ["--json", str(results)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=90)
    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text())
    assert not found["failures"]
    assert [run["database"] for run in found["runs"]] == list(VARIANT.databases)
    for run in found["runs"]:
        assert run["requests_per_second"] > 0
        assert (run["errors"], run["without_answer"]) == (0, 0), run["error_texts"]
        assert run["searches_per_request"] == pytest.approx(2, abs=0.2)
        assert run["connections"] <= 8
    assert VARIANT.name in done.stdout
