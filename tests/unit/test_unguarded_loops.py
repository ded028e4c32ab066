"""Where a loop stands inside of a ``try`` or ``with`` whose end must run, also if a signal handler raises."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import require_python
from tests.environments import find_python

ROOT = Path(__file__).parent.parent.parent
FINDER = Path(__file__).with_name("unguarded_loops.py")

SAMPLES = """
def while_condition(news, work):
    try:
        while news and news.pop():
            work()
    finally:
        news.clear()

def while_condition_before_a_return(lock, news):
    with lock:
        work = news.pop()
        while news and work(news):
            pass
        return work

def filter_of_a_list(lock, news):
    with lock:
        return [one for one in news if one]

def condition_in_a_for(lock, news):
    with lock:
        for one in news:
            if one:
                return one

def while_true_first(news, work):
    try:
        while True: work()
    finally:
        news.clear()

def in_a_function_of_its_own(news, work):
    def go_round():
        while news and news.pop():
            work()
    try:
        go_round()
    finally:
        news.clear()

def around_the_try(news, work):
    while news and news.pop():
        try:
            work()
        except ValueError:
            continue
        finally:
            news.clear()

def in_the_finally(news, work):
    try:
        work()
    finally:
        while news and news.pop():
            work()

def filter_with_nothing_around(news):
    return [one for one in news if one]

def generator(news):
    yield from news
    for one in news:
        if one:
            yield one
"""
FIRST_IN_TRY = {"while_true_first"}
WITH_A_CONDITION = {
    "while_condition",
    "while_condition_before_a_return",
    "filter_of_a_list",
    "condition_in_a_for",
}
FOUND = {
    "3.11": FIRST_IN_TRY,
    "3.12": FIRST_IN_TRY | WITH_A_CONDITION,
    "3.13": FIRST_IN_TRY | WITH_A_CONDITION,
}

versions = pytest.mark.parametrize("version", FOUND)


def functions_with_such_loops(version: str, folder: Path) -> set[str]:
    """In this Python, which may be another one than this: each has exception tables of its own."""
    python = require_python(version) if version == "3.13" else find_python(version)
    if python is None:
        pytest.skip(f"Python {version} is not on this machine")
    command = [str(python), str(FINDER), str(folder)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.splitlines())


@versions
def test_no_loop_stands_where_an_end_must_run(version: str) -> None:
    """It stands in a function of its own, which the ``try`` or ``with`` calls."""
    assert functions_with_such_loops(version, ROOT / "django_db_pooling") == set()


@versions
def test_such_loops_are_found(version: str, tmp_path: Path) -> None:
    (tmp_path / "samples.py").write_text(SAMPLES)
    found = functions_with_such_loops(version, tmp_path)
    assert {line.split(" ")[1] for line in found} == FOUND[version]
