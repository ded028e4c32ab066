"""One test for each thing that can become of a test."""

import faulthandler
import os
import signal
import time
from collections.abc import Iterator

import pytest

SAMPLE = os.environ["SAMPLE"]


def test_passes(shared: list[str]) -> None:
    shared.append("passed")
    print("printed by the one that passes")


def test_fails(shared: list[str]) -> None:
    assert shared == ["passed"]
    print("printed by the one that fails")
    what = SAMPLE
    assert what == "as expected"


def test_is_skipped() -> None:
    pytest.skip("a reason")


@pytest.fixture
def broken() -> Iterator[None]:
    yield
    raise ValueError("the end of the fixture")


def test_fails_twice(broken: None) -> None:
    raise KeyError("the test")


@pytest.mark.parametrize("number", [1, 2])
def test_has_parameters(number: int) -> None:
    assert number == 1 or SAMPLE == "one"


def test_is_too_slow() -> None:
    time.sleep(60)


def test_hangs() -> None:
    print("printed before it hangs")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(600)


def test_ends_its_process() -> None:
    print("printed before the end")
    os._exit(3)


def test_crashes() -> None:
    print("printed before the crash")
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def test_leaves_a_fork() -> None:
    """Which goes on as if it were the one to report."""
    os.fork()


def test_passes_in_a_new_process(shared: list[str]) -> None:
    assert shared == []
