"""That callgrind counts a request's instructions and no others, and nearly the same number again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.variants import CEILING
from tests.stubbed import ROOT

VARIANT = "django_db_pooling"


def test_the_same_again(tmp_path: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed; `make benchmark-instructions` as root installs it")
    first, second = (instructions(tmp_path / name) for name in ("first", "second"))
    assert first == pytest.approx(second, rel=0.01)
    for at_once in (1, 100):
        ceiling, ours = first[CEILING, at_once], first[VARIANT, at_once]
        # A request of Django's alone has hundreds of function calls, importing it some hundred millions.
        assert 500_000 < ceiling < 3_000_000
        assert ceiling / 2 < ours < ceiling * 2


def instructions(path: Path) -> dict[Any, Any]:
    command = [sys.executable, "-m", "benchmarks.instructions", "--here", "--rst", "--requests", "200"]
    command += ["--database", "postgresql", "--work", "query", "--variants", CEILING, VARIANT]
    done = subprocess.run([*command, "--json", path], cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "of in order" in done.stdout
    return {(run["variant"], run["at_once"]): run["instructions"] for run in json.loads(path.read_text())}
