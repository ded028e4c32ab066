"""HOST_LIMIT where 50 processes open connections and die at random: the server and the file agree."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import PATIENCE
from tests.e2e.observer import Observer
from tests.e2e.sites import ROOT, environment_of, eventually
from tests.e2e.test_host_limit import LIMIT, POOL, seen_in
from tests.servers import DatabaseServer

ROUNDS = 8
SECONDS = 5.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_the_file_agrees_with_the_server(
    seed: int, server: DatabaseServer, observer: Observer, tmp_path: Path
) -> None:
    settings = {
        "apps": "django_db_pooling",
        "pool": POOL | {"SLOW_CHECKOUT": None},
        "status_dir": str(tmp_path),
    }
    command = [sys.executable, "-m", "tests.e2e.host_storm", str(seed)]
    with (
        (tmp_path / "errors").open("wb") as errors,
        observer.watching() as watch,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment_of(server, settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        seen = seen_in(tmp_path)
        most = 0
        for _ in range(ROUNDS):
            over = time.monotonic() + SECONDS
            while time.monotonic() < over:
                most = max(most, seen.open)
                time.sleep(0.01)
            process.stdin.write(b"\n")
            told = process.stdout.readline()
            assert told.startswith(b"quiet"), told
            # Those who were in the middle of something come to its end.
            eventually(lambda: seen.needs == 0, PATIENCE)
            time.sleep(0.3)
            eventually(lambda: observer.connections() == seen.open, PATIENCE)
            print(told, seen.open, observer.connections(), seen.processes)
            process.stdin.write(b"\n")
            assert process.stdout.readline().startswith(b"storm")
        process.stdin.close()
        process.wait(PATIENCE)
        eventually(lambda: observer.connections() == 0, PATIENCE)
        assert (seen.open, seen.processes, seen.needs) == (0, 0, 0)
    print(watch, most)
    assert (tmp_path / "errors").read_text() == ""
    assert most == LIMIT, "there was no need of all"
    # What a killed process had is free before the server has read that it is gone.
    assert watch.most <= LIMIT + 5
    assert watch.connects > 100
