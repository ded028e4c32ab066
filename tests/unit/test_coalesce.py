from __future__ import annotations

import threading

import pytest

from django_db_pooling.pool.coalesce import Coalesced
from tests.unit.fakes import SOON, Caller, until


class Counted:
    """A function that counts its runs and notices when two overlap."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.inside = threading.Lock()

    def __call__(self) -> None:
        assert self.inside.acquire(blocking=False), "two runs overlap"
        self.begun += 1
        self.ended += 1
        self.inside.release()


def test_a_call_runs_the_function_once() -> None:
    counted = Counted()
    call = Coalesced(counted)
    call()
    call()
    assert counted.ended == 2


def test_a_call_during_a_run_returns_at_once_and_is_followed_by_a_whole_run() -> None:
    """The second thread finds a run under way, whose beginning it may have missed."""
    reached, go = threading.Event(), threading.Event()
    runs: list[int] = []

    def function() -> None:
        runs.append(len(runs))
        reached.set()
        assert go.wait(SOON)

    call = Coalesced(function)
    runner = Caller(call)
    assert reached.wait(SOON)
    for _ in range(3):
        Caller(call).result()
    assert runs == [0]
    assert call.running
    go.set()
    runner.result()
    assert runs == [0, 1]
    assert not call.running


def test_a_call_from_inside_of_a_run_neither_recurses_nor_waits() -> None:
    """As a finalizer does, which strikes anywhere in the same thread."""
    depth = 0
    runs: list[int] = []

    def function() -> None:
        nonlocal depth
        depth += 1
        runs.append(depth)
        if len(runs) == 1:
            call()
            call()
        depth -= 1

    call = Coalesced(function)
    call()
    assert runs == [1, 1]


def test_a_run_that_fails_is_told_and_frees_the_claim() -> None:
    answers = [ValueError("first"), KeyboardInterrupt("second")]
    runs: list[int] = []

    def function() -> None:
        runs.append(1)
        if answers:
            raise answers.pop(0)

    call = Coalesced(function)
    with pytest.raises(ValueError, match="first"):
        call()
    assert not call.running
    with pytest.raises(KeyboardInterrupt, match="second"):
        call()
    call()
    assert len(runs) == 3
    assert not call.running


def test_a_run_that_fails_leaves_nobody_behind_who_had_left_word() -> None:
    """Another thread comes during a run and leaves that to go round again. The run fails: who
    left word has gone its way and counts on a whole run.
    """
    reached, go = threading.Event(), threading.Event()
    runs: list[int] = []

    def function() -> None:
        runs.append(1)
        if len(runs) == 1:
            reached.set()
            assert go.wait(SOON)
            raise ValueError

    call = Coalesced(function)
    runner = Caller(call)
    assert reached.wait(SOON)
    Caller(call).result()
    go.set()
    with pytest.raises(ValueError):
        runner.result()
    assert len(runs) == 2


def test_it_keeps_running_until_the_word_that_was_left_is_heard() -> None:
    """The claim is given up before the word is read: whoever asks in between must not conclude
    that its word has been acted upon.
    """
    seen: list[bool] = []
    runs: list[int] = []

    class Claim(dict[None, object]):
        def clear(self) -> None:
            if not seen:
                Caller(call).result()
                super().clear()
                seen.append(call.running)
            super().clear()

    call = Coalesced(lambda: runs.append(1))
    call._claim = Claim()
    call()
    assert seen == [True]
    assert len(runs) == 2
    assert not call.running


def test_many_threads_never_overlap_and_each_call_is_followed_by_a_run() -> None:
    """Every call notes how many runs had begun before it: at the end more must have."""
    counted = Counted()
    call = Coalesced(counted)
    barrier = threading.Barrier(8)
    last_seen: list[int] = []

    def hammer() -> None:
        barrier.wait(SOON)
        for _ in range(2000):
            before = counted.begun
            call()
            until(lambda before=before: counted.ended > before)  # type: ignore[misc]
        last_seen.append(before)

    for caller in [Caller(hammer) for _ in range(8)]:
        caller.result(20)
    assert not call.running
    assert counted.begun == counted.ended > max(last_seen)
